//! The current pods, and events for watchers.
//!
//! Every change has a number. Getting the current state and a place in the queue is one atomic
//! step, so no event is lost or sent twice. A bounded window of past changes lets a watcher resume
//! after an interruption, also across a restart of the agent ([`past`]). A change is one shared
//! value for all watchers. Each watcher's queue is bounded: a slow watcher is disconnected with an
//! error, and nobody else waits for it.

mod past;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use super::face::{Error, Listing, Selector, Watch, WatchEvent};
use super::object::PodKey;
use super::select::Selection;
use super::view::PodView;
use crate::locks::{Mutex, MutexGuard};
use crate::store::Revision;

pub(super) use past::{Keeper, resume};

/// Limits of a [`Hub`].
#[derive(Debug, Clone, Copy)]
pub struct HubOptions {
    /// Number of past changes kept for resuming watchers. Each may hold a pod.
    pub window: usize,
    /// How many events a watcher may lag behind.
    pub queue: usize,
    /// Interval of bookmarks for a watcher without events.
    pub bookmark: Duration,
}

impl Default for HubOptions {
    fn default() -> Self {
        Self { window: 128, queue: 256, bookmark: Duration::from_secs(10) }
    }
}

/// The published pods, their history, and the watchers.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    state: Mutex<State>,
    /// Notified of each change.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Name of this history, as in the store's revisions.
    epoch: String,
    /// Number of the last change.
    number: u64,
    /// All changes after this number are in the window, except those up to `first`.
    floor: u64,
    /// Changes after `floor` up to this number may have been published by a previous agent and are
    /// unknown.
    first: u64,
    pods: BTreeMap<PodKey, PodView>,
    window: VecDeque<Arc<Change>>,
    watchers: Vec<Watcher>,
}

/// A change of one pod.
#[derive(Debug)]
struct Change {
    revision: Revision,
    before: Option<PodView>,
    after: Option<PodView>,
    /// `before` with the number of this change, for watchers that no longer see the pod.
    left: OnceLock<PodView>,
}

#[derive(Debug)]
struct Watcher {
    selection: Selection,
    news: mpsc::Sender<News>,
}

/// A change from the point of view of one watcher.
#[derive(Debug)]
struct News(Kind, Arc<Change>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Hub {
    /// An empty hub. The numbers of its changes come after `start`.
    pub fn new(start: Revision, options: HubOptions) -> Self {
        let Revision { epoch, number } = start;
        let state = State {
            epoch,
            number,
            floor: number,
            first: number,
            pods: BTreeMap::new(),
            window: VecDeque::new(),
            watchers: Vec::new(),
        };
        Self { options, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Starts over after `start`, before anything is published, with the pods as a previous agent
    /// published them at its change `at`. Watchers that have seen all changes up to that one may
    /// resume.
    fn begin(&self, start: Revision, at: u64, pods: Vec<PodView>) {
        let mut state = self.state();
        let Revision { epoch, number } = start;
        state.epoch = epoch;
        (state.number, state.first) = (number, number);
        state.floor = at.min(number);
        state.window.clear();
        let views = pods.into_iter().map(|view| {
            let number = view.revision.number.min(at);
            let view = stamped(view, state.at(number));
            (view.key(), view)
        });
        state.pods = views.collect();
        // So that a watcher that starts now can resume from here later.
        self.changed.notify_one();
    }

    /// All published pods at one revision.
    pub(super) fn all(&self) -> Listing {
        let state = self.state();
        Listing { pods: state.pods.values().cloned().collect(), revision: state.at(state.number) }
    }

    /// Number of the last change.
    pub fn revision(&self) -> Revision {
        let state = self.state();
        state.at(state.number)
    }

    /// Publishes the current state of a pod, and notifies watchers if it changed.
    ///
    /// The number of the change, at least that of the given view, becomes the revision and the
    /// resource version of the returned view.
    pub fn publish(&self, view: PodView) -> PodView {
        let key = view.key();
        let mut state = self.state();
        let mut before = state.pods.get(&key).cloned();
        if let Some(shown) = &before {
            if same(shown, &view) {
                return shown.clone();
            }
            if shown.pod.metadata.uid != view.pod.metadata.uid {
                // Another pod with the same name: the first one is gone.
                self.remove(&mut state, &key);
                before = None;
            }
        }
        let number = view.revision.number.max(state.number + 1);
        let after = stamped(view, state.at(number));
        state.pods.insert(key, after.clone());
        self.change(&mut state, number, before, Some(after.clone()));
        after
    }

    /// Removes a pod; returns its last state.
    pub fn gone(&self, key: &PodKey) -> Option<PodView> {
        self.remove(&mut self.state(), key)
    }

    /// One pod.
    pub fn get(&self, key: &PodKey) -> Option<PodView> {
        self.state().pods.get(key).cloned()
    }

    /// Pods by selector, sorted by namespace and name.
    ///
    /// # Errors
    /// [`Error::Argument`] for an invalid selector.
    pub fn list(&self, selector: &Selector) -> Result<Listing, Error> {
        let selection = Selection::parse(selector)?;
        let state = self.state();
        Ok(Listing { pods: state.select(&selection), revision: state.at(state.number) })
    }

    /// Watches the pods in a selector: the current ones and then every change; or, with `from`,
    /// every change after that revision. A bookmark is sent when the current state is reached, and
    /// after each period without events.
    ///
    /// # Errors
    /// [`Error::Argument`] for an invalid selector or a future revision; [`Error::TooOld`] when
    /// not all changes since are known, or for another epoch. The stream ends with
    /// [`Error::TooSlow`] once its reader lags too far behind.
    pub fn watch(
        self: &Arc<Self>,
        selector: &Selector,
        from: Option<Revision>,
    ) -> Result<Watch, Error> {
        let selection = Selection::parse(selector)?;
        let (sender, queue) = mpsc::channel(self.options.queue);
        let mut state = self.state();
        let mut start = match from {
            None => state.select(&selection).into_iter().map(WatchEvent::Added).collect(),
            Some(from) => state.backlog(&selection, &from)?,
        };
        start.push(WatchEvent::Bookmark(state.at(state.number)));
        state.watchers.push(Watcher { selection, news: sender });
        drop(state);
        let news = Arc::clone(self).news(queue);
        Ok(futures::stream::iter(start).map(Ok).chain(news).boxed())
    }

    /// Connected watchers, including those that left since the last change.
    #[cfg(test)]
    pub(crate) fn watchers(&self) -> usize {
        self.state().watchers.len()
    }

    /// The events of a queue, with bookmarks when there are none.
    fn news(
        self: Arc<Self>,
        mut queue: mpsc::Receiver<News>,
    ) -> impl futures::Stream<Item = Result<WatchEvent, Error>> + Send {
        let period = self.options.bookmark;
        async_stream::stream! {
            let mut silence = tokio::time::interval_at(Instant::now() + period, period);
            silence.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                // Cancel-safe: dropping either loses nothing.
                tokio::select! {
                    biased;
                    news = queue.recv() => match news {
                        Some(news) => {
                            silence.reset();
                            yield Ok(news.event());
                        }
                        None => {
                            yield Err(Error::TooSlow { current: self.revision() });
                            return;
                        }
                    },
                    _ = silence.tick() => {
                        if let Some(revision) = self.all_told(&queue) {
                            yield Ok(WatchEvent::Bookmark(revision));
                        }
                    }
                }
            }
        }
    }

    /// The current revision, if all events up to it were sent.
    fn all_told(&self, queue: &mpsc::Receiver<News>) -> Option<Revision> {
        let state = self.state();
        queue.is_empty().then(|| state.at(state.number))
    }

    fn remove(&self, state: &mut State, key: &PodKey) -> Option<PodView> {
        let before = state.pods.remove(key)?;
        let number = state.number + 1;
        Some(self.change(state, number, Some(before), None).left().clone())
    }

    /// Records a change and sends it; a watcher with a full queue is disconnected.
    fn change(
        &self,
        state: &mut State,
        number: u64,
        before: Option<PodView>,
        after: Option<PodView>,
    ) -> Arc<Change> {
        let revision = state.at(number);
        let change = Arc::new(Change { revision, before, after, left: OnceLock::new() });
        state.number = number;
        state.window.push_back(Arc::clone(&change));
        while state.window.len() > self.options.window {
            if let Some(oldest) = state.window.pop_front() {
                state.floor = oldest.revision.number;
            }
        }
        state.watchers.retain(|watcher| match News::of(&change, &watcher.selection) {
            Some(news) => watcher.news.try_send(news).is_ok(),
            None => !watcher.news.is_closed(),
        });
        self.changed.notify_one();
        change
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn at(&self, number: u64) -> Revision {
        Revision { epoch: self.epoch.clone(), number }
    }

    /// The events in a selection after a revision.
    fn backlog(&self, selection: &Selection, from: &Revision) -> Result<Vec<WatchEvent>, Error> {
        let unknown = from.number > self.floor && from.number < self.first;
        if from.epoch != self.epoch || from.number < self.floor || unknown {
            return Err(Error::TooOld { asked: from.number, current: self.at(self.number) });
        }
        if from.number > self.number {
            let message = format!(
                "revision {} is in the future: the current one is {}",
                from.number, self.number
            );
            return Err(Error::Argument { field: "after", message });
        }
        let first = self.window.partition_point(|change| change.revision.number <= from.number);
        let changes = self.window.range(first..);
        Ok(changes.filter_map(|change| News::of(change, selection)).map(News::event).collect())
    }

    fn select(&self, selection: &Selection) -> Vec<PodView> {
        self.pods.values().filter(|view| selection.matches(&view.pod)).cloned().collect()
    }
}

impl Change {
    /// The pod before a change that has one.
    fn left(&self) -> &PodView {
        self.left.get_or_init(|| {
            let view = self.before.as_ref().or(self.after.as_ref());
            let view = view.expect("a change has a pod before or after it");
            stamped(view.clone(), self.revision.clone())
        })
    }
}

impl News {
    /// The event for a change in a selection, if any.
    fn of(change: &Arc<Change>, selection: &Selection) -> Option<Self> {
        let seen =
            |view: &Option<PodView>| view.as_ref().is_some_and(|view| selection.matches(&view.pod));
        let kind = match (seen(&change.before), seen(&change.after)) {
            (false, false) => return None,
            (false, true) => Kind::Added,
            (true, true) => Kind::Modified,
            (true, false) => Kind::Deleted,
        };
        Some(Self(kind, Arc::clone(change)))
    }

    fn event(self) -> WatchEvent {
        let Self(kind, change) = self;
        match (kind, &change.after) {
            (Kind::Added, Some(view)) => WatchEvent::Added(view.clone()),
            (Kind::Modified, Some(view)) => WatchEvent::Modified(view.clone()),
            _ => WatchEvent::Deleted(change.left().clone()),
        }
    }
}

/// Whether two views are equal apart from their revisions.
fn same(shown: &PodView, view: &PodView) -> bool {
    if shown.source != view.source {
        return false;
    }
    if Arc::ptr_eq(&shown.pod, &view.pod) {
        return true;
    }
    let (a, b) = (&*shown.pod, &*view.pod);
    if a.status != b.status || a.spec != b.spec {
        return false;
    }
    let mut meta = b.metadata.clone();
    meta.resource_version.clone_from(&a.metadata.resource_version);
    a.metadata == meta
}

fn stamped(mut view: PodView, revision: Revision) -> PodView {
    let number = revision.number.to_string();
    if view.pod.metadata.resource_version.as_deref() != Some(number.as_str()) {
        // Copies the pod if the caller still holds it: one copy for all watchers.
        Arc::make_mut(&mut view.pod).metadata.resource_version = Some(number);
    }
    view.revision = revision;
    view
}

#[cfg(test)]
mod tests;
