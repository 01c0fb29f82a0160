//! What is remembered of a pod: its row of the store.
//!
//! ```text
//! life ──verdict──> ending ──all ended──> settled (Succeeded or Failed, shown until deleted)
//!   └───deletion──> ending ──all ended──> finished: the row goes
//! ```
//! Neither a verdict nor a deletion is ever taken back, but for [`Life::begin_again`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backoff::{self, Backoff, later};
use super::object::Given;
use super::renew::Pending;
use crate::ids::{ContainerId, PodId};
use crate::model::UnixNanos;
use crate::store::Record;

/// Grace period of a pod that names none.
const DEFAULT_GRACE: i64 = 30;

/// The shortest grace period of a pod.
const SHORTEST_GRACE: Duration = Duration::from_secs(1);

/// How long a pull that failed is told as such: a kubelet looks at a pod again after that.
const LONGEST_ERROR: Duration = Duration::from_secs(10);

/// Reason of a pod that ended to make room for a critical one.
pub const PREEMPTED: &str = "Preempting";

/// All that is remembered of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Life {
    /// Its uid: the key of the row.
    pub uid: String,
    /// The pod as wanted.
    pub given: Given,
    /// Uid of the pod of the same name that has to be gone before this one begins.
    #[serde(default)]
    pub follows: Option<String>,
    /// Uids of the pods that have to end, because it needs their room, before it begins.
    #[serde(default)]
    pub preempts: Vec<String>,
    /// First of the ids on the host that are its own users'.
    #[serde(default)]
    pub user_ids: Option<u32>,
    /// When it was accepted here (`status.startTime`).
    #[serde(default)]
    pub started: Option<UnixNanos>,
    /// Counts what its spec was (`metadata.generation`).
    #[serde(default = "first_generation")]
    pub generation: i64,
    /// Resources that it asks for and the node has no room for.
    #[serde(default)]
    pub asked: Option<Box<Pending>>,
    /// How many sandboxes were made for it.
    #[serde(default)]
    pub sandboxes: u32,
    /// Why there is no sandbox, or no volumes.
    #[serde(default)]
    pub trouble: Option<Trouble>,
    /// Its last addresses, the first is the pod IP.
    #[serde(default)]
    pub ips: Vec<std::net::IpAddr>,
    /// Its end, once that is decided.
    #[serde(default)]
    pub verdict: Option<Verdict>,
    /// Its deletion, once that is asked for.
    #[serde(default)]
    pub deletion: Option<Deletion>,
    /// The node did not take it: it has failed from the start, and nothing was made for it.
    #[serde(default)]
    pub rejected: bool,
    /// Boot id of the host whose shutdown ended it.
    #[serde(default)]
    pub ended_with: Option<String>,
    /// After a verdict: nothing runs, volumes and cgroup are gone.
    #[serde(default)]
    pub settled: bool,
    /// Its containers by name.
    #[serde(default)]
    pub units: BTreeMap<String, Unit>,
    /// Conditions with the time of their last change, by type.
    #[serde(default)]
    pub conditions: BTreeMap<String, Since>,
}

impl Record for Life {
    const TABLE: &'static str = "pods";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.uid
    }
}

/// One container of the spec over all its restarts.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unit {
    /// Its newest container.
    pub current: Option<Instance>,
    /// How many were made.
    pub made: u32,
    /// How the one before ended.
    pub last: Option<Termination>,
    /// The one before, while it is kept for its log.
    pub previous: Option<ContainerId>,
    /// Pauses between restarts.
    pub backoff: Option<Backoff>,
    /// Why it cannot be started.
    pub trouble: Option<Trouble>,
    /// A caller wants it to be started again when this one has ended.
    pub again: Option<ContainerId>,
}

impl Unit {
    /// How often it was restarted.
    pub fn restarts(&self) -> u32 {
        self.made.saturating_sub(1)
    }

    /// How its newest container ended.
    pub fn ended(&self) -> Option<&Termination> {
        match &self.current.as_ref()?.state {
            State::Ended(end) => Some(end),
            _ => None,
        }
    }
}

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Id.
    pub id: ContainerId,
    /// The sandbox that it is in.
    pub sandbox: PodId,
    /// How many there were before.
    pub attempt: u32,
    /// Image as the spec named it.
    pub image: String,
    /// Image as it was found.
    pub image_id: String,
    /// Whose its first process is, once that is known.
    #[serde(default)]
    pub user: Option<User>,
    /// State.
    pub state: State,
    /// Whether postStart has still to be run.
    #[serde(default)]
    pub post_start_due: bool,
    /// Whether its startup probe has succeeded, or it runs without one.
    #[serde(default)]
    pub started: bool,
    /// Whether it is ready.
    #[serde(default)]
    pub ready: bool,
    /// Why it is to be ended while the pod lives on.
    #[serde(default)]
    pub doom: Option<Doom>,
}

/// User and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// First group.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
}

impl Instance {
    /// Whether its process runs, or may run.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Running { .. } | State::Unknown)
    }

    /// Whether others may go on because it runs: started, and postStart done.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.started && !self.post_start_due
    }
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Made, not started.
    Created,
    /// Its process runs.
    Running {
        /// Since when.
        started_at: UnixNanos,
    },
    /// It ended.
    Ended(Termination),
    /// Nothing below answers about it.
    Unknown,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// Which.
    pub id: ContainerId,
    /// When it was started, if it was.
    pub started_at: Option<UnixNanos>,
    /// When it ended.
    pub finished_at: UnixNanos,
    /// Exit code.
    pub code: i32,
    /// `Completed`, `Error`, `OOMKilled`, …
    pub reason: String,
    /// Its termination message, or what went wrong.
    pub message: String,
}

/// Why a running container is to be ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doom {
    /// In words.
    pub message: String,
    /// Since when.
    pub since: UnixNanos,
    /// Grace period.
    pub grace: Duration,
    /// It has to be started again to have other resources, which wait for its end.
    #[serde(default)]
    pub for_resize: bool,
}

/// Something that failed and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Kubernetes' word, e.g. `ErrImagePull`.
    pub reason: String,
    /// What the last try ended with.
    pub message: String,
    /// When the first of these tries failed.
    pub since: UnixNanos,
    /// When the last of these tries failed.
    pub failed: UnixNanos,
    /// When the next try is made.
    pub next_try: UnixNanos,
    /// Pauses between the tries.
    pub backoff: Backoff,
    /// It was told that it waits; only of what is told so ([`Trouble::turns_at`]).
    #[serde(default)]
    pub backs_off: bool,
}

impl Trouble {
    /// Whether it is about an image, and not about what the pod refers to.
    pub fn is_of_image(&self) -> bool {
        is_of_image(&self.reason)
    }

    /// One more failure.
    pub fn again(
        before: Option<&Self>,
        reason: &str,
        message: String,
        now: UnixNanos,
        policy: &backoff::Policy,
    ) -> Self {
        let same = before.filter(|before| before.reason == reason);
        let backoff = Backoff::next(same.map(|same| same.backoff), now, now, policy);
        Self {
            reason: reason.to_owned(),
            message,
            since: before.map_or(now, |before| before.since),
            failed: now,
            next_try: later(now, backoff.pause),
            backoff,
            backs_off: false,
        }
    }

    /// When a pull that failed is not an error any more but a wait for the next try.
    pub fn turns_at(&self) -> Option<UnixNanos> {
        let shown = (self.backoff.pause / 2).min(LONGEST_ERROR);
        (self.reason == "ErrImagePull").then(|| later(self.failed, shown))
    }
}

/// The decided end of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether it succeeded.
    pub succeeded: bool,
    /// Kubernetes' word; empty for an end by its containers' own.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When.
    pub at: UnixNanos,
    /// Until when what runs still may.
    pub deadline: UnixNanos,
    /// The node took it away (condition `DisruptionTarget`).
    #[serde(default)]
    pub disrupted: bool,
}

/// A deletion under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When it was asked for.
    pub since: UnixNanos,
    /// Grace period in force; it only shrinks.
    pub grace: Duration,
    /// Until when what runs still may.
    pub deadline: UnixNanos,
    /// Nobody is shown this pod any more.
    pub hidden: bool,
}

/// A condition's status and since when it has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// `True` or not.
    pub status: bool,
    /// When it became so.
    pub at: UnixNanos,
}

/// Whether this is a reason of Kubernetes for an image that is not there.
pub fn is_of_image(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError"
    )
}

fn first_generation() -> i64 {
    1
}

impl Life {
    /// A new pod.
    pub fn new(given: Given) -> Self {
        Self {
            uid: given.uid().to_owned(),
            given,
            follows: None,
            preempts: Vec::new(),
            user_ids: None,
            started: None,
            generation: first_generation(),
            asked: None,
            sandboxes: 0,
            trouble: None,
            ips: Vec::new(),
            verdict: None,
            deletion: None,
            rejected: false,
            ended_with: None,
            settled: false,
            units: BTreeMap::new(),
            conditions: BTreeMap::new(),
        }
    }

    /// The grace period of its spec.
    pub fn grace(&self) -> Duration {
        let seconds = self.given.spec().termination_grace_period_seconds;
        let seconds = u64::try_from(seconds.unwrap_or(DEFAULT_GRACE)).unwrap_or(1);
        Duration::from_secs(seconds).max(SHORTEST_GRACE)
    }

    /// Whether it is being ended for good.
    pub fn is_ending(&self) -> bool {
        self.verdict.is_some() || self.deletion.is_some()
    }

    /// Until when its containers may run: the earliest of what was promised.
    pub fn deadline(&self) -> Option<UnixNanos> {
        let deletion = self.deletion.as_ref().map(|deletion| deletion.deadline);
        let verdict = self.verdict.as_ref().map(|verdict| verdict.deadline);
        deletion.into_iter().chain(verdict).min()
    }

    /// Begins the deletion, or shortens its grace period; a longer one changes nothing.
    pub fn delete(&mut self, grace: Option<Duration>, hide: bool, now: UnixNanos) {
        let grace = grace.unwrap_or_else(|| self.grace()).max(SHORTEST_GRACE);
        let deadline = later(now, grace);
        match &mut self.deletion {
            Some(deletion) => {
                if deadline < deletion.deadline {
                    deletion.deadline = deadline;
                    deletion.grace = deletion.grace.min(grace);
                }
                deletion.hidden |= hide;
            }
            None => self.deletion = Some(Deletion { since: now, grace, deadline, hidden: hide }),
        }
    }

    /// Decides the end; the first verdict stands.
    pub fn judge(&mut self, verdict: Verdict) {
        self.verdict.get_or_insert(verdict);
    }

    /// What is needed of it when the store is lost. What runs tells the rest.
    pub fn keepsake(&self) -> Self {
        Self {
            sandboxes: 0,
            trouble: None,
            ips: Vec::new(),
            units: BTreeMap::new(),
            conditions: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Whether it is a static pod that ended with a shutdown of the host. That is the one verdict
    /// that is taken back: its file still has it.
    pub fn is_static_ended_with_host(&self) -> bool {
        self.ended_with.is_some() && self.given.source.is_static() && self.deletion.is_none()
    }

    /// The shutdown that ended it is over, or was taken back.
    pub fn begin_again(&mut self) {
        self.ended_with = None;
        self.verdict = None;
        self.settled = false;
        self.conditions.remove("DisruptionTarget");
    }

    /// Another agent goes on with it, in this boot of the host: a deletion that waits has its whole
    /// grace period again.
    pub fn taken_over(&mut self, now: UnixNanos, boot: &str) {
        if self.is_static_ended_with_host() && self.ended_with.as_deref() != Some(boot) {
            self.begin_again();
        }
        if let Some(deletion) = &mut self.deletion {
            deletion.deadline = later(now, deletion.grace);
        }
    }

    /// A container by name, made when there is none.
    pub fn unit(&mut self, name: &str) -> &mut Unit {
        self.units.entry(name.to_owned()).or_default()
    }
}
