//! Attaches to a container that was just made, for `run` and `debug`.

use std::time::{Duration, Instant};

use tonic::Code;

use super::connect::Client;
use super::debug::Waiting;
use super::error::Error;
use super::exec::{self, AttachArgs};
use super::logs;
use super::screen::Screen;
use crate::proto::podbay::v1::LogsRequest;

/// A container that has ended is shown as running for no longer than this.
const LATE: Duration = Duration::from_secs(2);
/// Polling interval for its end.
const LOOK: Duration = Duration::from_millis(100);

/// Attaches to a container until it ends. If it ended too early to be heard, its log is shown.
pub(super) async fn join(
    client: &mut Client,
    waiting: &Waiting<'_>,
    attach: &AttachArgs,
    screen: Screen,
) -> Result<(), Error> {
    if waiting.runs(client, screen).await? {
        let silent = match exec::attach(client, attach, screen).await {
            Ok(true) => return Ok(()),
            Ok(false) => Ok(()),
            // It may have ended meanwhile; then its log still exists.
            Err(Error::Agent(status))
                if !matches!(status.code(), Code::PermissionDenied | Code::Unavailable) =>
            {
                Err(Error::Agent(status))
            }
            Err(error) => return Err(error),
        };
        let limit = Instant::now() + LATE;
        while waiting.runs(client, screen).await? {
            if Instant::now() > limit {
                return silent;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    let request = LogsRequest {
        namespace: waiting.namespace.clone(),
        name: waiting.pod.to_owned(),
        container: waiting.name.to_owned(),
        ..LogsRequest::default()
    };
    logs::copy(client, request).await
}
