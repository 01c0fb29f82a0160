//! Deletion of execs, including those that a previous agent process left.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::unix::pipe;

use super::super::Containers;
use super::super::entry::Entry;
use super::super::error::{Error, Step};
use crate::backend::{Process, TaskState};
use crate::lifecycle::Backoff;
use crate::telemetry::error_chain;

/// Prefix of exec ids; random hexadecimal digits follow.
const PREFIX: &str = "exec-";
const DIGITS: usize = 16;

/// How many times the deletion of an exec is tried; with the delays about three minutes in all.
const TRIES: usize = 24;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) fn new_exec_id() -> String {
    format!("{PREFIX}{}", hex::encode(rand::random::<[u8; DIGITS / 2]>()))
}

fn is_exec_id(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|digits| {
        digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// An exec that may or may not exist, identified by name.
#[derive(Clone)]
pub(super) struct Known {
    pub(super) entry: Arc<Entry>,
    pub(super) id: String,
    /// Its FIFO directory, which has the same name.
    pub(super) dir: PathBuf,
}

impl Known {
    pub(super) fn process(&self) -> Process<'_> {
        Process::exec(self.entry.id.as_str(), &self.id)
    }
}

/// The agent's ends of an exec's outputs, until the shim has opened its own.
///
/// While a shim starts an exec it waits up to 30 seconds for a reader, holding its locks, which
/// blocks everything else in the pod. So the ends of an abandoned start stay open until the exec is
/// deleted.
#[derive(Default)]
pub(super) struct Ends {
    pub(super) outputs: [Option<pipe::Receiver>; 2],
    pub(super) guards: Vec<OwnedFd>,
}

impl Containers {
    /// Deletes an exec, killing it if it runs, and then its directory; repeated for some minutes.
    /// `ends` stay open until then.
    pub(super) fn clean_up_exec(self: &Arc<Self>, exec: Known, ends: Ends) {
        let room = self.clone();
        drop(self.deps.tasks.spawn("exec-cleanup", async move {
            let _ends = ends;
            let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
            for _ in 1..TRIES {
                match room.try_clean_up(&exec).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::debug!(container = %exec.entry.id, error = error_chain(&error),
                            "cannot clean up exec yet");
                    }
                }
                // Cancel-safe: both branches only wait.
                tokio::select! {
                    () = tokio::time::sleep(pauses.next()) => {}
                    () = room.deps.tasks.draining() => break,
                }
            }
            if let Err(error) = room.try_clean_up(&exec).await {
                tracing::warn!(container = %exec.entry.id, exec = exec.id, error = error_chain(&error),
                    "exec cleanup is left for the next start of the agent");
            }
        }));
    }

    async fn try_clean_up(&self, exec: &Known) -> Result<(), Error> {
        let deleted = self.deps.runtime.delete_task(exec.process(), true).await;
        deleted.step("delete the exec")?;
        self.deps.host.remove_tree(&exec.dir).await.step("remove the exec's folder")
    }

    /// Kills and deletes the execs that a previous agent process left in a container: their callers
    /// are gone. Must be called before new execs can be made.
    pub(in crate::container) async fn sweep_execs(self: &Arc<Self>, entry: &Arc<Entry>) {
        let dir = self.fifo_dir(entry);
        for id in self.deps.host.list_dir(&dir).await.unwrap_or_default() {
            if !is_exec_id(&id) {
                continue;
            }
            tracing::info!(container = %entry.id, exec = id,
                "killing exec left by an earlier agent");
            let exec = Known { entry: entry.clone(), dir: dir.join(&id), id };
            let room = self.clone();
            drop(self.deps.tasks.spawn("exec-sweep", async move {
                let found = room.deps.runtime.task(exec.process()).await.ok().flatten();
                if let Some(task) = found.filter(|task| task.state == TaskState::Running) {
                    let leader = room.init_process(task.pid).await;
                    room.kill_exec(&exec, leader).await;
                }
                room.clean_up_exec(exec, Ends::default());
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_execs_are_swept() {
        assert!(is_exec_id(&new_exec_id()));
        for name in
            ["exec-", "exec-12", "stdout", "exec-0123456789abcde/", "exec-0123456789abcdefg"]
        {
            assert!(!is_exec_id(name), "{name}");
        }
    }
}
