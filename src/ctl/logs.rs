//! `logs`: the output of containers.

mod lines;

use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::AsyncWriteExt as _;
use tonic_types::StatusExt as _;

use self::lines::Lines;
use super::apply::object;
use super::connect::Client;
use super::container::default_of;
use super::error::Error;
use super::get;
use super::print::{items, text};
use super::scope::{Namespace, Selection, duration, pod_name, wire_duration};
use super::screen::Screen;
use crate::proto::podbay::v1::{LogsRequest, Pod};

/// Default number of last lines of each of several pods.
const FEW: u64 = 10;

/// What `logs` takes.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// NAME or pod/NAME
    #[arg(value_name = "POD", value_parser = pod_name, required_unless_present = "selector")]
    pub pod: Option<String>,
    /// Container [default: the one in annotation kubectl.kubernetes.io/default-container, or the
    /// first]
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    pub positional: Option<String>,
    /// Container
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_containers")]
    pub container: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Logs of all pods that match this label selector
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "pod")]
    pub selector: Option<String>,
    /// Logs of all containers
    #[arg(long, conflicts_with = "positional")]
    pub all_containers: bool,
    /// Prefix each line with its pod and container name
    #[arg(long)]
    pub prefix: bool,
    /// Follow the log across restarts until the pod ends
    #[arg(short, long)]
    pub follow: bool,
    /// Maximum number of containers to follow at once
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub max_log_requests: usize,
    /// Continue if one of several logs cannot be read
    #[arg(long)]
    pub ignore_errors: bool,
    /// Log of the container before its last restart
    #[arg(short, long)]
    pub previous: bool,
    /// Number of last lines, -1 for all [default: -1, or 10 with a selector]
    #[arg(long, value_name = "LINES", allow_negative_numbers = true)]
    pub tail: Option<i64>,
    /// Only lines newer than this duration, e.g. 90s or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "since_time")]
    pub since: Option<Duration>,
    /// Only lines after this time, e.g. 2026-01-02T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since_time: Option<OffsetDateTime>,
    /// Print the timestamp of each line
    #[arg(long)]
    pub timestamps: bool,
    /// Maximum bytes per container
    #[arg(long, value_name = "BYTES")]
    pub limit_bytes: Option<u64>,
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|_| "not a time such as 2026-01-02T15:04:05Z".to_owned())
}

/// The log of a container: names of its pod and of itself.
type Source = (String, String);

/// Copies logs to standard output.
pub async fn logs(client: &mut Client, args: &LogsArgs, screen: Screen) -> Result<(), Error> {
    if args.tail.is_some_and(|tail| tail < -1) {
        return Err(Error::Misuse("--tail: must be a number of lines, or -1 for all".to_owned()));
    }
    let sources = sources(client, args, screen).await?;
    if args.follow && sources.len() > args.max_log_requests {
        return Err(Error::Misuse(format!(
            "you are attempting to follow {} log streams, but maximum allowed concurrency is {}, \
             use --max-log-requests to increase the limit",
            sources.len(),
            args.max_log_requests
        )));
    }
    let mut out = tokio::io::stdout();
    let several = sources.len() > 1;
    let mut followed = futures::stream::SelectAll::new();
    let (mut begun, mut skipped) = (false, None);
    for source in &sources {
        let request = request(client, args, source);
        let pieces = match client.pods.logs(request).await {
            Ok(pieces) => pieces.into_inner(),
            // Of several containers, those that have not started are skipped.
            Err(status) if several && args.all_containers && not_begun(&status) => {
                skipped.get_or_insert(status);
                continue;
            }
            Err(status) if args.ignore_errors => {
                screen.note(Error::from(status).report().trim_end());
                continue;
            }
            Err(status) => return Err(status.into()),
        };
        begun = true;
        let prefix = args.prefix.then(|| format!("[pod/{}/{}] ", source.0, source.1));
        let together = args.follow && several;
        let pieces = Lines::new(prefix, args.limit_bytes, together).of(pieces);
        if together {
            followed.push(Box::pin(pieces));
        } else {
            write(&mut out, Box::pin(pieces), args, screen).await?;
        }
    }
    match skipped {
        Some(status) if !begun && !args.ignore_errors => Err(status.into()),
        _ => write(&mut out, followed, args, screen).await,
    }
}

/// Whether a container has no log because it was not started.
fn not_begun(status: &tonic::Status) -> bool {
    let details = status.get_error_details();
    details.error_info().is_some_and(|info| info.reason == "CONTAINER_NOT_READY")
}

/// The selected logs.
async fn sources(
    client: &mut Client,
    args: &LogsArgs,
    screen: Screen,
) -> Result<Vec<Source>, Error> {
    let named = args.container.clone().or_else(|| args.positional.clone());
    let Some(pod) = &args.pod else {
        let selection = Selection {
            namespace: args.namespace.clone(),
            selector: args.selector.clone(),
            ..Selection::default()
        };
        let (pods, _) = get::list(client, &selection, None).await?;
        if pods.is_empty() {
            screen.note(&get::nothing(client, &selection));
        }
        let of = |pod: &Pod| containers(pod, args, named.as_deref(), None);
        return Ok(pods.iter().map(of).collect::<Result<Vec<_>, _>>()?.concat());
    };
    if let Some(named) = named {
        return Ok(vec![(pod.clone(), named)]);
    }
    match get::pod(client, &args.namespace, pod).await {
        Ok(Some(found)) => containers(&found, args, None, Some(screen)),
        // The call for the log reports errors; the agent knows the default container.
        _ if !args.all_containers => Ok(vec![(pod.clone(), String::new())]),
        Ok(None) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// The selected containers of a pod; the choice is reported if there is a screen for it.
fn containers(
    pod: &Pod,
    args: &LogsArgs,
    named: Option<&str>,
    screen: Option<Screen>,
) -> Result<Vec<Source>, Error> {
    let source = |container: &str| (pod.name.clone(), container.to_owned());
    if let Some(named) = named {
        return Ok(vec![source(named)]);
    }
    let object = object(pod)?;
    if args.all_containers {
        let of = |list: &str| items(&object, &format!("/spec/{list}"));
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let all = lists.into_iter().flat_map(of);
        return Ok(all.map(|container: &Value| source(text(container, "/name"))).collect());
    }
    let (first, said) = default_of(&object);
    if let (Some(screen), Some(said)) = (screen, said) {
        screen.note(&said);
    }
    Ok(vec![source(&first)])
}

fn request(client: &Client, args: &LogsArgs, (pod, container): &Source) -> LogsRequest {
    let since_time = args.since_time.map(|time| prost_types::Timestamp {
        seconds: time.unix_timestamp(),
        nanos: time.nanosecond() as i32,
    });
    let all = if args.selector.is_some() { Some(FEW) } else { None };
    LogsRequest {
        namespace: args.namespace.of(client),
        name: pod.clone(),
        container: container.clone(),
        all_containers: false,
        previous: args.previous,
        follow: args.follow,
        tail_lines: args.tail.map_or(all, |tail| u64::try_from(tail).ok()),
        since_time,
        since: args.since.map(wire_duration),
        limit_bytes: args.limit_bytes,
        timestamps: args.timestamps,
    }
}

/// Writes pieces unchanged: logs are bytes.
async fn write(
    out: &mut tokio::io::Stdout,
    mut pieces: impl futures::Stream<Item = Result<Vec<u8>, tonic::Status>> + Unpin,
    args: &LogsArgs,
    screen: Screen,
) -> Result<(), Error> {
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(data) => {
                out.write_all(&data).await.map_err(Error::output)?;
                out.flush().await.map_err(Error::output)?;
            }
            Err(status) if args.ignore_errors => {
                screen.note(Error::from(status).report().trim_end());
            }
            Err(status) => return Err(status.into()),
        }
    }
    Ok(())
}

/// Copies the answer to a request to standard output.
pub(super) async fn copy(client: &mut Client, request: LogsRequest) -> Result<(), Error> {
    let mut pieces = client.pods.logs(request).await?.into_inner();
    let mut out = tokio::io::stdout();
    while let Some(piece) = pieces.message().await? {
        out.write_all(&piece.data).await.map_err(Error::output)?;
        out.flush().await.map_err(Error::output)?;
    }
    Ok(())
}
