//! The last valid version of every file, and the pods that they request together.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

use super::super::manifest::{self, Parsed};
use super::super::{Error, Given, Objects, PodKey, Source};
use super::folder::Stamp;

/// Annotation of a static pod with its file or URL.
const ORIGIN: &str = "podbay.io/config.origin";

/// Annotation with the time at which it was first read.
const SEEN: &str = "kubernetes.io/config.seen";

/// The files and URLs by name.
pub(super) struct Sheet {
    node: String,
    pages: BTreeMap<PathBuf, Page>,
    /// Faults of directories.
    troubles: BTreeMap<PathBuf, String>,
    /// Objects defined twice, by the page that lost.
    doubles: Vec<(PathBuf, String)>,
    /// Whether something changed since the last [`Sheet::settle`].
    fresh: bool,
    /// The page that each pod is taken from; a new page does not take it over.
    owners: BTreeMap<PodKey, PathBuf>,
    /// What was last reported; `None` before the first successful look.
    told: Option<BTreeMap<PodKey, Given>>,
}

/// A file or URL.
#[derive(Default)]
struct Page {
    source: Source,
    stamp: Option<Stamp>,
    digest: Option<[u8; 32]>,
    /// The objects of the last readable text.
    parsed: Option<Parsed>,
    /// When it was first read.
    seen: Option<Time>,
    /// Its pods in the last valid version.
    good: Vec<Given>,
    /// Why the text or its pods are invalid.
    text_fault: Option<String>,
    pod_fault: Option<String>,
    /// Whether it was missing at the last look.
    missing: bool,
}

impl Sheet {
    pub fn new(node: String) -> Self {
        Self {
            node,
            pages: BTreeMap::new(),
            troubles: BTreeMap::new(),
            doubles: Vec::new(),
            fresh: false,
            owners: BTreeMap::new(),
            told: None,
        }
    }

    /// Adds the pods of the previous run, valid until their page says otherwise, if it is still
    /// watched.
    pub fn remember(&mut self, last: Vec<Given>, still: impl Fn(Source, &Path) -> bool) {
        for given in last {
            let notes = given.pod.metadata.annotations.as_ref();
            let Some(origin) = notes.and_then(|notes| notes.get(ORIGIN)) else { continue };
            let origin = PathBuf::from(origin);
            if !still(given.source, &origin) {
                continue;
            }
            self.owners.insert(given.key(), origin.clone());
            let page = self.pages.entry(origin).or_default();
            page.source = given.source;
            page.good.push(given);
        }
    }

    /// Metadata of the known files, so that only changed ones are read.
    pub fn stamps(&self) -> BTreeMap<PathBuf, Stamp> {
        let stamps = self.pages.iter();
        stamps.filter_map(|(path, page)| Some((path.clone(), page.stamp?))).collect()
    }

    pub fn stamp(&mut self, path: &Path, stamp: Option<Stamp>) {
        if let Some(page) = self.pages.get_mut(path) {
            page.stamp = stamp;
        }
    }

    /// Takes a text, or the reason why there is none.
    pub fn offer(
        &mut self,
        path: &Path,
        source: Source,
        text: Result<Vec<u8>, String>,
        now: &Time,
    ) {
        self.fresh = true;
        let page = self.pages.entry(path.to_owned()).or_default();
        page.source = source;
        page.missing = false;
        let text = match text {
            Ok(text) => text,
            Err(why) => {
                page.text_fault = Some(why);
                return;
            }
        };
        let digest: [u8; 32] = Sha256::digest(&text).into();
        if page.digest == Some(digest) && page.parsed.is_some() {
            page.text_fault = None;
            return;
        }
        match manifest::parse_source(&text) {
            Ok(mut parsed) => {
                for pod in &mut parsed.pods {
                    if let Some(spec) = &mut pod.spec {
                        spec.node_name.get_or_insert_with(|| self.node.clone());
                    }
                }
                page.parsed = Some(parsed);
                page.digest = Some(digest);
                page.seen = Some(now.clone());
                page.text_fault = None;
            }
            Err(error) => page.text_fault = Some(error.to_string()),
        }
    }

    /// Removes pages missing for the second time; returns whether some are missing for the first
    /// time.
    pub fn keep_only(&mut self, present: &BTreeSet<PathBuf>) -> bool {
        let mut unsettled = false;
        self.pages.retain(|path, page| {
            let gone = page.source == Source::File && !present.contains(path);
            let gone_twice = gone && page.missing;
            self.fresh |= gone_twice;
            unsettled |= gone && !gone_twice;
            page.missing = gone;
            !gone_twice
        });
        self.looked();
        unsettled
    }

    /// Notes a successful look, which is reported even if there are no pods.
    pub fn looked(&mut self) {
        self.fresh |= self.told.is_none();
    }

    /// Sets the fault of a directory.
    pub fn trouble(&mut self, folder: &Path, why: Option<String>) {
        match why {
            Some(why) => self.troubles.insert(folder.to_owned(), why),
            None => self.troubles.remove(folder),
        };
    }

    pub fn faults(&self) -> Vec<(PathBuf, String)> {
        let troubles = self.troubles.iter().map(|(path, why)| (path.clone(), why.clone()));
        let of_pages = self.pages.iter().flat_map(|(path, page)| {
            let faults = page.text_fault.iter().chain(&page.pod_fault);
            faults.map(|why| (path.clone(), why.clone()))
        });
        troubles.chain(of_pages).chain(self.doubles.iter().cloned()).collect()
    }

    /// All pods together, if they changed.
    pub fn settle(&mut self) -> Option<BTreeMap<PodKey, Given>> {
        if !std::mem::take(&mut self.fresh) {
            return None;
        }
        let mut doubles = Vec::new();
        let objects = self.objects(&mut doubles);
        for (path, page) in &mut self.pages {
            page.refresh(path, &self.node, &objects);
        }
        let mut wanted: BTreeMap<PodKey, Given> = BTreeMap::new();
        let mut owners = self.kept_owners();
        for (path, page) in &self.pages {
            for given in &page.good {
                let key = given.key();
                let owner = owners.entry(key.clone()).or_insert_with(|| path.clone());
                if owner != path || wanted.contains_key(&key) {
                    let message = format!("pod {key} is in {} already", owner.display());
                    doubles.push((path.clone(), message));
                    continue;
                }
                wanted.insert(key, given.clone());
            }
        }
        (self.doubles, self.owners) = (doubles, owners);
        // Before the first look it is unknown whether the pods of the previous run are still
        // requested.
        if self.told.as_ref() == Some(&wanted) {
            return None;
        }
        self.told = Some(wanted.clone());
        Some(wanted)
    }

    /// The owners that still have their pod.
    fn kept_owners(&mut self) -> BTreeMap<PodKey, PathBuf> {
        let mut owners = std::mem::take(&mut self.owners);
        owners.retain(|key, path| {
            let page = self.pages.get(path);
            page.is_some_and(|page| page.good.iter().any(|given| given.key() == *key))
        });
        owners
    }

    /// The config maps and secrets of all pages, by namespace; the first with a name counts.
    fn objects(&mut self, doubles: &mut Vec<(PathBuf, String)>) -> BTreeMap<String, Objects> {
        let mut all: BTreeMap<String, Objects> = BTreeMap::new();
        for (path, page) in &mut self.pages {
            let Some(parsed) = &page.parsed else { continue };
            let own = manifest::objects(parsed.config_maps.clone(), parsed.secrets.clone());
            let own = match own {
                Ok(own) => own,
                Err(error) => {
                    page.pod_fault = Some(error.to_string());
                    continue;
                }
            };
            for (namespace, own) in own {
                let there = all.entry(namespace.clone()).or_default();
                let mut double = |kind: &str, name: &str| {
                    let message =
                        format!("{kind} {namespace}/{name} is in an earlier file already");
                    doubles.push((path.clone(), message));
                };
                for (name, map) in own.config_maps {
                    match there.config_maps.entry(name) {
                        Entry::Occupied(taken) => double("config map", taken.key()),
                        Entry::Vacant(free) => {
                            free.insert(map);
                        }
                    }
                }
                for (name, secret) in own.secrets {
                    match there.secrets.entry(name) {
                        Entry::Occupied(taken) => double("secret", taken.key()),
                        Entry::Vacant(free) => {
                            free.insert(secret);
                        }
                    }
                }
            }
        }
        all
    }
}

impl Page {
    /// Updates its pods from the text and the current objects, if they are valid.
    fn refresh(&mut self, path: &Path, node: &str, objects: &BTreeMap<String, Objects>) {
        let (Some(parsed), Some(seen)) = (&self.parsed, &self.seen) else { return };
        match given(parsed, self.source, seen, Origin { path, node }, objects) {
            Ok(mut good) => {
                good.iter_mut().for_each(|given| keep_times(given, &self.good));
                self.good = good;
                self.pod_fault = None;
            }
            Err(error) => self.pod_fault = Some(error.to_string()),
        }
    }
}

/// A pod that existed before, even before a restart, keeps its creation time.
fn keep_times(given: &mut Given, before: &[Given]) {
    let Some(before) = before.iter().find(|before| before.uid() == given.uid()) else { return };
    let before = &before.pod.metadata;
    let meta = &mut Arc::make_mut(&mut given.pod).metadata;
    meta.creation_timestamp.clone_from(&before.creation_timestamp);
    let seen = before.annotations.as_ref().and_then(|notes| notes.get(SEEN));
    if let (Some(seen), Some(notes)) = (seen, &mut meta.annotations) {
        notes.insert(SEEN.to_owned(), seen.clone());
    }
}

#[derive(Clone, Copy)]
struct Origin<'a> {
    path: &'a Path,
    node: &'a str,
}

fn given(
    parsed: &Parsed,
    source: Source,
    seen: &Time,
    origin: Origin<'_>,
    objects: &BTreeMap<String, Objects>,
) -> Result<Vec<Given>, Error> {
    let pods = parsed.pods.clone();
    let own = Parsed { pods, ..Parsed::default() };
    let mut uid = |pod: &Pod| uid(pod, origin);
    let known = |namespace: &str, _: &str| objects.get(namespace).cloned().unwrap_or_default();
    let mut given = manifest::given(own, source, seen, &mut uid, known)?;
    for given in &mut given {
        let meta = &mut Arc::make_mut(&mut given.pod).metadata;
        let origin = origin.path.to_string_lossy().into_owned();
        meta.annotations.get_or_insert_default().insert(ORIGIN.to_owned(), origin);
    }
    Ok(given)
}

/// The same pod in the same file on the same node has the same uid; editing it makes another pod.
fn uid(pod: &Pod, origin: Origin<'_>) -> String {
    let meta = &pod.metadata;
    let identity = (
        (&meta.namespace, &meta.name, &meta.generate_name),
        (&meta.labels, &meta.annotations, &pod.spec),
        (origin.node, origin.path.to_string_lossy()),
    );
    // All map keys are text, so this cannot fail.
    let text = serde_json::to_vec(&identity).unwrap_or_default();
    hex::encode(&Sha256::digest(text)[..16])
}
