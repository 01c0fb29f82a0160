//! The task of one probe of one container.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use super::{Aim, Failure, Kind, OnChange, ProbeState};
use crate::pod::handler::{Error, Exec, Outcome, Report, Reporter, Subject, cut};

/// How many times a probe that cannot be carried out is tried.
const TRIES: usize = 3;

/// Probes run at multiples of this interval, except for their first run.
const GRID: Duration = Duration::from_millis(100);

/// Bytes of an event's message, as the Kubernetes API has it.
const LONGEST_MESSAGE: usize = 1024;

/// Runs one probe periodically.
pub(super) struct Task {
    pub kind: Kind,
    pub probe: Probe,
    pub period: Duration,
    /// Additional delay before the first run.
    pub delay: Duration,
    /// Start of the common times of all probes.
    pub origin: Instant,
    pub aim: Arc<Aim>,
    pub state: Arc<watch::Sender<ProbeState>>,
    pub exec: Arc<dyn Exec>,
    pub on_change: OnChange,
    pub report: Reporter,
}

/// The period of a probe, by default 10 s.
pub(super) fn period(probe: &Probe, finer: Option<&Duration>) -> Duration {
    finer.copied().unwrap_or_else(|| seconds(probe.period_seconds, 10))
}

fn seconds(given: Option<i32>, default: u64) -> Duration {
    let given = given.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    Duration::from_secs(given.unwrap_or(default))
}

fn threshold(given: Option<i32>, default: u32) -> u32 {
    given.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(default)
}

/// Rounds `at` up to a time at which other probes run too, so that one wake-up of the agent serves
/// all of them. The times are multiples of [`GRID`] since `origin`, or of a tenth of a shorter
/// period.
fn together(at: Instant, period: Duration, origin: Instant) -> Instant {
    let grid = GRID.min(period / 10).as_nanos().max(1);
    let late = at.saturating_duration_since(origin).as_nanos() % grid;
    let wait = if late == 0 { 0 } else { grid - late };
    at + Duration::from_nanos(u64::try_from(wait).unwrap_or_default())
}

impl Task {
    /// Returns when the result is final; may be dropped at any time.
    pub async fn run(self) {
        if self.kind != Kind::Startup {
            let mut state = self.state.subscribe();
            if state.wait_for(|state| state.started).await.is_err() {
                return;
            }
        }
        let initial = self.probe.initial_delay_seconds.and_then(|s| u64::try_from(s).ok());
        let after = self.aim.started + Duration::from_secs(initial.unwrap_or_default());
        let begin = after.max(Instant::now()) + self.delay;
        sleep_until(begin).await;
        let next = together(begin + self.period, self.period, self.origin);
        let mut ticks = interval_at(next, self.period);
        // One that came late is made up for at once, the rest is left out.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        // The last result and how many times in a row it occurred.
        let (mut last, mut run) = (None, 0);
        loop {
            // Boxed, so that a probe needs no memory for a run while it waits.
            if let Some(answer) = Box::pin(self.ask()).await {
                let well = answer.is_ok();
                run = if last == Some(well) { run + 1 } else { 1u32 };
                last = Some(well);
                let needed = if well {
                    threshold(self.probe.success_threshold, 1)
                } else {
                    threshold(self.probe.failure_threshold, 3)
                };
                if run >= needed && self.conclude(answer) {
                    return;
                }
            }
            ticks.tick().await;
        }
    }

    /// Runs the probe: `Err` has the reason of a failure, `None` means it could not be carried out.
    async fn ask(&self) -> Option<Result<(), String>> {
        let mut problem = None;
        for _ in 0..TRIES {
            match self.handle().await {
                Ok(Outcome::Success) => return Some(Ok(())),
                Ok(Outcome::Warning(text)) => {
                    self.tell("ProbeWarning", format!("{} probe warning: {text}", self.kind));
                    return Some(Ok(()));
                }
                Ok(Outcome::Failure(text)) => {
                    self.tell("Unhealthy", format!("{} probe failed: {text}", self.kind));
                    return Some(Err(text));
                }
                Err(error) => problem = Some(error),
            }
        }
        if let Some(error) = problem {
            let text =
                format!("{} probe errored and resulted in unknown state: {error}", self.kind);
            self.tell("Unhealthy", text);
        }
        None
    }

    async fn handle(&self) -> Result<Outcome, Error> {
        let limit = seconds(self.probe.timeout_seconds, 1);
        let aim = &self.aim;
        let subject =
            Subject { container: &aim.container, id: &aim.id, pod_ip: aim.pod_ip.as_deref() };
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.as_deref().unwrap_or_default();
            subject.run(&*self.exec, command, limit).await
        } else if let Some(get) = &self.probe.http_get {
            subject.http(get, limit).await
        } else if let Some(socket) = &self.probe.tcp_socket {
            subject.tcp(socket, limit).await
        } else if let Some(grpc) = &self.probe.grpc {
            subject.grpc(grpc, limit).await
        } else {
            Err(Error::Nothing)
        }
    }

    /// Publishes a result that reached its threshold; returns whether it is final.
    fn conclude(&self, answer: Result<(), String>) -> bool {
        let changed = self.state.send_if_modified(|state| {
            let before = state.clone();
            match (self.kind, &answer) {
                (Kind::Readiness, _) => state.ready = answer.is_ok(),
                (Kind::Startup, Ok(())) => {
                    state.started = true;
                    state.ready = self.aim.container.readiness_probe.is_none();
                }
                (Kind::Liveness, Ok(())) => {}
                (_, Err(message)) => {
                    state.failed = Some(Failure {
                        kind: self.kind,
                        message: message.clone(),
                        grace: self.probe.termination_grace_period_seconds,
                    });
                }
            }
            before != *state
        });
        if changed {
            (self.on_change)(&self.aim.uid);
        }
        match self.kind {
            Kind::Startup => true,
            Kind::Liveness => answer.is_err(),
            Kind::Readiness => false,
        }
    }

    fn tell(&self, reason: &'static str, message: String) {
        let message = cut(&message, LONGEST_MESSAGE).to_owned();
        let (uid, container) = (self.aim.uid.clone(), self.aim.container.name.clone());
        (self.report)(Report { uid, container, reason, message });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_run_together_soon_after_their_own_time() {
        let origin = Instant::now();
        let ms = |n| Duration::from_millis(n);
        for (at, period, asked) in [
            (1000, 1000, 1000),
            (1001, 1000, 1100),
            (1049, 10_000, 1100),
            (1234, 200, 1240),
            (7, 1, 7),
        ] {
            assert_eq!(together(origin + ms(at), ms(period), origin), origin + ms(asked), "{at}");
        }
        assert_eq!(together(origin, ms(100), origin + ms(30)), origin, "before the origin");
    }
}
