//! The engine for the pods of this node.

mod apply;
mod delete;
mod door;
mod entrance;
mod keep;
mod logs;
mod node;
mod objects;
mod rebuild;
mod resize;
mod shutdown;
mod statics;
mod strays;

pub use keep::{KeepOptions, Meter, Used};

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, watch};

use super::admit::Pressure;
use super::handler::{Exec, ExecEnd, ExecError, Report, Reporter};
use super::news::EventLog;
use super::object::{Given, PodKey};
use super::phase;
use super::plan::Policy;
use super::probe::{self, Prober};
use super::record::Life;
use super::room::{Deps, Entry, Room};
use super::shelf::{Shelf, Shelved};
use super::translate::{NodeFacts, free_user_ids, wants_user_ids};
use super::view::{EventType, PodView};
use super::volume::{self, Volumes};
use super::watch::{self as watching, Hub, HubOptions};
use super::worker::Worker;
use crate::backend::Host;
use crate::clock::now;
use crate::container;
use crate::ids::ContainerId;
use crate::image::Images;
use crate::lifecycle::Tasks;
use crate::locks::{Mutex, MutexGuard};
use crate::model::Owner;
use crate::sandbox::{self, Sandboxes};
use crate::store::{self, Store};
use crate::telemetry::error_chain;
use entrance::Coming;
use node::Known;

/// How long after the start of the drain pods may still publish their last changes.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Maximum number of bytes kept of each output of a probe's or hook's command.
const HANDLER_OUTPUT: usize = 10 << 10;

/// The collaborators of the engine.
#[derive(Clone)]
pub struct PodsDeps {
    /// Sandboxes and containers.
    pub sandboxes: Arc<Sandboxes>,
    /// Image service.
    pub images: Arc<Images>,
    /// The host.
    pub host: Arc<dyn Host>,
    /// Persistent store.
    pub store: Store,
    /// Spawns owned tasks.
    pub tasks: Tasks,
}

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct PodsOptions {
    /// Directory below which pods have their volumes.
    pub root: PathBuf,
    /// The node.
    pub node: NodeFacts,
    /// Delays between attempts.
    pub policy: Policy,
    /// How long unknown pods are left alone before they are removed.
    pub stray_patience: Duration,
}

/// The engine of whole pods.
pub struct Pods {
    room: Arc<Room>,
    /// Held while the set of pods changes.
    changing: tokio::sync::Mutex<()>,
    /// The stored facts about the node.
    known: Mutex<Known>,
    /// Config maps and secrets stored independently of pods.
    shelf: Mutex<Shelf>,
    /// The requested static pods, once known.
    statics: Mutex<Option<BTreeMap<PodKey, Given>>>,
    gone: Arc<Notify>,
    /// Pods whose rows are unreadable or lost: their resources are left alone.
    unread: Mutex<BTreeSet<String>>,
    /// Uids of unknown pods that are being removed.
    removing: Mutex<BTreeSet<String>>,
    stray_patience: Duration,
    recovered: tokio::sync::Mutex<bool>,
    /// Resources that the node is short of, once they are watched.
    pressure: OnceLock<watch::Receiver<Pressure>>,
    /// Whether the host is shutting down.
    shutting_down: AtomicBool,
}

impl Pods {
    /// An engine without pods; [`Pods::recover`] loads the stored ones.
    pub fn new(deps: PodsDeps, options: PodsOptions) -> Arc<Self> {
        Arc::new_cyclic(|pods: &std::sync::Weak<Self>| {
            let exec: Arc<dyn Exec> = Arc::new(Commands(deps.sandboxes.clone()));
            let events = Arc::new(EventLog::new());
            let prober = Arc::new(Prober::new(probe::Options {
                exec: exec.clone(),
                tasks: deps.tasks.clone(),
                clock: now,
                seed: rand::random(),
                on_change: {
                    let pods = pods.clone();
                    Arc::new(move |uid: &str| {
                        if let Some(entry) = pods.upgrade().and_then(|p| p.room.by_uid(uid)) {
                            entry.changed.notify_one();
                        }
                    })
                },
                report: reporter(pods.clone()),
            }));
            let volumes =
                Volumes::new(volume::Options { root: options.root.clone() }, deps.host.clone());
            let hub = Hub::new(deps.store.revision(), HubOptions::default());
            let gone = Arc::new(Notify::new());
            let deps = Deps {
                sandboxes: deps.sandboxes,
                images: deps.images,
                host: deps.host,
                store: deps.store,
                tasks: deps.tasks,
                volumes: Arc::new(volumes),
                prober,
                exec,
                report: reporter(pods.clone()),
                hub: Arc::new(hub),
                events,
                gone: gone.clone(),
            };
            Self {
                room: Arc::new(Room::new(deps, options.policy, options.node)),
                changing: tokio::sync::Mutex::default(),
                known: Mutex::default(),
                shelf: Mutex::default(),
                statics: Mutex::default(),
                gone,
                unread: Mutex::default(),
                removing: Mutex::default(),
                stray_patience: options.stray_patience,
                recovered: tokio::sync::Mutex::default(),
                pressure: OnceLock::new(),
                shutting_down: AtomicBool::new(false),
            }
        })
    }

    /// Takes over the stored pods. Sandboxes and containers must be recovered before.
    ///
    /// # Errors
    /// When the store cannot be read. An unreadable row is left alone and reported. After one
    /// success further calls do nothing.
    pub async fn recover(self: &Arc<Self>) -> Result<(), store::Error> {
        let mut recovered = self.recovered.lock().await;
        if *recovered {
            return Ok(());
        }
        let keeper = watching::resume(&self.room.deps.hub, &self.room.deps.store).await?;
        let loaded = self.room.deps.store.load::<Life>()?;
        log_faults("pod", &loaded.faults);
        let shelved = self.room.deps.store.load::<Shelved>()?;
        log_faults("object", &shelved.faults);
        *self.shelf() = Shelf::new(shelved.records);
        self.remember_node()?;
        self.room.pulled.load(&self.room.deps.store)?;
        let at = now();
        let mut lives = loaded.records;
        let unread: BTreeSet<String> = loaded.faults.into_iter().map(|fault| fault.key).collect();
        let mut known: BTreeSet<String> = lives.iter().map(|life| life.uid.clone()).collect();
        known.extend(unread.iter().cloned());
        let lost = self.rebuild(&mut lives, &mut known).await?;
        let strays = self.strays(&known, lost);
        // Their volumes are removed after what uses them.
        known.extend(strays.iter().map(|stray| stray.uid.clone()));
        *self.unread.lock() =
            unread.into_iter().chain(strays.iter().map(|stray| stray.uid.clone())).collect();
        let entries: Vec<_> = lives
            .into_iter()
            .map(|mut life| {
                life.taken_over(at, &self.room.deps.host.facts().boot_id);
                Entry::new(life)
            })
            .collect();
        self.room.add(&entries);
        if let Err(error) = self.room.deps.volumes.orphans(&known).await {
            tracing::warn!(error = error_chain(&error), "cannot remove volumes of deleted pods");
        }
        // The table must be complete before any of them acts.
        for entry in &entries {
            Worker::new(self.room.clone(), entry.clone()).present().await;
        }
        // Those published by the previous agent that no longer exist.
        for view in self.room.deps.hub.all().pods {
            if self.room.shown(&view.key()).is_none() {
                self.room.deps.hub.gone(&view.key());
            }
        }
        self.keep_shown(keeper);
        self.listen();
        self.mind_statics();
        self.mind_resizes();
        self.mind_weights();
        self.remove_strays(strays);
        entries.into_iter().for_each(|entry| self.start(entry));
        *recovered = true;
        Ok(())
    }

    /// Config maps and secrets stored independently of pods.
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock()
    }

    /// Name of the node.
    pub fn node_name(&self) -> String {
        self.room.node().name.clone()
    }

    /// Starts the task of a pod in the table.
    fn start(&self, entry: Arc<Entry>) {
        let room = self.room.clone();
        let run = move || Worker::new(room.clone(), entry.clone()).run();
        drop(self.room.deps.tasks.spawn_lasting("pod", run));
    }

    /// Keeps the published state stored, until the end.
    fn keep_shown(&self, mut keeper: watching::Keeper) {
        let end = self.room.deps.tasks.draining();
        drop(self.room.deps.tasks.spawn_essential("shown pods", async move {
            // Cancel-safe: what was not stored is still published.
            tokio::select! {
                () = keeper.run() => {}
                () = end => {}
            }
            // Running workers may publish something until their next await.
            tokio::time::sleep(LAST_WORDS).await;
            keeper.try_keep().await;
        }));
    }

    /// Forwards changes of sandboxes and containers to their pods.
    fn listen(&self) {
        let room = self.room.clone();
        drop(self.room.deps.tasks.spawn_lasting("pod news", move || pass_news_on(room.clone())));
    }

    /// A pod as recorded, before anything was observed.
    fn unseen(&self, life: &mut Life) -> PodView {
        let nothing = super::observe::Observed::default();
        let status = phase::status(life, &nothing, now(), &self.room.viewpoint());
        self.room.view(life, status)
    }

    /// The record of a new pod.
    fn new_life(&self, given: Given, follows: Option<&Arc<Entry>>, coming: &Coming) -> Life {
        let wants = wants_user_ids(given.spec());
        let mut life = Life::new(given);
        life.follows = follows.map(|old| old.uid.clone());
        if wants {
            let all = self.room.all();
            let taken = all.iter().filter_map(|entry| entry.life().user_ids);
            let taken = taken.chain(coming.user_ids()).collect();
            life.user_ids = free_user_ids(&taken);
        }
        life
    }
}

async fn pass_news_on(room: Arc<Room>) {
    loop {
        let mut news = room.deps.sandboxes.events();
        // The pods look at everything, so whatever was missed before is seen.
        room.all().iter().for_each(|entry| entry.changed.notify_one());
        while let Some(event) = news.next().await {
            if event.sandbox.owner != Owner::Pod {
                continue;
            }
            if let Some(entry) = room.by_uid(&event.sandbox.config.metadata.uid) {
                entry.changed.notify_one();
            }
        }
    }
}

/// Logs rows of the store that cannot be read.
fn log_faults(what: &str, faults: &[store::Fault]) {
    for fault in faults {
        let error = error_chain(&fault.problem);
        tracing::error!(key = fault.key, error, "cannot read stored {what}");
    }
}

fn reporter(pods: std::sync::Weak<Pods>) -> Reporter {
    Arc::new(move |report: Report| {
        let Some(pods) = pods.upgrade() else { return };
        let Some(entry) = pods.room.by_uid(&report.uid) else { return };
        let whose = (entry.key.clone(), report.uid, Some(report.container));
        pods.room.deps.events.add(whose, EventType::Warning, report.reason, report.message);
    })
}

/// Runs commands for probes and hooks.
struct Commands(Arc<Sandboxes>);

#[async_trait]
impl Exec for Commands {
    async fn exec_sync(
        &self,
        container: &ContainerId,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecEnd, ExecError> {
        let ran = self.0.exec_brief(container.as_str(), command, limit, HANDLER_OUTPUT).await;
        match ran {
            Ok(mut ran) => {
                ran.stdout.extend_from_slice(&ran.stderr);
                Ok(ExecEnd { code: ran.code, output: ran.stdout })
            }
            Err(sandbox::Error::Container(container::Error::ExecTimeout(_))) => {
                Err(ExecError::Timeout)
            }
            Err(error) => Err(ExecError::Other(error_chain(&error))),
        }
    }
}
