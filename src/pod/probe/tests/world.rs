//! A prober whose probes run commands with given results, on a paused clock.

use std::collections::HashMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ExecAction, PodSpec, Probe};
use tokio::time::sleep;

use super::super::*;
use crate::pod::handler::{ExecEnd, ExecError, Report};

pub(super) const NOW: UnixNanos = 1_000_000_000_000_000_000;
pub(super) const SECOND: UnixNanos = 1_000_000_000;

/// The result of a command.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Code(i32),
    Broken,
    Late,
    Never,
}

/// The commands that were run, and when since the start of the test.
pub(super) type Asked = Arc<Mutex<Vec<(Duration, String)>>>;

pub(super) struct Commands {
    begin: Instant,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Asked,
}

#[async_trait]
impl Exec for Commands {
    async fn exec_sync(
        &self,
        _: &ContainerId,
        command: &[String],
        _: Option<Duration>,
    ) -> Result<ExecEnd, ExecError> {
        let name = command[0].clone();
        self.asked.lock().push((self.begin.elapsed(), name.clone()));
        let answer = self.answers.lock().get(&name).copied();
        match answer.unwrap_or(Answer::Code(0)) {
            Answer::Code(code) => Ok(ExecEnd { code, output: b"so it is".to_vec() }),
            Answer::Broken => Err(ExecError::Other("no shim".to_owned())),
            Answer::Late => Err(ExecError::Timeout),
            Answer::Never => std::future::pending().await,
        }
    }
}

pub(super) struct World {
    pub(super) prober: Prober,
    pub(super) answers: Arc<Mutex<HashMap<String, Answer>>>,
    pub(super) asked: Asked,
    pub(super) changes: Arc<Mutex<Vec<String>>>,
    pub(super) reports: Arc<Mutex<Vec<Report>>>,
    pub(super) tasks: Tasks,
}

impl World {
    pub(super) fn new() -> Self {
        Self::seeded(7)
    }

    pub(super) fn seeded(seed: u64) -> Self {
        let (answers, asked) = (Arc::default(), Asked::default());
        let changes = Arc::new(Mutex::new(Vec::new()));
        let reports = Arc::new(Mutex::new(Vec::new()));
        let (heard, told) = (Arc::clone(&changes), Arc::clone(&reports));
        let tasks = Tasks::new();
        let exec = Commands {
            begin: Instant::now(),
            answers: Arc::clone(&answers),
            asked: Arc::clone(&asked),
        };
        let prober = Prober::new(Options {
            exec: Arc::new(exec),
            tasks: tasks.clone(),
            clock: || NOW,
            seed,
            on_change: Arc::new(move |uid| heard.lock().push(uid.to_owned())),
            report: Arc::new(move |report| told.lock().push(report)),
        });
        Self { prober, answers, asked, changes, reports, tasks }
    }

    pub(super) fn answer(&self, command: &str, answer: Answer) {
        self.answers.lock().insert(command.to_owned(), answer);
    }

    /// Times in milliseconds at which a command was run.
    pub(super) fn asked(&self, command: &str) -> Vec<u128> {
        let asked = self.asked.lock();
        asked.iter().filter(|(_, name)| name == command).map(|(at, _)| at.as_millis()).collect()
    }

    pub(super) fn state(&self) -> ProbeState {
        self.prober.states("u")["web"].clone()
    }

    pub(super) fn messages(&self) -> Vec<String> {
        let reports = self.reports.lock();
        reports.iter().map(|report| format!("{}: {}", report.reason, report.message)).collect()
    }
}

pub(super) fn id(byte: char) -> ContainerId {
    ContainerId::try_from(byte.to_string().repeat(64)).unwrap()
}

pub(super) fn probe_of(command: &str) -> Probe {
    let command = Some(vec![command.to_owned()]);
    Probe {
        exec: Some(ExecAction { command }),
        period_seconds: Some(10),
        failure_threshold: Some(3),
        success_threshold: Some(1),
        timeout_seconds: Some(1),
        ..Probe::default()
    }
}

/// A pod with one container with these probes; each runs a command of the same name.
pub(super) fn pod(kinds: &[Kind]) -> Pod {
    let probe = |kind: Kind| kinds.contains(&kind).then(|| probe_of(kind.as_str()));
    let container = Container {
        name: "web".to_owned(),
        startup_probe: probe(Kind::Startup),
        liveness_probe: probe(Kind::Liveness),
        readiness_probe: probe(Kind::Readiness),
        ..Container::default()
    };
    Pod {
        spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
        ..Pod::default()
    }
}

pub(super) fn set(pod: &mut Pod, kind: Kind, change: impl FnOnce(&mut Probe)) {
    let container = &mut pod.spec.as_mut().unwrap().containers[0];
    let probe = match kind {
        Kind::Startup => &mut container.startup_probe,
        Kind::Liveness => &mut container.liveness_probe,
        Kind::Readiness => &mut container.readiness_probe,
    };
    change(probe.as_mut().unwrap());
}

pub(super) fn target(pod: Pod) -> ProbeTarget {
    ProbeTarget {
        pod: Arc::new(pod),
        container: "web".to_owned(),
        container_id: id('a'),
        pod_ip: Some("10.0.0.2".to_owned()),
        started_at: NOW,
        known: Known::default(),
        terminating: false,
    }
}

pub(super) async fn after(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}
