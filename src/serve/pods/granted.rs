//! Restricts the pods to the namespaces of a caller's grant.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tonic::{Request, Status};

use super::Pods;
use super::about::Tells;
use crate::ids::PodId;
use crate::pod::manifest::{ParseOptions, parse};
use crate::pod::{
    Admission, Applied, Apply, Delete, Error, Events, Explanation, Face, Listing, LogLines,
    LogOptions, NodeView, PodKey, PodView, Revision, Selector, Target, Watch,
};
use crate::serve::{Grant, Subject};

impl Pods {
    /// Like [`Pods::granted`], and records what the request is about.
    pub(super) fn named<T: Tells>(&self, request: &Request<T>) -> Result<Self, Status> {
        let pods = self.granted(request)?;
        pods.tell(request.get_ref());
        Ok(pods)
    }

    /// Records what a message of the caller is about.
    pub(super) fn tell(&self, message: &impl Tells) {
        if let Some(about) = message.about() {
            self.subject.set(about);
        }
    }

    /// The service, restricted to what the caller of this request may access.
    pub(super) fn granted<T>(&self, request: &Request<T>) -> Result<Self, Status> {
        let grant = Grant::of(request)?;
        let mut pods = self.clone();
        pods.subject = Subject::of(request);
        pods.places = pods.places.of(request.extensions().get());
        if grant.namespaces.is_some() {
            let (face, grant) = (Arc::clone(&self.face), grant.clone());
            pods.face = Arc::new(Granted { face, grant });
        }
        Ok(pods)
    }
}

/// Checks the grant, then calls the pods.
struct Granted {
    face: Arc<dyn Face>,
    grant: Grant,
}

impl Granted {
    /// Checks that every object in a manifest is in an allowed namespace.
    fn check_manifest(&self, request: &Apply) -> Result<(), Error> {
        let options =
            ParseOptions { lenient: request.lenient, namespace: request.namespace.clone() };
        let parsed = parse(request.manifest.as_bytes(), &options)?;
        let of = |meta: ObjectMeta| meta.namespace.unwrap_or_default();
        let pods = parsed.pods.into_iter().map(|pod| of(pod.metadata));
        let maps = parsed.config_maps.into_iter().map(|map| of(map.metadata));
        let secrets = parsed.secrets.into_iter().map(|secret| of(secret.metadata));
        let touched: BTreeSet<String> = pods.chain(maps).chain(secrets).collect();
        touched.iter().try_for_each(|namespace| self.grant.check(namespace))
    }
}

#[async_trait]
impl Face for Granted {
    async fn apply(&self, request: Apply) -> Result<Applied, Error> {
        self.check_manifest(&request)?;
        self.face.apply(request).await
    }

    async fn delete(&self, request: Delete) -> Result<Vec<PodView>, Error> {
        let only_objects = request.selector == Selector::default() && !request.all;
        if !only_objects || request.objects.is_empty() {
            self.grant.check(&request.selector.namespace)?;
        }
        request.objects.iter().try_for_each(|object| self.grant.check(&object.name.namespace))?;
        self.face.delete(request).await
    }

    fn get(&self, key: &PodKey) -> Result<PodView, Error> {
        self.grant.check(&key.namespace)?;
        self.face.get(key)
    }

    fn list(&self, selector: &Selector) -> Result<Listing, Error> {
        self.grant.check(&selector.namespace)?;
        self.face.list(selector)
    }

    fn watch(&self, selector: Selector, from: Option<Revision>) -> Result<Watch, Error> {
        self.grant.check(&selector.namespace)?;
        self.face.watch(selector, from)
    }

    fn explain(&self, key: &PodKey) -> Result<Explanation, Error> {
        self.grant.check(&key.namespace)?;
        self.face.explain(key)
    }

    fn events(&self, selector: Selector, follow: bool) -> Result<Events, Error> {
        self.grant.check(&selector.namespace)?;
        self.face.events(selector, follow)
    }

    async fn logs(&self, key: &PodKey, options: LogOptions) -> Result<LogLines, Error> {
        self.grant.check(&key.namespace)?;
        self.face.logs(key, options).await
    }

    fn target(&self, key: &PodKey, container: Option<&str>) -> Result<Target, Error> {
        self.grant.check(&key.namespace)?;
        self.face.target(key, container)
    }

    fn sandbox(&self, key: &PodKey) -> Result<PodId, Error> {
        self.grant.check(&key.namespace)?;
        self.face.sandbox(key)
    }

    async fn restart_container(&self, key: &PodKey, container: &str) -> Result<(), Error> {
        self.grant.check(&key.namespace)?;
        self.face.restart_container(key, container).await
    }

    async fn admit(&self, request: Apply) -> Result<Vec<Admission>, Error> {
        self.check_manifest(&request)?;
        self.face.admit(request).await
    }

    /// The node is visible to everybody: whoever creates pods must know its free resources.
    async fn node(&self) -> Result<NodeView, Error> {
        self.face.node().await
    }
}

#[cfg(test)]
mod tests;
