//! Applies a changed specification to an existing pod. Pure.
//!
//! Failures caused by what has changed are forgotten: a new image is pulled at once, whatever delay
//! the old one had, and restart delays belong to one image with one set of resources, as in a
//! kubelet.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::object::Given;
use super::plan::{Wanted, wanted};
use super::reason::Failure;
use super::record::{Life, Trouble};

/// Requested resources for which the node has no room yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// The pod with these resources, as shown to callers; those in force are in the given one.
    pub pod: Arc<Pod>,
    /// `Deferred`, or `Infeasible` if this node can never have room.
    pub reason: String,
    /// Human-readable message.
    pub message: String,
}

impl Life {
    /// The pod as requested, including what is not in force yet.
    pub fn shown(&self) -> &Arc<Pod> {
        self.asked.as_ref().map_or(&self.given.pod, |asked| &asked.pod)
    }

    /// Sets the new specification, and the resources that have to wait.
    pub fn give(&mut self, given: Given, asked: Option<Pending>) {
        let before = std::mem::replace(&mut self.given, given);
        let shown = self.asked.take().map_or_else(|| before.pod.clone(), |asked| asked.pod);
        self.asked = asked.map(Box::new);
        if shown.spec != self.shown().spec {
            self.generation += 1;
        }
        let other_objects = before.objects != self.given.objects;
        let of_pod = |trouble: &Trouble| trouble.reason != Failure::Sandbox;
        if other_objects || before.spec() != self.given.spec() {
            self.trouble = self.trouble.take().filter(|trouble| !of_pod(trouble));
        }
        let old = wanted(before.spec());
        for new in wanted(self.given.clone().spec()) {
            let Some(unit) = self.units.get_mut(new.name) else { continue };
            let Some(old) = old.iter().find(|old| old.name == new.name) else { continue };
            let other_image = old.image() != new.image();
            let cured =
                |trouble: &Trouble| other_image || (other_objects && !trouble.reason.is_of_image());
            unit.trouble = unit.trouble.take().filter(|trouble| !cured(trouble));
            if other_image || other_resources(old, &new) {
                unit.backoff = None;
            }
        }
    }
}

fn other_resources(old: &Wanted<'_>, new: &Wanted<'_>) -> bool {
    old.container.resources != new.container.resources
}

/// Whether two specs request different resources.
pub fn is_resized(old: &PodSpec, new: &PodSpec) -> bool {
    let [before, after] = [old, new].map(|spec| containers(spec).map(|it| &it.resources));
    old.resources != new.resources || !before.eq(after)
}

/// A pod with the resources of another with the same containers.
pub fn with_resources_of(pod: &Pod, other: &Pod) -> Pod {
    let mut pod = pod.clone();
    if let (Some(spec), Some(other)) = (&mut pod.spec, &other.spec) {
        let of = |name: &str| -> Option<ResourceRequirements> {
            containers(other).find(|it| it.name == name).and_then(|it| it.resources.clone())
        };
        let inits = spec.init_containers.iter_mut().flatten();
        for container in inits.chain(&mut spec.containers) {
            container.resources = of(&container.name);
        }
        spec.resources.clone_from(&other.resources);
    }
    pod
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::backoff::{Backoff, Policy};
    use super::super::rehearsal::Stage;
    use super::*;

    /// A pod with trouble, and its specification to be changed.
    fn troubled(reason: Failure) -> (Life, Given) {
        let mut life = Stage::new(json!({})).life;
        let trouble = Trouble::again(None, reason, "no luck".into(), 0, &Policy::default());
        life.trouble = Some(trouble.clone());
        let unit = life.unit("app");
        unit.trouble = Some(trouble);
        unit.backoff = Some(Backoff::next(None, 0, 0, &Policy::default()));
        let given = life.given.clone();
        (life, given)
    }

    fn changed(given: &Given, change: impl FnOnce(&mut Container)) -> Given {
        let mut pod = Pod::clone(&given.pod);
        change(&mut pod.spec.as_mut().expect("a spec").containers[0]);
        Given { pod: Arc::new(pod), ..given.clone() }
    }

    #[test]
    fn another_image_waits_for_nothing_of_the_old_one() {
        let (mut life, given) = troubled(Failure::Pull);
        life.give(changed(&given, |app| app.image = Some("app:2".into())), None);
        let unit = life.unit("app").clone();
        assert_eq!((unit.trouble, unit.backoff, life.generation), (None, None, 2));
    }

    #[test]
    fn other_resources_end_the_pauses_between_restarts_alone() {
        let (mut life, given) = troubled(Failure::Pull);
        let more = json!({"requests": {"cpu": "1"}});
        let more = Some(serde_json::from_value(more).expect("resources"));
        life.give(changed(&given, |app| app.resources = more), None);
        let unit = life.unit("app").clone();
        assert!(unit.trouble.is_some() && unit.backoff.is_none());
    }

    #[test]
    fn other_objects_cure_what_was_missing() {
        let table = [
            (Failure::Config, false, false),
            (Failure::Pull, true, false),
            (Failure::Sandbox, false, true),
        ];
        for (reason, of_unit, of_pod) in table {
            let (mut life, mut given) = troubled(reason);
            given.objects.config_maps.insert("map".to_owned(), Arc::default());
            life.give(given, None);
            let left = (life.unit("app").trouble.is_some(), life.trouble.is_some());
            assert_eq!(left, (of_unit, of_pod), "{reason}");
            assert_eq!(life.generation, 1, "the pod is the same");
        }
    }

    #[test]
    fn what_is_the_same_stays_in_trouble() {
        let (mut life, given) = troubled(Failure::Pull);
        let before = life.clone();
        life.give(given, None);
        assert_eq!(life, before);
    }

    #[test]
    fn resources_that_are_asked_for_are_shown_and_not_in_force() {
        let (mut life, given) = troubled(Failure::Pull);
        let more = json!({"requests": {"cpu": "1"}});
        let more = Some(serde_json::from_value(more).expect("resources"));
        let wished = changed(&given, |app| app.resources = more).pod;
        let in_force = with_resources_of(&wished, &given.pod);
        assert_eq!(in_force, *given.pod);
        let asked = Pending {
            pod: wished.clone(),
            reason: "Deferred".to_owned(),
            message: "no room".to_owned(),
        };
        life.give(Given { pod: Arc::new(in_force), ..given }, Some(asked));
        assert_eq!((life.shown(), life.generation), (&wished, 2));
        assert!(life.unit("app").backoff.is_some());
        let room = Given { pod: wished, ..life.given.clone() };
        life.give(room, None);
        assert_eq!((life.unit("app").backoff, life.generation), (None, 2));
    }
}
