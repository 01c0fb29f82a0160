//! Parses requests.

use std::time::Duration;

use tonic::Status;

use crate::model::UnixNanos;
use crate::model::streams::TerminalSize;
use crate::pod::{self, Manner, PodKey, Preconditions, Revision, Selector};
use crate::proto::podbay::v1;
use crate::serve::status::bad_field;

type Parsed<T> = Result<T, Status>;

/// The default namespace.
const NAMESPACE: &str = "default";

/// The key of a pod; the namespace defaults to `default`.
pub(in crate::serve::pods) fn key(namespace: String, name: String) -> Parsed<PodKey> {
    if name.is_empty() {
        return Err(bad_field("name", "must be given"));
    }
    let namespace = if namespace.is_empty() { NAMESPACE.to_owned() } else { namespace };
    Ok(PodKey { namespace, name })
}

/// A pod selector; a missing one is empty.
pub(in crate::serve::pods) fn selector(selector: Option<v1::Selector>) -> Selector {
    let v1::Selector { namespace, name, labels, fields } = selector.unwrap_or_default();
    Selector { namespace, name, labels, fields }
}

/// The revision after which to continue.
pub(in crate::serve::pods) fn after(after: Option<v1::Revision>) -> Parsed<Option<Revision>> {
    let Some(v1::Revision { epoch, number }) = after else { return Ok(None) };
    if epoch.is_empty() {
        return Err(bad_field("after.epoch", "must be set: a number without it is ambiguous"));
    }
    Ok(Some(Revision { epoch, number }))
}

fn preconditions(given: Option<v1::Preconditions>) -> Preconditions {
    let given = given.unwrap_or_default();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Preconditions { uid: some(given.uid), resource_version: some(given.resource_version) }
}

/// A non-negative duration.
pub(in crate::serve::pods) fn duration(
    field: &'static str,
    given: Option<prost_types::Duration>,
) -> Parsed<Option<Duration>> {
    let parsed = given.map(|given| {
        Duration::try_from(given).map_err(|_| bad_field(field, "must not be negative"))
    });
    parsed.transpose()
}

/// Parses an Apply.
pub(in crate::serve::pods) fn apply(request: v1::ApplyRequest) -> Parsed<pod::Apply> {
    let manner = match v1::Manner::try_from(request.manner) {
        Ok(v1::Manner::Unspecified | v1::Manner::Apply) => Manner::Apply,
        Ok(v1::Manner::Create) => Manner::Create,
        Ok(v1::Manner::Replace) => Manner::Replace,
        Err(_) => {
            return Err(bad_field("manner", format!("{} is not a known manner", request.manner)));
        }
    };
    if request.manifest.trim().is_empty() {
        return Err(bad_field("manifest", "must be given"));
    }
    Ok(pod::Apply {
        manner,
        preconditions: preconditions(request.preconditions),
        dry_run: request.dry_run,
        lenient: request.lenient,
        namespace: request.namespace,
        grace: duration("grace", request.grace)?,
        any_version: request.any_version,
        manifest: request.manifest,
    })
}

/// Parses an Admit.
pub(in crate::serve::pods) fn admit(request: v1::AdmitRequest) -> Parsed<pod::Apply> {
    let v1::AdmitRequest { manifest, namespace, lenient } = request;
    apply(v1::ApplyRequest { manifest, namespace, lenient, dry_run: true, ..Default::default() })
}

/// Parses a Delete.
pub(in crate::serve::pods) fn delete(request: v1::DeleteRequest) -> Parsed<pod::Delete> {
    let grace = duration("grace", request.grace)?;
    if request.force && grace.is_some_and(|grace| !grace.is_zero()) {
        return Err(bad_field("force", "only with a grace period of zero"));
    }
    Ok(pod::Delete {
        selector: selector(request.selector),
        all: request.all,
        // With force the default grace period is zero.
        grace: if request.force { Some(Duration::ZERO) } else { grace },
        force: request.force,
        preconditions: preconditions(request.preconditions),
        dry_run: request.dry_run,
        objects: request.objects.into_iter().map(object).collect::<Parsed<_>>()?,
    })
}

fn object(name: v1::ObjectName) -> Parsed<pod::ObjectKey> {
    let kind = pod::ObjectKind::parse(&name.kind)
        .ok_or_else(|| bad_field("objects.kind", "must be ConfigMap or Secret"))?;
    Ok(pod::ObjectKey { kind, name: key(name.namespace, name.name)? })
}

/// Which part of a log to read. `since` is relative to `now`.
pub(in crate::serve::pods) fn logs(
    request: v1::LogsRequest,
    now: UnixNanos,
) -> Parsed<(PodKey, pod::LogOptions)> {
    let key = key(request.namespace, request.name)?;
    if request.all_containers && !request.container.is_empty() {
        return Err(bad_field("container", "not together with all_containers"));
    }
    if request.since.is_some() && request.since_time.is_some() {
        return Err(bad_field("since", "not together with since_time"));
    }
    let since = match (request.since_time, duration("since", request.since)?) {
        (Some(time), _) => Some(unix_nanos(time)?),
        (None, Some(since)) => {
            let nanos = i64::try_from(since.as_nanos()).unwrap_or(i64::MAX);
            Some(now.saturating_sub(nanos))
        }
        (None, None) => None,
    };
    let options = pod::LogOptions {
        container: Some(request.container).filter(|name| !name.is_empty()),
        all_containers: request.all_containers,
        previous: request.previous,
        follow: request.follow,
        tail: request.tail_lines,
        since,
        limit_bytes: request.limit_bytes,
        timestamps: request.timestamps,
    };
    Ok((key, options))
}

fn unix_nanos(time: prost_types::Timestamp) -> Parsed<UnixNanos> {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    UnixNanos::try_from(nanos).map_err(|_| bad_field("since_time", "is out of range"))
}

/// Checks a command: no program can be given an argument with a NUL.
pub(in crate::serve::pods) fn command(command: Vec<String>) -> Parsed<Vec<String>> {
    if command.is_empty() {
        return Err(bad_field("start.command", "must be given"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(bad_field("start.command", "must not contain a NUL"));
    }
    Ok(command)
}

/// Size of a terminal; callers without a terminal send zeros.
pub(in crate::serve::pods) fn terminal_size(
    size: v1::TerminalSize,
) -> Parsed<Option<TerminalSize>> {
    match (u16::try_from(size.width), u16::try_from(size.height)) {
        (Ok(0), Ok(_)) | (Ok(_), Ok(0)) => Ok(None),
        (Ok(width), Ok(height)) => Ok(Some(TerminalSize { width, height })),
        _ => Err(bad_field("resize", "must be at most 65535")),
    }
}
