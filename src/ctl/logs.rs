//! `logs`: what containers have written.

use std::time::Duration;

use clap::Args;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;

use super::connect::Client;
use super::error::Error;
use super::scope::{Namespace, duration, pod_name, wire_duration};
use crate::proto::podbay::v1::LogsRequest;

/// What `logs` takes.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name)]
    pub pod: String,
    /// The container [default: the only one, or that of the annotation
    /// kubectl.kubernetes.io/default-container]
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    pub positional: Option<String>,
    /// The container
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_containers")]
    pub container: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Of all containers, each line with the name of its container before it
    #[arg(long, conflicts_with = "positional")]
    pub all_containers: bool,
    /// Go on with what comes, until the pod ends
    #[arg(short, long)]
    pub follow: bool,
    /// Of the container before the last restart
    #[arg(short, long)]
    pub previous: bool,
    /// This many last lines; -1 for all
    #[arg(long, value_name = "LINES", default_value_t = -1, allow_negative_numbers = true)]
    pub tail: i64,
    /// What is younger than this, e.g. 90s or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "since_time")]
    pub since: Option<Duration>,
    /// What is newer than this time, e.g. 2026-01-02T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since_time: Option<OffsetDateTime>,
    /// Each line with its time
    #[arg(long)]
    pub timestamps: bool,
    /// At most so many bytes
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "not a time as 2026-01-02T15:04:05Z".to_owned())
}

/// Copies the log to standard output.
pub async fn logs(client: &mut Client, args: &LogsArgs) -> Result<(), Error> {
    if args.tail < -1 {
        return Err(Error::Misuse("--tail: must be a number of lines, or -1 for all".to_owned()));
    }
    let container = args.container.clone().or_else(|| args.positional.clone());
    let since_time = args.since_time.map(|time| prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: time.nanosecond() as i32,
    });
    let request = LogsRequest {
        namespace: args.namespace.of(client),
        name: args.pod.clone(),
        container: container.unwrap_or_default(),
        all_containers: args.all_containers,
        previous: args.previous,
        follow: args.follow,
        tail_lines: u64::try_from(args.tail).ok(),
        since_time,
        since: args.since.map(wire_duration),
        limit_bytes: args.limit_bytes,
        timestamps: args.timestamps,
    };
    copy(client, request).await
}

/// Copies what a request gives to standard output.
pub(super) async fn copy(client: &mut Client, request: LogsRequest) -> Result<(), Error> {
    let mut pieces = client.pods.logs(request).await?.into_inner();
    let mut out = tokio::io::stdout();
    while let Some(piece) = pieces.message().await? {
        // Logs are bytes: they go out as they are.
        out.write_all(&piece.data).await.map_err(Error::output)?;
        out.flush().await.map_err(Error::output)?;
    }
    Ok(())
}
