//! Changes a pod: read, modify, apply, and retry if it was changed in between.

use serde_json::Value;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::apply::object;
use super::connect::Client;
use super::error::Error;
use super::get;
use super::print::text;
use super::scope::Namespace;
use super::screen::Screen;
use crate::proto::podbay::v1::{ApplyRequest, Change, Manner, Pod, Preconditions};

/// How many times a pod is read again if it changes meanwhile.
const TRIES: usize = 20;

/// A pod to change.
pub struct Amend<'a> {
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// Its name.
    pub name: &'a str,
    /// Whether it is a dry run.
    pub dry_run: bool,
}

impl Amend<'_> {
    /// Changes the pod's object, which is passed without its status. Returns the pod as it was
    /// read, and the result.
    pub async fn by(
        &self,
        client: &mut Client,
        change: impl Fn(&mut Value) -> Result<(), Error>,
        screen: Screen,
    ) -> Result<(Pod, Change), Error> {
        let mut tries = 0;
        loop {
            let pod = get::pod(client, self.namespace, self.name).await?.unwrap_or_default();
            let mut manifest = bare(&pod)?;
            change(&mut manifest)?;
            tries += 1;
            match self.send(client, &pod, &manifest, screen).await {
                Ok(change) => return Ok((pod, change)),
                // The pod has changed since it was read.
                Err(Error::Agent(status)) if tries < TRIES && has_changed(&status) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Applies a manifest if the pod is unchanged since it was read.
    pub async fn send(
        &self,
        client: &mut Client,
        pod: &Pod,
        manifest: &Value,
        screen: Screen,
    ) -> Result<Change, Error> {
        let request = ApplyRequest {
            manifest: manifest.to_string(),
            manner: Manner::Apply.into(),
            preconditions: Some(Preconditions {
                uid: pod.uid.clone(),
                resource_version: text(&object(pod)?, "/metadata/resourceVersion").to_owned(),
            }),
            dry_run: self.dry_run,
            namespace: self.namespace.of(client),
            ..ApplyRequest::default()
        };
        let answer = client.pods.apply(request).await?.into_inner();
        answer.warnings.iter().for_each(|warning| screen.note(&format!("warning: {warning}")));
        Ok(answer.pods.first().map(|applied| applied.change()).unwrap_or_default())
    }
}

/// A pod's object without its status.
pub fn bare(pod: &Pod) -> Result<Value, Error> {
    let mut object = object(pod)?;
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    Ok(object)
}

/// Whether a call was refused because the pod has changed.
pub fn has_changed(status: &Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "PRECONDITION_FAILED")
}
