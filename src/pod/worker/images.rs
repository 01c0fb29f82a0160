//! The images of containers: local ones, or pulled according to policy and credentials.

use k8s_openapi::api::core::v1::Container as Spec;

use super::act::Work;
use super::outcome::Outcome;
use crate::image::{self, Credentials, Reference};
use crate::model::image::Image;
use crate::pod::reason::Failure;
use crate::pod::secrets::of_registry;
use crate::pod::translate::runtime_handler;
use crate::pod::view::EventType::{self, Normal};
use crate::telemetry::error_chain;

impl Work {
    /// The image of a container, pulled if its policy requires it.
    pub(super) async fn image(&self, spec: &Spec) -> Result<Image, Outcome> {
        let (name, image) = (spec.name.as_str(), spec.image.as_deref().unwrap_or_default());
        let policy = spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        self.find_image(name, image, policy).await
    }

    pub(super) async fn volume_image(&self, name: &str, image: &str) -> Result<(), Outcome> {
        let mut volumes = self.life.given.spec().volumes.iter().flatten();
        let policy = volumes.find_map(|volume| {
            let source = volume.image.as_ref()?;
            (source.reference.as_deref() == Some(image)).then(|| source.pull_policy.clone())?
        });
        let policy = policy.unwrap_or_else(|| "IfNotPresent".to_owned());
        self.find_image(name, image, &policy).await.map(drop)
    }

    async fn find_image(&self, name: &str, image: &str, policy: &str) -> Result<Image, Outcome> {
        let images = &self.room.deps.images;
        let handler = runtime_handler(self.life.given.spec());
        if policy != "Always" {
            let found = images.get_for(handler, image).await;
            let found = found.map_err(|error| self.not_found(name, image, &error))?;
            let may_use = |found: &Image| self.may_use(found, image);
            let present = found.is_some();
            if let Some(found) = found.filter(may_use) {
                let message = format!("Container image {image:?} already present on machine");
                self.event(Some(name), Normal, "Pulled", message);
                return Ok(found);
            }
            if policy == "Never" {
                let why = match present {
                    true => "is present, but not for this pod's credentials,",
                    false => "is not present",
                };
                let message = format!("Container image {image:?} {why} with pull policy of Never");
                let reason = Failure::NeverPull;
                self.event(Some(name), EventType::Warning, reason.as_str(), message.clone());
                return Err(Outcome::failed(reason, message));
            }
        }
        self.event(Some(name), Normal, "Pulling", format!("Pulling image {image:?}"));
        let began = tokio::time::Instant::now();
        let pull = self.pull(handler, image);
        // Cancel-safe: a pull that nobody waits for is cancelled.
        let pulled = tokio::select! {
            pulled = pull => pulled,
            () = self.cancel.cancelled() => return Err(Outcome::Cancelled),
        };
        match pulled {
            Ok(pulled) => {
                let took = began.elapsed().as_secs_f64();
                let message = format!(
                    "Successfully pulled image {image:?} in {took:.3}s ({took:.3}s including \
                     waiting). Image size: {} bytes.",
                    pulled.size
                );
                self.event(Some(name), Normal, "Pulled", message);
                Ok(pulled)
            }
            Err(error) => {
                let reason = match &error {
                    image::Error::InvalidReference { .. } => Failure::ImageName,
                    _ => Failure::Pull,
                };
                let chain = error_chain(&error);
                let message = format!("Failed to pull image {image:?}: {chain}");
                self.event(Some(name), EventType::Warning, "Failed", message);
                Err(Outcome::failed(reason, chain))
            }
        }
    }

    /// The error for an image that cannot be looked up.
    fn not_found(&self, name: &str, image: &str, error: &image::Error) -> Outcome {
        let chain = error_chain(error);
        let (reason, message) = match error {
            image::Error::InvalidReference { .. } => {
                let message = format!("Failed to apply default image tag {image:?}: {chain}");
                (Failure::ImageName, message)
            }
            _ => (Failure::ImageInspect, format!("Failed to inspect image {image:?}: {chain}")),
        };
        self.event(Some(name), EventType::Warning, "InspectFailed", message.clone());
        Outcome::failed(reason, message)
    }

    /// Pulls with each of the pod's credentials for this registry in turn, then with the node's.
    async fn pull(&self, handler: &str, image: &str) -> Result<Image, image::Error> {
        let images = &self.room.deps.images;
        for credentials in of_registry(&self.life.given, image) {
            let pulled = images.pull_for(handler, image, Some(credentials.clone())).await;
            if let Ok(pulled) = pulled {
                self.note_pulled(&pulled, image, Some(&credentials)).await;
                return Ok(pulled);
            }
        }
        let pulled = images.pull_for(handler, image, None).await?;
        self.note_pulled(&pulled, image, None).await;
        Ok(pulled)
    }

    /// Whether the pod may use a local image, considering the credentials it was pulled with.
    fn may_use(&self, found: &Image, image: &str) -> bool {
        let given = of_registry(&self.life.given, image);
        self.room.pulled.allows(&found.id.to_string(), &repository(image), &given)
    }

    async fn note_pulled(&self, pulled: &Image, image: &str, credentials: Option<&Credentials>) {
        let deps = &self.room.deps;
        let present = async || {
            let all = deps.images.list(None).await.unwrap_or_default();
            all.into_iter().map(|image| image.id.to_string()).collect()
        };
        let (id, repository) = (pulled.id.to_string(), repository(image));
        self.room.pulled.note(&deps.store, &id, &repository, credentials, present).await;
    }
}

/// Registry and repository of an image.
fn repository(image: &str) -> String {
    let reference = Reference::parse(image);
    reference.map_or_else(|_| image.to_owned(), |it| format!("{}/{}", it.host(), it.repository()))
}
