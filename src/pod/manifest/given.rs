//! Converts objects to runnable pods: defaults, validation, uid, referenced objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::parse::Parsed;
use super::references::{pick, references};
use super::{defaults, validate};
use crate::pod::{Error, FieldError, Given, Objects, Source};

/// Characters of generated name suffixes, as in Kubernetes: without vowels, so they form no words.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Maximum length of `generateName`; a longer one is cut.
const LONGEST_BASE: usize = 58;

/// The pods in a manifest, complete and validated, each with the objects that it references.
///
/// `uid` is called once for each pod, after setting defaults. `known` returns the objects that are
/// already known for the pod with this namespace and name; those in the manifest take precedence.
///
/// # Errors
/// [`Error::Invalid`] with all faults of the first invalid object. A missing object is a fault
/// only for a static pod: a pod from the API waits for it.
pub fn given(
    parsed: Parsed,
    source: Source,
    now: &Time,
    uid: &mut dyn FnMut(&Pod) -> String,
    known: impl Fn(&str, &str) -> Objects,
) -> Result<Vec<Given>, Error> {
    let Parsed { pods, config_maps, secrets, warnings: _ } = parsed;
    let own = objects(config_maps, secrets)?;
    let nothing = Objects::default();
    let mut given = Vec::with_capacity(pods.len());
    for mut pod in pods {
        complete(&mut pod, source, now, uid);
        let meta = &pod.metadata;
        let name = meta.name.clone().unwrap_or_default();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let mut objects = known(namespace, &name);
        let own = own.get(namespace).unwrap_or(&nothing).clone();
        objects.config_maps.extend(own.config_maps);
        objects.secrets.extend(own.secrets);
        let objects = pick(&pod, &objects);
        let mut faults = validate::pod(&pod);
        if source.is_static() {
            faults.extend(missing(&pod, &objects));
            faults.extend(without_ephemeral(&pod));
        }
        if !faults.is_empty() {
            return Err(Error::Invalid { kind: "Pod", name, faults });
        }
        given.push(Given { pod: Arc::new(pod), objects, source });
    }
    Ok(given)
}

/// Config maps and secrets by namespace: validated, with defaults, `stringData` merged into `data`.
///
/// # Errors
/// [`Error::Invalid`] with all faults of the first invalid object.
pub fn objects(
    config_maps: Vec<ConfigMap>,
    secrets: Vec<Secret>,
) -> Result<BTreeMap<String, Objects>, Error> {
    let mut all: BTreeMap<String, Objects> = BTreeMap::new();
    for mut map in config_maps {
        let (namespace, name) = defaults::names(&mut map.metadata);
        let faults = validate::config_map(&map);
        if !faults.is_empty() {
            return Err(Error::Invalid { kind: "ConfigMap", name, faults });
        }
        all.entry(namespace).or_default().config_maps.insert(name, Arc::new(map));
    }
    for mut secret in secrets {
        let (namespace, name) = defaults::names(&mut secret.metadata);
        defaults::secret(&mut secret);
        let faults = validate::secret(&secret);
        if !faults.is_empty() {
            return Err(Error::Invalid { kind: "Secret", name, faults });
        }
        let texts = secret.string_data.take().unwrap_or_default();
        let bytes = texts.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes())));
        secret.data.get_or_insert_default().extend(bytes);
        all.entry(namespace).or_default().secrets.insert(name, Arc::new(secret));
    }
    Ok(all)
}

/// The fault of a new pod with ephemeral containers, which can only be added to existing pods.
pub fn without_ephemeral(pod: &Pod) -> Option<FieldError> {
    let list = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    (!list.is_empty()).then(|| FieldError {
        path: "spec.ephemeralContainers".to_owned(),
        message: "Forbidden: cannot be set on create; they are added to a pod that runs".to_owned(),
    })
}

fn complete(pod: &mut Pod, source: Source, now: &Time, uid: &mut dyn FnMut(&Pod) -> String) {
    defaults::pod(pod);
    let uid = uid(pod);
    let meta = &mut pod.metadata;
    // These fields are set by the server.
    meta.managed_fields = None;
    meta.self_link = None;
    meta.generation = None;
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    let second = Timestamp::from_second(now.0.as_second()).unwrap_or(now.0);
    meta.creation_timestamp = Some(Time(second));
    if let (None, Some(base)) = (&meta.name, &meta.generate_name) {
        let base: String = base.chars().take(LONGEST_BASE).collect();
        meta.name = Some(format!("{base}{}", ending(&uid)));
    }
    if source.is_static() {
        let notes = meta.annotations.get_or_insert_default();
        notes.insert("kubernetes.io/config.hash".to_owned(), uid.clone());
        notes.insert("kubernetes.io/config.seen".to_owned(), now.0.to_string());
        notes.insert("kubernetes.io/config.source".to_owned(), source.as_str().to_owned());
    }
    meta.uid = Some(uid);
}

/// Five letters derived from the uid.
fn ending(uid: &str) -> String {
    let digest = Sha256::digest(uid.as_bytes());
    let letter = |byte: &u8| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]);
    digest.iter().take(5).map(letter).collect()
}

fn missing(pod: &Pod, objects: &Objects) -> Vec<FieldError> {
    let there = |kind: &str, name: &str| match kind {
        "Secret" => objects.secrets.contains_key(name),
        _ => objects.config_maps.contains_key(name),
    };
    references(pod)
        .into_iter()
        .filter(|reference| !reference.optional && !there(reference.kind, &reference.name))
        .map(|reference| FieldError {
            path: reference.path,
            message: format!("Not found: {} {:?}", reference.kind, reference.name),
        })
        .collect()
}
