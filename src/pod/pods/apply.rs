//! Creating and changing pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::Pods;
use super::entrance::Coming;
use crate::clock::now;
use crate::pod::face::{
    Applied, Apply, Change, Error, Manner, ObjectKey, ObjectKind, Preconditions,
};
use crate::pod::manifest::{self, ParseOptions};
use crate::pod::object::{Given, Objects, PodKey, Source};
use crate::pod::phase::time;
use crate::pod::record::{Life, Verdict};
use crate::pod::renew::Pending;
use crate::pod::room::Entry;
use crate::pod::shelf::Shelved;
use crate::pod::view::{EventType, PodView};
use crate::store::Batch;

/// A set of pods that change together. Whoever changes several holds `changing`, so that no two
/// callers deadlock on each other's turns.
#[derive(Default)]
struct Changes<'a> {
    lives: BTreeMap<&'a str, (&'a Arc<Entry>, Life)>,
    turns: Vec<tokio::sync::MutexGuard<'a, ()>>,
}

impl<'a> Changes<'a> {
    /// The new record of a pod, whose turn is taken.
    async fn of(&mut self, entry: &'a Arc<Entry>) -> &mut Life {
        if !self.lives.contains_key(entry.uid.as_str()) {
            self.turns.push(entry.turn.lock().await);
        }
        let change =
            self.lives.entry(&entry.uid).or_insert_with(|| (entry, Life::clone(&entry.life())));
        &mut change.1
    }
}

/// What to do for one pod in a manifest.
pub(super) enum Step {
    /// It is already as requested.
    Keep(Arc<Entry>),
    /// It is changed in place.
    Set(Arc<Entry>, Given, Option<Pending>),
    /// It is created, after its predecessor (if any) has ended.
    Make(Box<Life>, Option<Arc<Entry>>),
}

/// The contents of a manifest.
pub(super) struct Asked {
    /// Its pods.
    pub(super) given: Vec<Given>,
    /// The uid and resource version that it states for each of them.
    stated: Vec<Preconditions>,
    /// Its objects by namespace.
    objects: BTreeMap<String, Objects>,
    warnings: Vec<String>,
}

impl Pods {
    /// Parses a manifest.
    pub(super) fn read(&self, request: &Apply) -> Result<Asked, Error> {
        let options =
            ParseOptions { lenient: request.lenient, namespace: request.namespace.clone() };
        let mut parsed = manifest::parse(request.manifest.as_bytes(), &options)?;
        // An applied pod is bound to this node, as a scheduler does it, so that what `Get` returns
        // can be applied again.
        for spec in parsed.pods.iter_mut().filter_map(|pod| pod.spec.as_mut()) {
            spec.node_name.get_or_insert_with(|| self.room.node().name.clone());
        }
        let created = time(now()).ok_or_else(|| Error::Argument {
            field: "clock",
            message: "the time of day is beyond what can be written".to_owned(),
        })?;
        let stated = parsed.pods.iter().map(stated).collect();
        let warnings = parsed.warnings.clone();
        let objects = manifest::objects(parsed.config_maps.clone(), parsed.secrets.clone())?;
        // A stated uid is that of an existing pod, and a new pod is another one.
        let mut uid = |_: &Pod| uuid();
        let known = |namespace: &str, name: &str| self.objects(namespace, name);
        let given = manifest::given(parsed, Source::Api, &created, &mut uid, known)?;
        Ok(Asked { given, stated, objects, warnings })
    }

    /// The objects that a pod already uses, and those stored independently of pods.
    fn objects(&self, namespace: &str, name: &str) -> Objects {
        let key = PodKey::new(namespace, name);
        let own = self.room.newest(&key).map(|entry| entry.life().given.objects.clone());
        let mut all = own.unwrap_or_default();
        let kept = self.shelf().of(namespace);
        all.config_maps.extend(kept.config_maps);
        all.secrets.extend(kept.secrets);
        all
    }

    pub(super) async fn apply_pods(&self, request: Apply) -> Result<Applied, Error> {
        let _changing = self.changing.lock().await;
        let Asked { given, stated, objects, warnings } = self.read(&request)?;
        let taken = taken(&given);
        if given.len() != 1 && request.preconditions != Preconditions::default() {
            return Err(Error::Argument {
                field: "preconditions",
                message: format!("they need exactly one pod, the manifest has {}", given.len()),
            });
        }
        let mut steps = Vec::new();
        let mut coming = Coming::default();
        for (given, stated) in given.into_iter().zip(stated) {
            let step = self.decide(given, &stated, &request, &coming)?;
            match &step {
                Step::Keep(_) => {}
                Step::Set(_, given, _) => coming.add(Arc::new(given.clone()), Vec::new()),
                Step::Make(life, _) => coming.add_life(life),
            }
            steps.push(step);
        }
        let others = self.refer(&objects, &steps);
        steps.extend(others);
        let mut shelf = self.shelf().clone();
        let kept = shelf.keep(&objects, &taken)?;
        let objects = self.object_changes(&objects, &taken, request.manner)?;
        if request.dry_run {
            let pods = steps.into_iter().map(|step| self.would(step)).collect();
            return Ok(Applied { pods, objects, warnings });
        }
        self.write_with(&steps, request.grace, &kept).await?;
        *self.shelf() = shelf;
        let pods = steps.into_iter().map(|step| self.done(step)).collect();
        Ok(Applied { pods, objects, warnings })
    }

    /// Existing pods that refer to objects in the manifest.
    fn refer(&self, objects: &BTreeMap<String, Objects>, steps: &[Step]) -> Vec<Step> {
        let of_step = |entry: &Entry| {
            steps.iter().any(|step| match step {
                Step::Keep(other) | Step::Set(other, ..) => other.uid == entry.uid,
                Step::Make(_, old) => old.as_ref().is_some_and(|old| old.uid == entry.uid),
            })
        };
        let mut others = Vec::new();
        for entry in self.room.all().into_iter().filter(|entry| !of_step(entry)) {
            let life = entry.life();
            let Some(new) = objects.get(&entry.key.namespace) else { continue };
            if life.given.source.is_static() || life.is_ending() {
                continue;
            }
            let mut all = life.given.objects.clone();
            all.config_maps.extend(new.config_maps.clone());
            all.secrets.extend(new.secrets.clone());
            let picked = manifest::pick(&life.given.pod, &all);
            if picked != life.given.objects {
                let asked = life.asked.as_deref().cloned();
                let given = Given { objects: picked, ..life.given.clone() };
                others.push(Step::Set(entry, given, asked));
            }
        }
        others
    }

    fn decide(
        &self,
        given: Given,
        stated: &Preconditions,
        request: &Apply,
        coming: &Coming,
    ) -> Result<Step, Error> {
        let key = given.key();
        let old = self.room.newest(&key);
        let Some(old) = old else {
            if request.manner == Manner::Replace
                || request.preconditions != Preconditions::default()
            {
                return Err(Error::NotFound(key));
            }
            return self.make(given, None, coming);
        };
        let life = old.life();
        if life.given.source.is_static() {
            return Err(Error::Static(key));
        }
        self.check(&old, &request.preconditions)?;
        if request.manner == Manner::Create {
            return Err(Error::AlreadyExists(key));
        }
        self.check_stated(&old, stated, request)?;
        let meant_anew = life.deletion.is_some();
        if meant_anew && request.manner == Manner::Apply {
            let message = "it is being deleted; replace it, or wait until it is gone".to_owned();
            return Err(Error::Conflict { pod: key, message });
        }
        // Fields set by the node are not a change.
        let mut next = Pod::clone(&given.pod);
        next.metadata.uid.clone_from(&life.given.pod.metadata.uid);
        next.metadata.creation_timestamp.clone_from(&life.given.pod.metadata.creation_timestamp);
        next.metadata.resource_version = None;
        manifest::keep_ephemeral(&life.given.pod, &mut next);
        manifest::keep_gates(&life.given.pod, &mut next);
        let change = manifest::change(life.shown(), &next);
        match change {
            _ if meant_anew => {}
            manifest::Difference::None if given.objects == life.given.objects => {
                return Ok(Step::Keep(old));
            }
            manifest::Difference::None | manifest::Difference::InPlace => {
                let (given, asked) = self.resized(&life, given, next, coming);
                return Ok(Step::Set(old, given, asked));
            }
            manifest::Difference::Replace(paths) if request.manner == Manner::Apply => {
                return Err(Error::Immutable { pod: key, paths });
            }
            manifest::Difference::Replace(_) => {}
        }
        self.make(given, Some(old), coming)
    }

    fn make(&self, given: Given, old: Option<Arc<Entry>>, coming: &Coming) -> Result<Step, Error> {
        if let Some(fault) = manifest::without_ephemeral(&given.pod) {
            let name = given.key().name;
            return Err(Error::Invalid { kind: "Pod", name, faults: vec![fault] });
        }
        let life = self.judged(given, old.as_ref(), coming);
        Ok(Step::Make(Box::new(life), old))
    }

    /// The record of a new pod; one that the node does not admit is recorded as failed.
    pub(super) fn judged(&self, given: Given, old: Option<&Arc<Entry>>, coming: &Coming) -> Life {
        let entrance = self.entrance(&given, coming);
        let mut life = self.new_life(given, old, coming);
        let reasons = match entrance {
            Ok(ends) => {
                life.preempts = ends;
                return life;
            }
            Err(reasons) => reasons,
        };
        // All reasons are reported by `Face::admit`; as in a kubelet, the first one is the pod's
        // failure reason.
        if let Some(first) = reasons.first() {
            let at = now();
            life.rejected = true;
            life.started = Some(at);
            life.judge(Verdict {
                succeeded: false,
                reason: first.reason.to_owned(),
                message: format!("Pod was rejected: {}", first.message),
                at,
                deadline: at,
                disrupted: false,
            });
            self.room.event(&life, None, EventType::Warning, first.reason, &first.message);
        }
        life
    }

    pub(super) fn check(&self, entry: &Entry, wanted: &Preconditions) -> Result<(), Error> {
        let conflict = |message: String| Error::Conflict { pod: entry.key.clone(), message };
        if let Some(uid) = wanted.uid.as_ref().filter(|uid| **uid != entry.uid) {
            return Err(conflict(format!("precondition uid {uid:?}: its uid is {:?}", entry.uid)));
        }
        let version = self.version(entry);
        match &wanted.resource_version {
            Some(wanted) if Some(wanted) != version.as_ref() => Err(conflict(format!(
                "precondition resourceVersion {wanted:?}: it is {:?}",
                version.unwrap_or_default()
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a manifest made from another pod with this name, or (a replace only, as in
    /// Kubernetes) from an earlier state of the pod.
    fn check_stated(
        &self,
        entry: &Entry,
        stated: &Preconditions,
        request: &Apply,
    ) -> Result<(), Error> {
        let conflict = |message| Err(Error::Conflict { pod: entry.key.clone(), message });
        // Callers see only the predecessor of a pod that waits for its end.
        let shown = self.room.shown(&entry.key);
        let is_of = |uid: &str| entry.uid == uid || shown.is_some_and(|shown| shown.uid == uid);
        if let Some(uid) = stated.uid.as_deref().filter(|uid| !is_of(uid)) {
            let message = format!("the manifest is of uid {uid:?}, its uid is {:?}", entry.uid);
            return conflict(message);
        }
        let is_checked = request.manner == Manner::Replace && !request.any_version;
        let version = self.version(entry);
        match &stated.resource_version {
            Some(stated) if is_checked && Some(stated) != version.as_ref() => conflict(format!(
                "the manifest is of resourceVersion {stated:?}, it is {:?} by now",
                version.unwrap_or_default()
            )),
            _ => Ok(()),
        }
    }

    /// The resource version shown for the name of a pod.
    fn version(&self, entry: &Entry) -> Option<String> {
        let view = self.room.deps.hub.get(&entry.key)?;
        view.pod.metadata.resource_version.clone()
    }

    /// Writes all rows atomically.
    pub(super) async fn write(&self, steps: &[Step], grace: Option<Duration>) -> Result<(), Error> {
        self.write_with(steps, grace, &[]).await
    }

    /// Like [`Pods::write`], together with stored objects.
    async fn write_with(
        &self,
        steps: &[Step],
        grace: Option<Duration>,
        kept: &[Shelved],
    ) -> Result<(), Error> {
        check_uids(steps, |uid| self.room.has(uid))?;
        let ends: Vec<_> = steps.iter().flat_map(|step| self.ends(step)).collect();
        let mut changes = Changes::default();
        let mut batch = kept.iter().try_fold(Batch::new(), Batch::put)?;
        for step in steps {
            match step {
                Step::Keep(_) => {}
                Step::Set(entry, given, asked) => {
                    changes.of(entry).await.give(given.clone(), asked.clone());
                }
                Step::Make(life, old) => {
                    if let Some(old) = old {
                        changes.of(old).await.delete(grace, false, now());
                    }
                    batch = batch.put(&**life)?;
                }
            }
        }
        let mut ended = Vec::new();
        for entry in &ends {
            let life = changes.of(entry).await;
            // It may have ended since it was selected.
            if life.verdict.is_none() {
                Self::preempted(life);
                ended.push(life.clone());
            }
        }
        for (entry, life) in changes.lives.values() {
            // A pod removed meanwhile is not restored.
            if self.room.has(&entry.uid) {
                batch = batch.put(life)?;
            }
        }
        self.room.deps.store.write(batch).await?;
        for (entry, life) in std::mem::take(&mut changes.lives).into_values() {
            entry.set(Arc::new(life));
            entry.regenerate();
            entry.changed.notify_one();
        }
        ended.iter().for_each(|life| self.tell_preempted(life));
        self.room.freed.notify_one();
        Ok(())
    }

    /// The pods that end for the pod of a step.
    fn ends(&self, step: &Step) -> Vec<Arc<Entry>> {
        let Step::Make(life, _) = step else { return Vec::new() };
        life.preempts.iter().filter_map(|uid| self.room.by_uid(uid)).collect()
    }

    pub(super) fn done(&self, step: Step) -> (PodView, Change) {
        match step {
            Step::Keep(entry) => (self.current(&entry), Change::Unchanged),
            Step::Set(entry, ..) => (self.current(&entry), Change::Configured),
            Step::Make(mut life, old) => {
                let view = self.unseen(&mut life);
                let change = if old.is_some() { Change::Replaced } else { Change::Created };
                let entry = Entry::new(*life);
                self.room.add(std::slice::from_ref(&entry));
                let view = self.room.publish(&entry, view);
                self.start(entry);
                (view, change)
            }
        }
    }

    fn would(&self, step: Step) -> (PodView, Change) {
        match step {
            Step::Keep(entry) => (self.current(&entry), Change::Unchanged),
            Step::Set(entry, given, asked) => {
                let mut life = Life::clone(&entry.life());
                life.give(given, asked);
                (self.as_shown(&entry, &life), Change::Configured)
            }
            Step::Make(mut life, old) => {
                let change = if old.is_some() { Change::Replaced } else { Change::Created };
                (self.unseen(&mut life), change)
            }
        }
    }

    /// The current record of a pod with its status.
    pub(super) fn current(&self, entry: &Entry) -> PodView {
        self.room.publish(entry, self.as_shown(entry, &entry.life()))
    }

    fn as_shown(&self, entry: &Entry, life: &Life) -> PodView {
        let shown = self.room.deps.hub.get(&entry.key);
        let shown = shown.filter(|view| view.pod.metadata.uid.as_deref() == Some(&*entry.uid));
        match shown.and_then(|view| view.pod.status.clone()) {
            Some(status) => self.room.view(life, status),
            None => self.unseen(&mut life.clone()),
        }
    }
}

/// The objects referenced by the pods in a manifest.
fn taken(given: &[Given]) -> BTreeSet<ObjectKey> {
    let of_one = |given: &Given| {
        let namespace = given.key().namespace;
        let references = manifest::references(&given.pod).into_iter();
        let keys = references.filter_map(move |reference| {
            let kind = ObjectKind::parse(reference.kind)?;
            Some(ObjectKey { kind, name: PodKey::new(namespace.clone(), reference.name) })
        });
        keys.collect::<Vec<_>>()
    };
    given.iter().flat_map(of_one).collect()
}

/// The uid and resource version that a manifest states for a pod.
fn stated(pod: &Pod) -> Preconditions {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let meta = &pod.metadata;
    Preconditions { uid: set(&meta.uid), resource_version: set(&meta.resource_version) }
}

/// Checks that no new pod has the uid of another pod: they would share row, folder and cgroup.
fn check_uids(steps: &[Step], is_known: impl Fn(&str) -> bool) -> Result<(), Error> {
    let mut new = BTreeSet::new();
    for step in steps {
        let Step::Make(life, _) = step else { continue };
        if is_known(&life.uid) || !new.insert(&life.uid) {
            let message = format!("another pod has its uid {}", life.uid);
            return Err(Error::Conflict { pod: life.given.key(), message });
        }
    }
    Ok(())
}

/// A random uid (UUID version 4, RFC 9562), as in Kubernetes.
fn uuid() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex::encode(bytes);
    let parts = [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::rehearsal::given;

    #[test]
    fn no_two_pods_have_the_same_uid() {
        let make = || Step::Make(Box::new(Life::new(given(json!({})))), None);
        check_uids(&[make()], |_| false).expect("it is new");
        for (steps, known) in [(vec![make(), make()], ""), (vec![make()], "u-1")] {
            let refused = check_uids(&steps, |uid| uid == known).expect_err("it is not new");
            assert!(matches!(refused, Error::Conflict { .. }), "{refused}");
        }
    }
}
