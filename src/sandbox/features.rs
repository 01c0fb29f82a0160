//! Features of the runtime handlers, as their runtimes report them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::timeout;

use crate::backend::{ErrorKind, HandlerFeatures, Runtime, RuntimeHandler};
use crate::locks::{Mutex, MutexGuard};
use crate::telemetry::error_chain;

/// How long to wait for a runtime when the features are only reported.
pub(super) const GLANCE: Duration = Duration::from_secs(2);

/// How long to wait when a pod or container cannot be made without knowing the features.
pub(super) const NEED: Duration = Duration::from_secs(30);

/// Features by handler name; they do not change while the agent runs.
#[derive(Debug, Default)]
pub(super) struct Features(Mutex<BTreeMap<String, HandlerFeatures>>);

impl Features {
    /// The features known so far.
    pub(super) fn known(&self) -> MutexGuard<'_, BTreeMap<String, HandlerFeatures>> {
        self.0.lock()
    }

    /// Queries the features of handlers for which they are unknown, waiting up to `patience` for
    /// each. Only definite answers are kept: a runtime without such a query has no special
    /// features; one that fails or is too slow is queried again by the next call.
    pub(super) async fn learn(
        &self,
        runtime: &dyn Runtime,
        handlers: impl Iterator<Item = &RuntimeHandler>,
        patience: Duration,
    ) {
        // Collected by name, since the default handler is listed under two keys.
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
                    tracing::warn!(handler, error, "runtime handler does not report its features");
                    HandlerFeatures::default()
                }
                // Logged at debug level only: a kubelet asks for the status all the time, and a
                // caller that needs the features gets an error.
                Ok(Err(error)) => {
                    let error = error_chain(&error);
                    tracing::debug!(handler, error, "cannot query features of runtime handler yet");
                    continue;
                }
                Err(_late) => continue,
            };
            self.known().insert(handler.clone(), features);
        }
    }
}
