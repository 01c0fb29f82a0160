//! What the runtime handlers can do: asked of the runtimes, once.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::backend::{ErrorKind, HandlerFeatures, Runtime, RuntimeHandler};
use crate::telemetry::error_chain;

/// How long somebody who wants to know waits for a runtime.
const PATIENCE: Duration = Duration::from_secs(2);

/// Features by the handler's own name; they do not change while the agent lives.
#[derive(Debug, Default)]
pub(super) struct Features(Mutex<BTreeMap<String, HandlerFeatures>>);

impl Features {
    /// Those that are known.
    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<String, HandlerFeatures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the features of the handlers of which they are not known. A handler that refuses
    /// to tell can do nothing special; one that gives no answer is asked again by the next call.
    pub(super) async fn learn(
        &self,
        runtime: &dyn Runtime,
        handlers: impl Iterator<Item = &RuntimeHandler>,
    ) {
        // The default handler is there under two names.
        let mut unknown: BTreeMap<&str, &RuntimeHandler> =
            handlers.map(|handler| (handler.name.as_str(), handler)).collect();
        unknown.retain(|name, _| !self.known().contains_key(*name));
        let answers = join_all(unknown.into_values().map(|handler| async move {
            (handler, timeout(PATIENCE, runtime.features(handler)).await)
        }));
        for (handler, answer) in answers.await {
            let features = match answer {
                Ok(Ok(features)) => features,
                Ok(Err(error)) if error.kind != ErrorKind::Unavailable => {
                    let error = error_chain(&error);
                    tracing::warn!(handler = handler.name, error, "handler tells no features");
                    HandlerFeatures::default()
                }
                Ok(Err(_)) | Err(_) => continue,
            };
            self.known().insert(handler.name.clone(), features);
        }
    }
}
