use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::face::{self, Selector, Watch, WatchEvent};
use crate::pod::watch::HubOptions;
use crate::pod::watch::tests::{ready, view};
use crate::store::stored;

type State = BTreeMap<String, String>;

fn state(hub: &Hub) -> State {
    hub.all().pods.iter().map(|view| (view.key().name, phase(view))).collect()
}

fn phase(view: &PodView) -> String {
    view.pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap()
}

/// The hub and keeper of the next agent.
async fn next_life(store: &Store) -> (Arc<Hub>, Keeper) {
    let options = HubOptions { window: 10_000, queue: 10_000, ..HubOptions::default() };
    let hub = Arc::new(Hub::new(store.revision(), options));
    let keeper = resume(&hub, store).await.unwrap();
    (hub, keeper)
}

fn from(hub: &Hub, number: u64) -> Revision {
    Revision { number, ..hub.revision() }
}

fn is_too_old(hub: &Arc<Hub>, from: Revision) -> bool {
    match hub.watch(&Selector::default(), Some(from)) {
        Ok(_) => false,
        Err(face::Error::TooOld { current, .. }) => {
            assert_eq!(current, hub.revision());
            true
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn the_next_agent_goes_on_from_what_was_written_down() {
    let store = Store::in_memory();
    let (hub, mut keeper) = next_life(&store).await;
    hub.publish(view("a", "Pending"));
    hub.publish(view("b", "Running"));
    keeper.keep().await.unwrap();
    let kept = hub.revision();
    // This change is not stored.
    hub.publish(view("a", "Running"));
    let lost = hub.revision();

    let (hub, mut keeper) = next_life(&store).await;
    assert_eq!(hub.revision().epoch, kept.epoch);
    assert!(hub.revision().number > lost.number);
    let mut watch = hub.watch(&Selector::default(), Some(kept.clone())).unwrap();
    hub.publish(view("a", "Failed"));
    hub.gone(&view("b", "").key());
    let at = |after: u64| kept.number + BLOCK + after;
    let expected =
        [format!(".{}", at(0)), format!("~a Failed {}", at(1)), format!("-b Running {}", at(2))];
    assert_eq!(ready(&mut watch), expected);
    assert!(is_too_old(&hub, lost) && is_too_old(&hub, from(&hub, kept.number - 1)));

    // An equal state is not a change, so an older agent's rows need not be written again.
    keeper.keep().await.unwrap();
    let rows = store.load::<Shown>().unwrap().records;
    assert_eq!(rows.iter().map(|row| row.key.as_str()).collect::<Vec<_>>(), ["default/a"]);
    let (hub, _keeper) = next_life(&store).await;
    let before = hub.revision();
    hub.publish(view("a", "Failed"));
    assert_eq!(hub.revision(), before);
    assert!(is_too_old(&hub, kept));
}

#[tokio::test(start_paused = true)]
async fn it_is_written_down_when_it_is_quiet_or_takes_too_long() {
    let store = Store::in_memory();
    let (hub, mut keeper) = next_life(&store).await;
    let shown = || store.load::<Mark>().unwrap().records[0].shown;
    let task = tokio::spawn(async move { keeper.run().await });
    hub.publish(view("a", "Pending"));
    let first = hub.revision().number;
    let begun = Instant::now();
    // The paused clock advances while the store's thread writes, so only the shortest times are
    // certain.
    while shown() != first {
        assert!(begun.elapsed() < RESTLESS * 1000, "it is never written down");
        tokio::time::sleep(QUIET / 20).await;
    }
    assert!(begun.elapsed() >= QUIET, "{:?}", begun.elapsed());
    let begun = Instant::now();
    for phase in ["Running", "Pending"].into_iter().cycle() {
        assert!(begun.elapsed() < RESTLESS * 1000, "it is never written down");
        hub.publish(view("a", phase));
        tokio::time::sleep(QUIET / 2).await;
        if shown() != first {
            break;
        }
    }
    assert!(begun.elapsed() >= RESTLESS, "{:?}", begun.elapsed());
    task.abort();
}

#[tokio::test]
async fn rows_that_cannot_be_read_send_watchers_back() {
    macro_rules! foreign {
        ($name:ident, $table:literal) => {
            #[derive(Serialize, Deserialize)]
            struct $name(serde_json::Value, String);
            impl Record for $name {
                const TABLE: &'static str = $table;
                const VERSION: u16 = 9;
                fn key(&self) -> &str {
                    &self.1
                }
            }
        };
    }
    foreign!(Pods, "shown");
    foreign!(Marks, "watch");
    let store = Store::in_memory();
    let (hub, mut keeper) = next_life(&store).await;
    hub.publish(view("a", "Running"));
    keeper.keep().await.unwrap();
    let kept = hub.revision();
    let odd = Pods(json!({}), "default/a".into());
    store.write(Batch::new().put(&odd).unwrap()).await.unwrap();
    let (hub, mut keeper) = next_life(&store).await;
    assert!(is_too_old(&hub, kept.clone()));
    assert!(hub.revision().number > kept.number && state(&hub).is_empty());
    hub.publish(view("a", "Running"));
    keeper.keep().await.unwrap();
    assert!(store.load::<Shown>().unwrap().faults.is_empty(), "it is written anew");

    // Without the mark it is unknown which numbers were used, so there is a new history.
    let odd = Marks(json!({}), "mark".into());
    store.write(Batch::new().put(&odd).unwrap()).await.unwrap();
    let (hub, mut keeper) = next_life(&store).await;
    assert_ne!(hub.revision().epoch, kept.epoch);
    assert!(is_too_old(&hub, kept));
    hub.publish(view("a", "Failed"));
    keeper.keep().await.unwrap();
    assert!(!store.load::<Mark>().unwrap().faults.is_empty(), "it is left for people to see");
}

#[tokio::test]
async fn another_store_is_another_history() {
    let (old, _keeper) = next_life(&Store::in_memory()).await;
    let (hub, _keeper) = next_life(&Store::in_memory()).await;
    assert!(is_too_old(&hub, old.revision()));
}

/// A possible event.
#[derive(Debug, Clone)]
enum Op {
    Show(usize, usize),
    Go(usize),
    Keep,
    /// The agent ends, gracefully or not; this many pods change meanwhile.
    Restart(bool, usize),
    /// A watcher reads everything available; is disconnected; reconnects.
    Read(usize),
    Leave(usize),
    Return(usize),
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const PHASES: [&str; 3] = ["Pending", "Running", "Failed"];
const WATCHERS: usize = 3;

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..4_usize, 0..3_usize).prop_map(|(name, phase)| Op::Show(name, phase)),
        2 => (0..4_usize).prop_map(Op::Go),
        2 => Just(Op::Keep),
        2 => (any::<bool>(), 0..3_usize).prop_map(|(clean, changes)| Op::Restart(clean, changes)),
        5 => (0..WATCHERS).prop_map(Op::Read),
        3 => (0..WATCHERS).prop_map(Op::Leave),
        5 => (0..WATCHERS).prop_map(Op::Return),
    ]
}

/// A watcher with the state that it derived from events.
#[derive(Default)]
struct Watcher {
    state: State,
    last: Option<Revision>,
    watch: Option<Watch>,
    /// Whether it is still receiving the initial state.
    starts: bool,
}

/// The model that the guarantees are checked against.
struct Model {
    store: Store,
    hub: Arc<Hub>,
    keeper: Keeper,
    /// The actual pods.
    truth: State,
    /// The state for each number.
    told: HashMap<u64, String>,
    /// The number last stored, and the one that this agent has found.
    kept: u64,
    found: u64,
    /// First number of this agent.
    begun: u64,
    watchers: [Watcher; WATCHERS],
}

impl Model {
    async fn new() -> Self {
        let store = Store::in_memory();
        let (hub, keeper) = next_life(&store).await;
        let begun = hub.revision().number;
        Self {
            store,
            hub,
            keeper,
            truth: State::new(),
            told: HashMap::new(),
            kept: begun,
            found: begun,
            begun,
            watchers: Default::default(),
        }
    }

    fn show(&mut self, name: &str, phase: &str) {
        self.truth.insert(name.into(), phase.into());
        self.hub.publish(view(name, phase));
    }

    async fn keep(&mut self) {
        self.keeper.keep().await.unwrap();
        self.kept = self.hub.revision().number;
    }

    async fn restart(&mut self, clean: bool, changes: usize) {
        if clean {
            self.keep().await;
        }
        for name in &NAMES[..changes] {
            match self.truth.remove(*name) {
                Some(phase) if phase == "Running" => {
                    drop(self.truth.insert((*name).into(), "Failed".into()))
                }
                Some(_) => {}
                None => drop(self.truth.insert((*name).into(), "Running".into())),
            }
        }
        (self.hub, self.keeper) = next_life(&self.store).await;
        (self.found, self.begun) = (self.kept, self.hub.revision().number);
        for watcher in &mut self.watchers {
            watcher.watch = None;
        }
        for (name, phase) in &self.truth {
            self.hub.publish(view(name, phase));
        }
        for gone in state(&self.hub).keys().filter(|name| !self.truth.contains_key(*name)) {
            self.hub.gone(&view(gone, "").key());
        }
    }

    fn come_back(&mut self, number: usize) {
        let watcher = &mut self.watchers[number];
        let last = watcher.last.clone();
        let known = |last: &Revision| last.number >= self.begun || last.number == self.found;
        match self.hub.watch(&Selector::default(), last.clone()) {
            Ok(watch) => {
                assert!(last.as_ref().is_none_or(known), "a watch from {last:?} has a gap");
                watcher.starts = last.is_none();
                watcher.watch = Some(watch);
            }
            Err(face::Error::TooOld { current, .. }) => {
                assert!(!known(&last.unwrap()), "it could have gone on");
                assert_eq!(current, self.hub.revision());
                // As it is told to.
                watcher.state.clear();
                watcher.starts = true;
                watcher.watch = self.hub.watch(&Selector::default(), None).ok();
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, number: usize) {
        use futures::{FutureExt as _, StreamExt as _};
        let watcher = &mut self.watchers[number];
        let Some(watch) = &mut watcher.watch else { return };
        while let Some(event) = watch.next().now_or_never() {
            let (view, gone) = match event.expect("the watch goes on").expect("news") {
                WatchEvent::Bookmark(revision) => {
                    watcher.starts = false;
                    watcher.last = Some(revision);
                    continue;
                }
                WatchEvent::Deleted(view) => {
                    assert_eq!(watcher.state.remove(&view.key().name), Some(phase(&view)));
                    (view, true)
                }
                WatchEvent::Added(view) => {
                    let before = watcher.state.insert(view.key().name, phase(&view));
                    assert_eq!(before, None);
                    (view, false)
                }
                WatchEvent::Modified(view) => {
                    let before = watcher.state.insert(view.key().name, phase(&view));
                    assert_ne!(before, None);
                    (view, false)
                }
            };
            let revision = view.revision.clone();
            let meant = format!("{} {} {gone}", view.key().name, phase(&view));
            let before = self.told.insert(revision.number, meant.clone());
            assert!(before.is_none_or(|before| before == meant), "{revision:?} was used twice");
            if !watcher.starts {
                let last = watcher.last.as_ref().unwrap();
                assert!(revision.number > last.number && revision.epoch == last.epoch);
                watcher.last = Some(revision);
            }
        }
        assert_eq!(watcher.state, self.truth, "up to {:?}", watcher.last);
    }

    async fn step(&mut self, op: Op) {
        // Without yielding, tokio's cooperative budget would hide received messages.
        tokio::task::yield_now().await;
        match op {
            Op::Show(name, phase) => self.show(NAMES[name], PHASES[phase]),
            Op::Go(name) => {
                self.truth.remove(NAMES[name]);
                self.hub.gone(&view(NAMES[name], "").key());
            }
            Op::Keep => self.keep().await,
            Op::Restart(clean, changes) => self.restart(clean, changes).await,
            Op::Read(number) => self.read(number),
            Op::Leave(number) => self.watchers[number].watch = None,
            Op::Return(number) => {
                if self.watchers[number].watch.is_none() {
                    self.come_back(number);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Watchers disconnect and agents end at arbitrary times: a watcher that may resume has the
    /// true state, one that may not could not have it, and no number is used twice.
    #[test]
    fn nobody_is_told_wrong_things_over_restarts(ops in prop::collection::vec(op(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for op in ops {
                model.step(op).await;
            }
            for number in 0..WATCHERS {
                model.step(Op::Return(number)).await;
                model.read(number);
            }
        });
    }
}

#[test]
fn stored_revisions_and_pods_keep_their_meaning() {
    for Mark { reserved, shown } in [stored::now(), stored::old()] {
        assert_eq!((reserved, shown), (8_589_934_592, 4_294_967_300));
    }
    for Shown { key, number, source, pod } in [stored::now(), stored::old()] {
        assert_eq!((key.as_str(), number, source), ("default/web", 4_294_967_299, Source::File));
        assert_eq!(pod.metadata.name.as_deref(), Some("web"));
    }
}
