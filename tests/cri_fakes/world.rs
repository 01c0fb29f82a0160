//! A host of fakes, and agents on it that can be killed: each agent has its own tokio runtime, so
//! killing it drops all of its work at arbitrary awaits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use hyper_util::rt::TokioIo;
use podbay::backend::fake::{Fakes, SNAPSHOTTER};
use podbay::backend::nri::{self, Nri};
use podbay::backend::{CgroupVersion, Host, NoHooks, Runtime as _, RuntimeEvent, RuntimeHandler};
use podbay::board::Board;
use podbay::container::{self, ContainerRecord, Containers};
use podbay::image::{self, Images};
use podbay::lifecycle::Tasks;
use podbay::logs::Pumps;
use podbay::oci;
use podbay::pod::translate::NodeFacts;
use podbay::pod::{BackoffPolicy, Pods, PodsDeps, PodsOptions, Policy};
use podbay::proto::runtime::v1::runtime_service_client::RuntimeServiceClient;
use podbay::sandbox::{self, PauseSource, SandboxRecord, Sandboxes};
use podbay::serve::{self, CriServices, Identity, PodServices, SocketOptions};
use podbay::stats::{self, Stats};
use podbay::store::{self, Store};
use podbay::stream::Urls;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The image that containers use.
pub const IMAGE: &str = "test.example/app:1";

/// The image of the pause container, in worlds that have one.
pub const PAUSE_IMAGE: &str = "test.example/pause:1";

/// A host.
pub struct World {
    pub fakes: Fakes,
    pause: PauseSource,
    /// The setting of that name.
    pub host_network_port_forward: bool,
    agents: AtomicUsize,
    folder: tempfile::TempDir,
    nri: Option<nri::Options>,
    /// Pauses between restarts of whole pods' containers.
    pub backoff: BackoffPolicy,
    /// Settings of specs.
    pub oci: oci::Settings,
    /// How long pods that nobody knows are left alone.
    pub stray_patience: Duration,
}

impl World {
    /// A host with [`IMAGE`], whose pause program needs no image.
    pub fn new() -> Self {
        // In memory where there is such a place: nobody waits for a busy disk.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let folder = folder.expect("temporary folder");
        let fakes = Fakes::new(folder.path());
        fakes.images.seed(&[IMAGE], &serde_json::json!({ "Entrypoint": ["run"] }));
        // A kernel that counts everything: an agent looks when it starts.
        for (name, text) in [
            ("cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
            ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
            ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
            ("proc/pressure/io", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
        ] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect(name);
        }
        let root = folder.path().join("pause");
        let pause = PauseSource::Embedded { root, program: "/pause".to_owned() };
        let agents = AtomicUsize::new(0);
        Self {
            fakes,
            pause,
            host_network_port_forward: true,
            agents,
            folder,
            nri: None,
            backoff: BackoffPolicy::default(),
            oci: oci::Settings::default(),
            stray_patience: Duration::from_secs(600),
        }
    }

    /// A host whose pause container comes from an image.
    pub fn with_pause_image() -> Self {
        let world = Self::new();
        world.fakes.images.seed(&[PAUSE_IMAGE], &serde_json::json!({ "Entrypoint": ["/pause"] }));
        Self { pause: PauseSource::Image(PAUSE_IMAGE.to_owned()), ..world }
    }

    /// A host where plugins of the node may join at [`World::nri_socket`].
    pub fn with_plugins(change: impl FnOnce(&mut nri::Options)) -> Self {
        let mut world = Self::new();
        let mut options = nri::Options {
            socket: Some(world.nri_socket()),
            plugins: world.path("nri/plugins"),
            configs: world.path("nri/conf.d"),
            registration_timeout: PATIENCE,
            request_timeout: PATIENCE,
            limits: nri::Limits { swap: true, hugepages: true },
        };
        change(&mut options);
        world.nri = Some(options);
        world
    }

    pub fn nri_socket(&self) -> PathBuf {
        self.path("nri.sock")
    }

    /// The same host after a reboot.
    pub fn rebooted(self) -> Self {
        Self { fakes: self.fakes.reboot(), ..self }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Loses what the store remembers.
    pub fn delete_store(&self) {
        std::fs::remove_file(self.path("db/state.redb")).expect("delete the store");
    }

    /// Starts an agent and waits until it has taken over.
    pub async fn agent(&self) -> Agent {
        let agent = self.agent_before_recovery().await;
        agent.recover().await;
        agent
    }

    /// Starts an agent that serves but has not recovered yet.
    pub async fn agent_before_recovery(&self) -> Agent {
        let number = self.agents.fetch_add(1, Ordering::Relaxed);
        let socket = self.path(&format!("cri-{number}.sock"));
        let tokio = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let tokio = tokio.expect("a tokio runtime");
        let (fakes, options, nri) = (self.fakes.clone(), self.rooms(), self.nri.clone());
        let pods = self.pods_options();
        let store = self.open_store().await;
        let (ready, is_ready) = watch::channel(false);
        let at = socket.clone();
        let built = tokio.spawn(async move {
            let rooms = Rooms::build(fakes.clone(), store, options, nri, pods);
            let socket = SocketOptions { path: at, mode: 0o600, gid: None };
            let listener = serve::bind(&socket).await.expect("bind");
            let server = serve::serve(
                listener,
                rooms.services(&fakes),
                Some(rooms.pod_services()),
                is_ready,
                rooms.tasks.draining(),
            );
            drop(rooms.tasks.spawn("server", async move { server.await.expect("serve") }));
            rooms
        });
        let rooms = built.await.expect("an agent");
        let channel = connect(socket).await;
        Agent {
            cri: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(16 << 20),
            channel,
            rooms,
            ready,
            tokio: Some(tokio),
        }
    }

    fn rooms(&self) -> (container::Options, sandbox::Options, stats::Options) {
        let handler = RuntimeHandler {
            name: "runc".to_owned(),
            snapshotter: SNAPSHOTTER.to_owned(),
            ..RuntimeHandler::default()
        };
        let containers = container::Options {
            root: self.path("root/containers"),
            state: self.path("state/containers"),
            oci: self.oci.clone(),
            cdi_spec_dirs: ["cdi", "run/cdi"].map(|folder| self.path(folder)).into(),
            max_log_line: 16 << 10,
        };
        let sandboxes = sandbox::Options {
            state: self.path("state/pods"),
            files: self.path("root/sandboxes"),
            netns_dir: self.path("netns"),
            netns_prefix: "podbay-".to_owned(),
            handlers: [String::new(), "runc".to_owned()].map(|name| (name, handler.clone())).into(),
            pause: self.pause.clone(),
            oci: self.oci.clone(),
            shm_size: 1 << 20,
            host_network_port_forward: self.host_network_port_forward,
        };
        // Nothing is measured behind the scenes unless a test starts it.
        let stats = stats::Options {
            cgroup: CgroupVersion::V2,
            cgroup_root: self.path("cgroup"),
            proc: self.path("proc"),
            interval: Duration::from_millis(20),
            layer_interval: Duration::from_millis(20),
            snapshotters: [(String::new(), SNAPSHOTTER.to_owned())].into(),
            // A plain file that is kept open outlives its folder; one of a cgroup does not.
            max_files: 0,
        };
        (containers, sandboxes, stats)
    }

    fn pods_options(&self) -> PodsOptions {
        let node = NodeFacts {
            name: "node-1".to_owned(),
            ips: vec![[192, 0, 2, 10].into()],
            capacity: plenty(),
            allocatable: plenty(),
            log_root: self.path("pod-logs"),
            cgroup_v2: true,
            ..NodeFacts::default()
        };
        let policy = Policy { restart: self.backoff, pull: self.backoff };
        let stray_patience = self.stray_patience;
        PodsOptions { root: self.path("root"), node, policy, stray_patience }
    }

    /// The agent before this one may still be letting go of it.
    async fn open_store(&self) -> Store {
        let path = self.path("db/state.redb");
        let opened = eventually("open the store", async || {
            match Store::open(store::Options { path: path.clone() }) {
                Ok(opened) => Some(opened),
                Err(store::Error::Locked { .. }) => None,
                Err(error) => panic!("{error}"),
            }
        });
        opened.await.store
    }

    /// What somebody would have to clean up: below the seams, and in the folders of the agent.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = self.fakes.leftovers();
        for folder in [
            "state/pods",
            "state/containers",
            "root/containers",
            "root/pods",
            "root/sandboxes",
            "pod-logs",
        ] {
            let names = std::fs::read_dir(self.path(folder)).into_iter().flatten();
            left.extend(
                names.map(|name| format!("{folder}/{:?}", name.expect("name").file_name())),
            );
        }
        left
    }

    /// Waits until nothing is left; some things are undone in the background.
    #[track_caller]
    pub fn clean(&self) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while !self.leftovers().is_empty() {
                let late = tokio::time::Instant::now() > deadline;
                assert!(!late, "{caller}: left over: {:#?}", self.leftovers());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

fn plenty() -> podbay::pod::translate::Amounts {
    podbay::pod::translate::Amounts {
        milli_cpu: 64_000,
        memory: 64 << 30,
        ephemeral_storage: 1 << 40,
        pods: 110,
        ..podbay::pod::translate::Amounts::default()
    }
}

async fn connect(socket: PathBuf) -> Channel {
    let endpoint = Endpoint::from_static("http://podbay.invalid");
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.expect("connect")
}

/// The rooms of an agent.
pub struct Rooms {
    pub tasks: Tasks,
    pub store: Store,
    pub sandboxes: Arc<Sandboxes>,
    pub containers: Arc<Containers>,
    pub board: Arc<Board>,
    pub stats: Arc<Stats>,
    images: Arc<Images>,
    pub nri: Option<Nri>,
    pub pods: Arc<Pods>,
}

impl Rooms {
    fn build(
        fakes: Fakes,
        store: Store,
        (of_containers, of_sandboxes, of_stats): (
            container::Options,
            sandbox::Options,
            stats::Options,
        ),
        nri: Option<nri::Options>,
        pods: PodsOptions,
    ) -> Self {
        let tasks = Tasks::new();
        let nri = nri.map(|options| Nri::new(options, tasks.clone()));
        let images = Images::new(
            fakes.images.clone(),
            fakes.runtime.clone(),
            tasks.clone(),
            image::Options { snapshotter: SNAPSHOTTER.to_owned(), ..image::Options::default() },
        );
        let base = container::Deps {
            runtime: fakes.runtime.clone(),
            host: fakes.host.clone() as Arc<dyn Host>,
            hooks: match &nri {
                Some(nri) => Arc::new(nri.clone()),
                None => Arc::new(NoHooks),
            },
            images: images.clone(),
            store: store.clone(),
            board: Arc::new(Board::new()),
            tasks: tasks.clone(),
            pumps: Arc::new(Pumps::start().expect("the log thread")),
        };
        let containers = Containers::new(base.clone(), of_containers);
        let board = base.board.clone();
        let deps =
            sandbox::Deps { base, network: fakes.network.clone(), containers: containers.clone() };
        let sandboxes = Arc::new(Sandboxes::new(deps, of_sandboxes));
        let mut events = fakes.runtime.events();
        let (oom, index) = (containers.clone(), images.clone());
        drop(tasks.spawn("events", async move {
            while let Some(event) = events.next().await {
                match event {
                    RuntimeEvent::Oom { container } => oom.note_oom(&container),
                    RuntimeEvent::ImagesChanged | RuntimeEvent::Connected => index.invalidate(),
                    RuntimeEvent::Disconnected | RuntimeEvent::Exit { .. } => {}
                }
            }
        }));
        let deps = stats::Deps {
            runtime: fakes.runtime.clone(),
            board: board.clone(),
            tasks: tasks.clone(),
        };
        let stats = Stats::new(deps, of_stats);
        let deps = PodsDeps {
            sandboxes: sandboxes.clone(),
            images: images.clone(),
            host: fakes.host.clone(),
            store: store.clone(),
            tasks: tasks.clone(),
        };
        let pods = Pods::new(deps, pods);
        Self { tasks, store, sandboxes, containers, board, images, stats, nri, pods }
    }

    fn services(&self, fakes: &Fakes) -> CriServices {
        CriServices {
            sandboxes: self.sandboxes.clone(),
            images: self.images.clone(),
            stats: self.stats.clone(),
            runtime: fakes.runtime.clone(),
            network: fakes.network.clone(),
            urls: Arc::new(Urls::new(None, ([127, 0, 0, 1], 1).into())),
            identity: Identity::default(),
        }
    }

    /// What `podbay.v1` is served with.
    pub fn pod_services(&self) -> PodServices {
        PodServices::of(&self.pods, &self.sandboxes, &self.stats, &self.images)
    }
}

/// An agent.
pub struct Agent {
    pub cri: RuntimeServiceClient<Channel>,
    pub channel: Channel,
    pub rooms: Rooms,
    ready: watch::Sender<bool>,
    tokio: Option<Runtime>,
}

impl Agent {
    /// Takes over what is there, as at every start, and opens the gate.
    pub async fn recover(&self) {
        let (sandboxes, nri) = (self.rooms.sandboxes.clone(), self.rooms.nri.clone());
        let pods = self.rooms.pods.clone();
        let tokio = self.tokio.as_ref().expect("it lives");
        let recovered = tokio.spawn(async move {
            sandboxes.learn_features().await;
            sandboxes.recover().await?;
            pods.recover().await.expect("pods are recovered");
            if let Some(nri) = nri {
                nri.start(sandboxes).await;
            }
            Ok::<_, sandbox::Error>(())
        });
        recovered.await.expect("no panic").expect("recovered");
        self.ready.send_replace(true);
    }

    /// Runs work inside the agent: it ends with it.
    pub fn inside<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.tokio.as_ref().expect("it lives").spawn(work)
    }

    /// Starts to measure behind the scenes.
    pub fn measure(&self) {
        let _inside = self.tokio.as_ref().expect("it lives").enter();
        self.rooms.stats.start();
    }

    /// Ends the agent in the middle of everything, without any clean-up.
    pub async fn kill(mut self) {
        let tokio = self.tokio.take().expect("it lives");
        let ended = tokio::task::spawn_blocking(move || tokio.shutdown_timeout(PATIENCE));
        ended.await.expect("no panic");
    }

    /// Rows of the store: ids of sandboxes and containers.
    pub fn rows(&self) -> Vec<String> {
        let pods = self.rooms.store.load::<SandboxRecord>().expect("rows").records;
        let containers = self.rooms.store.load::<ContainerRecord>().expect("rows").records;
        let pods = pods.iter().map(|row| row.sandbox.id.to_string());
        pods.chain(containers.iter().map(|row| row.container.id.to_string())).collect()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(tokio) = self.tokio.take() {
            tokio.shutdown_background();
        }
    }
}

/// Waits for an answer with a deadline.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    mut ask: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "{caller}: too late: {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A file's text, empty when it is absent.
pub fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
