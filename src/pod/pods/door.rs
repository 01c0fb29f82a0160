//! Implements [`Face`].

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;

use super::Pods;
use super::entrance::Coming;
use crate::board::SandboxFilter;
use crate::ids::PodId;
use crate::model::{Owner, StringMap};
use crate::pod::face::{
    Admission, Applied, Apply, Delete, Error, Events, Face, Listing, LogLines, LogOptions,
    Selector, Target, Watch,
};
use crate::pod::object::{Given, PodKey};
use crate::pod::record::State;
use crate::pod::select::EventSelection;
use crate::pod::translate::POD_UID_LABEL;
use crate::pod::view::{Event, Explanation, NodeView, PodView};
use crate::store::Revision;

/// Annotation with the container to use by default.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[async_trait]
impl Face for Pods {
    async fn apply(&self, request: Apply) -> Result<Applied, Error> {
        self.apply_pods(request).await
    }

    async fn delete(&self, request: Delete) -> Result<Vec<PodView>, Error> {
        self.delete_pods(request).await
    }

    fn get(&self, key: &PodKey) -> Result<PodView, Error> {
        self.room.deps.hub.get(key).ok_or_else(|| Error::NotFound(key.clone()))
    }

    fn list(&self, selector: &Selector) -> Result<Listing, Error> {
        self.room.deps.hub.list(selector)
    }

    fn watch(&self, selector: Selector, from: Option<Revision>) -> Result<Watch, Error> {
        self.room.deps.hub.watch(&selector, from)
    }

    fn explain(&self, key: &PodKey) -> Result<Explanation, Error> {
        let view = self.get(key)?;
        let entry = self.room.shown(key).ok_or_else(|| Error::NotFound(key.clone()))?;
        Ok(Explanation { view, waits: entry.waits() })
    }

    fn events(&self, selector: Selector, follow: bool) -> Result<Events, Error> {
        let selection = EventSelection::parse(&selector)?;
        let hub = self.room.deps.hub.clone();
        let pods = hub.clone();
        let wanted = move |event: &Event| {
            selection.matches(event, || pods.get(&event.pod).map(|view| view.pod))
        };
        Ok(self.room.deps.events.read(wanted, follow, hub))
    }

    async fn logs(&self, key: &PodKey, options: LogOptions) -> Result<LogLines, Error> {
        self.read_logs(key, options).await
    }

    fn target(&self, key: &PodKey, container: Option<&str>) -> Result<Target, Error> {
        let entry = self.room.shown(key).ok_or_else(|| Error::NotFound(key.clone()))?;
        let life = entry.life();
        let name = match container {
            Some(name) => name.to_owned(),
            None => default_container(&life.given),
        };
        let problem = |message: String| Error::Container {
            pod: key.clone(),
            container: name.clone(),
            message,
        };
        let spec = crate::pod::plan::wanted(life.given.spec());
        let Some(spec) = spec.iter().find(|wanted| wanted.name == name) else {
            return Err(problem("the pod has no such container".to_owned()));
        };
        let current = life.units.get(&name).and_then(|unit| unit.current.as_ref());
        match current {
            Some(current) if matches!(current.state, State::Running { .. }) => Ok(Target {
                sandbox: current.sandbox.clone(),
                container: current.id.clone(),
                tty: spec.container.tty.unwrap_or_default(),
                stdin: spec.container.stdin.unwrap_or_default(),
            }),
            _ => Err(problem("it does not run".to_owned())),
        }
    }

    fn sandbox(&self, key: &PodKey) -> Result<PodId, Error> {
        let entry = self.room.shown(key).ok_or_else(|| Error::NotFound(key.clone()))?;
        let filter = SandboxFilter {
            labels: StringMap::from([(POD_UID_LABEL.to_owned(), entry.uid.clone())]),
            owner: Some(Owner::Pod),
            ready: Some(true),
            ..SandboxFilter::default()
        };
        let ready = self.room.deps.sandboxes.list(&filter);
        let newest = ready.iter().max_by_key(|sandbox| sandbox.config.metadata.attempt);
        newest.map(|sandbox| sandbox.id.clone()).ok_or_else(|| Error::State {
            pod: key.clone(),
            message: "it has no sandbox that is ready".to_owned(),
        })
    }

    async fn restart_container(&self, key: &PodKey, container: &str) -> Result<(), Error> {
        self.restart(key, container).await
    }

    async fn admit(&self, request: Apply) -> Result<Vec<Admission>, Error> {
        let mut coming = Coming::default();
        let mut one = |given: Given| {
            let (pod, entrance) = (given.key(), self.entrance(&given, &coming));
            let reasons = entrance.as_ref().err().cloned().unwrap_or_default();
            if let Ok(ends) = entrance {
                coming.add(Arc::new(given), ends);
            }
            Admission { pod, reasons }
        };
        Ok(self.read(&request)?.given.into_iter().map(&mut one).collect())
    }

    async fn node(&self) -> Result<NodeView, Error> {
        let node: Node = self.node_object().await;
        Ok(NodeView { node })
    }
}

/// The default container: the one named by the annotation, else the first.
pub(super) fn default_container(given: &Given) -> String {
    let annotations = given.pod.metadata.annotations.as_ref();
    let named = annotations.and_then(|annotations| annotations.get(DEFAULT_CONTAINER));
    let first = given.spec().containers.first().map(|container| &container.name);
    named.or(first).cloned().unwrap_or_default()
}
