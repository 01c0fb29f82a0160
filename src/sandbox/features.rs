//! What the runtime handlers can do: asked of the runtimes, once they tell.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::backend::{ErrorKind, HandlerFeatures, Runtime, RuntimeHandler};
use crate::locks::{Mutex, MutexGuard};
use crate::telemetry::error_chain;

/// How long somebody who only wants to tell waits for a runtime.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// How long a pod or container that stands or falls with the answer waits for it.
pub(super) const NEED: Duration = Duration::from_secs(30);

/// Features by the handler's own name; they do not change while the agent lives.
#[derive(Debug, Default)]
pub(super) struct Features(Mutex<BTreeMap<String, HandlerFeatures>>);

impl Features {
    /// Those that are known.
    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<String, HandlerFeatures>> {
        self.0.lock()
    }

    /// Asks for the features of the handlers of which they are not known, each for so long. Only
    /// a definite answer is kept: a runtime that cannot be asked can do nothing special, and one
    /// that fails or is too slow is asked again by the next call.
    pub(super) async fn learn(
        &self,
        runtime: &dyn Runtime,
        handlers: impl Iterator<Item = &RuntimeHandler>,
        patience: Duration,
    ) {
        // The default handler is there under two names.
        let mut unknown: BTreeMap<&str, &RuntimeHandler> =
            handlers.map(|handler| (handler.name.as_str(), handler)).collect();
        unknown.retain(|name, _| !self.known().contains_key(*name));
        let answers = join_all(unknown.into_values().map(|handler| async move {
            (handler, timeout(patience, runtime.features(handler)).await)
        }));
        for (handler, answer) in answers.await {
            let handler = &handler.name;
            let features = match answer {
                Ok(Ok(features)) => features,
                Ok(Err(error)) if error.kind == ErrorKind::Unsupported => {
                    let error = error_chain(&error);
                    tracing::warn!(handler, error, "handler cannot be asked for its features");
                    HandlerFeatures::default()
                }
                // Whoever needs to know is told; a kubelet asks for the status all the time.
                Ok(Err(error)) => {
                    let error = error_chain(&error);
                    tracing::debug!(handler, error, "features not known yet");
                    continue;
                }
                Err(_late) => continue,
            };
            self.known().insert(handler.clone(), features);
        }
    }
}
