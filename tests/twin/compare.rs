//! Runs scenarios on both sides and compares the observations.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _};
use podbay::proto::runtime::v1 as cri;
use serde_json::Value;

use crate::exceptions::{EXCEPTIONS, Exception};
use crate::facts::Normaliser;
use crate::rig::Rig;
use crate::support::containerd::Line;

/// Scenarios of a chapter that run at a time, each on both sides.
const AT_ONCE: usize = 4;

/// How long a scenario may take on a busy machine; only to end one that hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// Codes that say more than `Unknown`; the plugin gives that one for most errors.
const BETTER_CODES: [&str; 6] = [
    "InvalidArgument",
    "FailedPrecondition",
    "NotFound",
    "Unavailable",
    "OutOfRange",
    "ResourceExhausted",
];

/// A scenario makes its calls on one side and returns what it found.
pub type Run = fn(Arc<Rig>) -> Pin<Box<dyn Future<Output = Value>>>;

/// One row: the name, as the conformance suite has it where it has one, and the calls.
pub struct Scenario {
    pub name: &'static str,
    pub run: Run,
}

/// A table of scenarios: `"name" => function,` each.
macro_rules! scenarios {
    ($($name:literal => $run:path,)*) => {
        pub const SCENARIOS: &[crate::compare::Scenario] = &[$(
            crate::compare::Scenario { name: $name, run: |rig| Box::pin($run(rig)) },
        )*];
    };
}
pub(crate) use scenarios;

/// Runs a chapter; panics with every difference that no exception explains, and with every
/// exception that explains nothing. `TWIN_ONLY` runs only scenarios with this text in their names.
pub async fn run(chapter: &str, scenarios: &[Scenario]) {
    let only = std::env::var("TWIN_ONLY").unwrap_or_default();
    let chosen: Vec<_> = scenarios.iter().filter(|it| it.name.contains(&only)).collect();
    if chosen.is_empty() {
        assert!(!only.is_empty(), "a chapter without scenarios");
        return;
    }
    let (ours, theirs) = tokio::join!(Rig::start(Line::V2), Rig::start_plugin());
    let (ours, theirs) = (Arc::new(ours), Arc::new(theirs));
    let found = futures::stream::iter(chosen.iter().map(|scenario| {
        let (ours, theirs) = (Arc::clone(&ours), Arc::clone(&theirs));
        async move { tokio::join!(one_side(scenario.run, ours), one_side(scenario.run, theirs)) }
    }))
    .buffered(AT_ONCE)
    .collect::<Vec<_>>()
    .await;
    let mut faults = Vec::new();
    for (scenario, (ours, theirs)) in chosen.iter().zip(found) {
        faults.extend(judge(scenario.name, &ours, &theirs));
    }
    finish(&ours).await;
    finish(&theirs).await;
    ours.agent.assert_no_pod_is_left().await;
    let count = chosen.len();
    assert!(faults.is_empty(), "{chapter}, {count} scenarios:\n\n{}\n", faults.join("\n\n"));
}

async fn one_side(run: Run, rig: Arc<Rig>) -> Value {
    let done = AssertUnwindSafe(run(Arc::clone(&rig))).catch_unwind();
    let found = match tokio::time::timeout(LIMIT, done).await {
        Ok(Ok(found)) => found,
        Err(_) => Value::from(format!("panic: not over within {LIMIT:?}")),
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Value::from(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    Normaliser::new(&rig).apply(found)
}

fn judge(name: &str, ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    differences("", ours, theirs, &mut found);
    let rows: Vec<_> = EXCEPTIONS.iter().filter(|row| row.scenario == name).collect();
    let explains = |row: &Exception, difference: &Difference| {
        covers(row.path, &difference.path) && (!row.more || difference.theirs == ABSENT)
    };
    let unused = rows.iter().filter(|row| !found.iter().any(|it| explains(row, it)));
    let stale = unused.map(|row| format!("{name}\n  no difference at {:?} any more", row.path));
    let mut faults: Vec<_> = stale.collect();
    let unexplained = found.iter().filter(|it| !rows.iter().any(|row| explains(row, it)));
    faults.extend(unexplained.map(|it| {
        format!("{name}\n  at {}\n  podbay: {}\n  plugin: {}", it.path, it.ours, it.theirs)
    }));
    let panicked = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("panic"));
    if panicked(ours) && panicked(theirs) {
        faults.push(format!("{name}\n  does not work at all: {ours}\n  {theirs}"));
    }
    faults
}

/// Whether a difference at `path` is at or below `row`; a `*` part is any name.
fn covers(row: &str, path: &str) -> bool {
    let (row, path): (Vec<_>, Vec<_>) = (row.split('/').collect(), path.split('/').collect());
    // The top has one part, the empty one.
    row.len() <= path.len() && row.iter().zip(&path).all(|(row, part)| *row == "*" || row == part)
}

/// Stands for a field that one side does not have.
const ABSENT: &str = "(absent)";

/// A place where the sides differ.
struct Difference {
    path: String,
    ours: Value,
    theirs: Value,
}

/// Where two values differ, as paths of keys and positions.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<Difference>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let (a, b) = (a.get(key), b.get(key));
                let absent = Value::from(ABSENT);
                let (a, b) = (a.unwrap_or(&absent), b.unwrap_or(&absent));
                differences(&format!("{path}/{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (position, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}/{position}"), a, b, found);
            }
        }
        // Where the plugin knows no code, podbay may tell one.
        (Value::String(ours), Value::String(theirs))
            if theirs == "Unknown" && BETTER_CODES.contains(&ours.as_str()) => {}
        (ours, theirs) if ours != theirs => {
            found.push(Difference {
                path: path.into(),
                ours: ours.clone(),
                theirs: theirs.clone(),
            });
        }
        _ => {}
    }
}

/// Removes all pods of a side.
async fn finish(rig: &Rig) {
    for pod in rig.pods(cri::PodSandboxFilter::default()).await {
        rig.remove_pod(&pod.id).await;
    }
}
