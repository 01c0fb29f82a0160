//! Manifests, and queries to an agent.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use podbay::pod::{
    Applied, Apply, Delete, Error, Event, Face, Given, PodKey, PodView, Pods, Selector, Source,
    manifest,
};
use serde_json::{Value, json};

use crate::world::{Agent, IMAGE, World, eventually};

/// Pauses so short that a test can wait for them.
pub fn quick() -> World {
    let mut world = World::new();
    world.backoff.first = Duration::from_millis(20);
    world.backoff.longest = Duration::from_millis(80);
    world
}

/// A container that does this.
pub fn container(name: &str, command: &[&str]) -> Value {
    json!({ "name": name, "image": IMAGE, "command": command })
}

/// A pod of these containers, with `more` in its spec.
pub fn pod(name: &str, containers: &[Value], more: Value) -> Value {
    let mut spec = json!({ "containers": containers, "terminationGracePeriodSeconds": 1 });
    let fields = spec.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

pub fn key(name: &str) -> PodKey {
    PodKey::new("default", name)
}

/// The pods of an agent. All work runs inside of it.
pub struct Rig<'a>(pub &'a Agent);

impl Rig<'_> {
    pub fn pods(&self) -> Arc<Pods> {
        self.0.rooms.pods.clone()
    }

    pub async fn try_apply(&self, request: Apply) -> Result<Applied, Error> {
        let pods = self.pods();
        self.0.inside(async move { pods.apply(request).await }).await.expect("no panic")
    }

    pub async fn apply(&self, pod: &Value) -> PodView {
        let request = Apply { manifest: pod.to_string(), ..Apply::default() };
        let applied = self.try_apply(request).await.expect("applied");
        applied.pods.into_iter().next().expect("a pod").0
    }

    pub async fn try_delete(&self, request: Delete) -> Result<Vec<PodView>, Error> {
        let pods = self.pods();
        self.0.inside(async move { pods.delete(request).await }).await.expect("no panic")
    }

    pub async fn delete(&self, name: &str, grace: Option<Duration>) -> PodView {
        let selector = named(name);
        let request = Delete { selector, grace, ..Delete::default() };
        self.try_delete(request).await.expect("deleted").remove(0)
    }

    pub fn get(&self, name: &str) -> Option<Pod> {
        self.pods().get(&key(name)).ok().map(|view| Pod::clone(&view.pod))
    }

    /// Waits until the pod is so.
    #[track_caller]
    pub fn until<'t>(
        &'t self,
        name: &'t str,
        what: &'t str,
        wanted: impl Fn(&Pod) -> bool + 't,
    ) -> impl Future<Output = Pod> + 't {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + crate::world::PATIENCE;
            loop {
                let pod = self.get(name);
                if let Some(pod) = pod.as_ref().filter(|pod| wanted(pod)) {
                    return pod.clone();
                }
                if tokio::time::Instant::now() > deadline {
                    let waits = self.pods().explain(&key(name)).map(|told| told.waits);
                    let status = pod.map(|pod| pod.status);
                    panic!("{caller}: {name} not {what}: {status:#?}\n{waits:#?}");
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    }

    #[track_caller]
    pub fn phase<'t>(&'t self, name: &'t str, wanted: &'t str) -> impl Future<Output = Pod> + 't {
        self.until(name, wanted, move |pod| phase(pod) == wanted)
    }

    pub async fn gone(&self, name: &str) {
        let what = format!("{name} gone");
        eventually(&what, async || self.get(name).is_none().then_some(())).await;
    }

    /// Deletes these pods, one after the other.
    pub async fn remove_all(&self, names: &[&str]) {
        for name in names {
            self.delete(name, None).await;
            self.gone(name).await;
        }
    }

    /// Reasons of the events of a pod, in their order, with the container.
    pub async fn events(&self, name: &str) -> Vec<(String, String)> {
        let events = self.pods().events(named(name), false).expect("events");
        let events: Vec<Event> = events.map(|event| event.expect("an event")).collect().await;
        let one =
            |event: &Event| (event.reason.to_owned(), event.container.clone().unwrap_or_default());
        events.iter().map(one).collect()
    }

    /// Has exactly these static pods.
    pub async fn set_static(&self, pods: &[Value]) {
        let mut wanted = std::collections::BTreeMap::new();
        for pod in pods {
            let parsed = manifest::parse(pod.to_string().as_bytes(), &Default::default());
            let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            );
            let mut uid = |pod: &Pod| {
                let text = serde_json::to_string(&pod.spec).expect("json");
                let sum = text.bytes().fold(7_u64, |sum, b| sum.wrapping_mul(31) + u64::from(b));
                format!("static-{sum:x}")
            };
            let parsed = parsed.expect("parsed");
            let none = |_: &str, _: &str| Default::default();
            let given = manifest::given(parsed, Source::File, &now, &mut uid, none);
            let given: Vec<Given> = given.expect("a static pod");
            wanted.extend(given.into_iter().map(|given| (given.key(), given)));
        }
        self.pods().set_static(wanted);
    }

    /// Ids of the live containers of this name.
    pub fn ids(&self, container: &str) -> Vec<String> {
        let all = self.0.rooms.sandboxes.containers(&Default::default());
        all.iter()
            .filter(|found| found.config.metadata.name == container)
            .map(|found| found.id.to_string())
            .collect()
    }
}

pub fn named(name: &str) -> Selector {
    let namespace = "default".to_owned();
    Selector { namespace, name: name.to_owned(), ..Selector::default() }
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

pub fn is_true(pod: &Pod, condition: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == condition && c.status == "True")
}

/// The status of a container of any kind.
pub fn status(pod: &Pod, name: &str) -> ContainerStatus {
    let all = pod.status.as_ref().expect("a status");
    let of = |list: &Option<Vec<ContainerStatus>>| list.clone().unwrap_or_default();
    let mut all = of(&all.init_container_statuses)
        .into_iter()
        .chain(of(&all.container_statuses))
        .chain(of(&all.ephemeral_container_statuses));
    all.find(|status| status.name == name).expect("the container's status")
}

/// `running`, the reason of waiting, or `exit N`.
pub fn state(pod: &Pod, name: &str) -> String {
    let state = status(pod, name).state.expect("a state");
    match (state.waiting, state.running, state.terminated) {
        (Some(waiting), ..) => waiting.reason.unwrap_or_default(),
        (_, Some(_), _) => "running".to_owned(),
        (.., Some(ended)) => format!("exit {}", ended.exit_code),
        _ => String::new(),
    }
}
