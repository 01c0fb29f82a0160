//! Recording of calls, and injection of failures.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::super::{Error, ErrorKind, Result};
use crate::locks::{Mutex, MutexGuard};

/// One call of a fake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Method name, e.g. `create_task`.
    pub step: &'static str,
    /// The object of the call: an id, key, path or name.
    pub subject: String,
}

/// Records calls and injects failures. Cheap to clone; clones share their state.
#[derive(Debug, Clone)]
pub struct Steps {
    inner: Arc<Mutex<Inner>>,
    /// Incremented at each change of `inner`, for waiters.
    changed: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Inner {
    calls: Vec<Call>,
    rules: HashMap<String, Rule>,
}

#[derive(Debug, Default)]
struct Rule {
    fail: Option<(ErrorKind, usize)>,
    lose: Option<(ErrorKind, usize)>,
    hang: bool,
    panic: bool,
    delay: Duration,
}

impl Default for Steps {
    fn default() -> Self {
        Self { inner: Arc::default(), changed: Arc::new(watch::Sender::new(0)) }
    }
}

impl Steps {
    /// Makes the next `times` calls of `step` fail before they do anything.
    pub fn fail(&self, step: &str, kind: ErrorKind, times: usize) {
        self.rule(step, |rule| rule.fail = Some((kind, times)));
    }

    /// Makes the next `times` calls of `step` do their work but return an error of this kind.
    pub fn lose_answer(&self, step: &str, kind: ErrorKind, times: usize) {
        self.rule(step, |rule| rule.lose = Some((kind, times)));
    }

    /// Makes calls of `step` wait before they do anything, until [`Steps::release`].
    pub fn hang(&self, step: &str) {
        self.rule(step, |rule| rule.hang = true);
    }

    /// Makes the next call of `step` panic before it does anything.
    pub fn panic(&self, step: &str) {
        self.rule(step, |rule| rule.panic = true);
    }

    /// Ends a hang; waiting calls continue.
    pub fn release(&self, step: &str) {
        self.rule(step, |rule| rule.hang = false);
    }

    /// Delays each call of `step`.
    pub fn delay(&self, step: &str, delay: Duration) {
        self.rule(step, |rule| rule.delay = delay);
    }

    /// All calls since the start or the last `forget`, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// How often `step` was called.
    pub fn count(&self, step: &str) -> usize {
        self.lock().calls.iter().filter(|call| call.step == step).count()
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        self.lock().calls.clear();
    }

    /// Waits until `step` was called `times` times (a call that hangs counts).
    pub async fn called(&self, step: &str, times: usize) {
        self.until(|inner| inner.calls.iter().filter(|call| call.step == step).count() >= times)
            .await;
    }

    /// Runs a step: records it, injects failures, and does `work`.
    pub(super) async fn run<T>(
        &self,
        step: &'static str,
        subject: impl Display,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let subject = subject.to_string();
        let tried = format!("{step} {subject}");
        self.lock().calls.push(Call { step, subject });
        self.wake();
        self.before(step, &tried).await?;
        let value = work.await?;
        let lost = self.lock().rules.get_mut(step).and_then(|rule| take(&mut rule.lose));
        match lost {
            Some(kind) => Err(Error::new(kind, tried).because("the answer was lost on request")),
            None => Ok(value),
        }
    }

    async fn before(&self, step: &str, tried: &str) -> Result<()> {
        let delay = self.lock().rules.get(step).map_or(Duration::ZERO, |rule| rule.delay);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        self.until(|inner| !inner.rules.get(step).is_some_and(|rule| rule.hang)).await;
        let panics = |rule: &mut Rule| std::mem::take(&mut rule.panic);
        let panics = self.lock().rules.get_mut(step).is_some_and(panics);
        assert!(!panics, "{tried} panics on request");
        let failure = self.lock().rules.get_mut(step).and_then(|rule| take(&mut rule.fail));
        match failure {
            Some(kind) => Err(Error::new(kind, tried).because("it failed on request")),
            None => Ok(()),
        }
    }

    async fn until(&self, holds: impl Fn(&Inner) -> bool) {
        let mut changed = self.changed.subscribe();
        // `self` holds the sender.
        let _ = changed.wait_for(|_| holds(&self.lock())).await;
    }

    fn rule(&self, step: &str, change: impl FnOnce(&mut Rule)) {
        change(self.lock().rules.entry(step.to_owned()).or_default());
        self.wake();
    }

    fn wake(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

fn take(rule: &mut Option<(ErrorKind, usize)>) -> Option<ErrorKind> {
    let (kind, left) = rule.as_mut()?;
    let kind = *kind;
    *left = left.saturating_sub(1);
    if *left == 0 {
        *rule = None;
    }
    Some(kind)
}
