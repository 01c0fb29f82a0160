//! The contract suite on the real adapters: both lines of containerd, the real CNI plugins, this
//! host. Needs root, and fails rather than skips when a part is missing. It is the same suite as in
//! `contract_fake.rs`: a test that passes there and fails here shows a wrong fake.

mod contract;
mod support;

use std::path::Path;
use std::sync::Arc;

use contract::{Env, Run};
use podbay::backend::cni::{self, Cni};
use podbay::backend::containerd::{Containerd, Options};
use podbay::backend::linux::{self, LinuxHost};
use podbay::backend::{CallDeadlines, Host, Images, LayerUnpack, Network, Runtime, RuntimeHandler};
use podbay::model::StringMap;
use podbay::model::image::{ChainId, Descriptor, Digest};
use serde_json::{Value, json};
use support::census::{self, Census};
use support::containerd::Line;
use support::env::{Networking, TestEnv};
use support::images::{Blob, ImageBuilder};

/// What names of network namespaces begin with.
const PREFIX: &str = "contract-";

/// A world, the adapter on its containerd, and an unpacked busybox.
struct RealEnv {
    world: TestEnv,
    below: Arc<Containerd>,
    chain: ChainId,
}

impl RealEnv {
    async fn start(line: Line) -> Self {
        let world = TestEnv::start(line).await;
        let options = Options {
            address: world.containerd.address(),
            namespace: world.namespace().into(),
            deadlines: CallDeadlines::default(),
        };
        let below = Arc::new(Containerd::connect(options).unwrap());
        let chain = unpack_busybox(&*below, world.snapshotter()).await;
        Self { world, below, chain }
    }
}

impl Env for RealEnv {
    fn handler(&self) -> RuntimeHandler {
        RuntimeHandler {
            name: "runc".into(),
            runtime_type: "io.containerd.runc.v2".into(),
            snapshotter: self.world.snapshotter().into(),
            ..RuntimeHandler::default()
        }
    }

    fn chain(&self) -> ChainId {
        self.chain.clone()
    }

    fn spec(&self, id: &str, run: Run) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": self.process(run),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.world.cgroup_parent()),
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
            },
        })
    }

    fn process(&self, run: Run) -> Value {
        let script = match run {
            Run::Exit(code) => format!("exit {code}"),
            Run::Echo(text) => format!("echo '{text}'"),
            Run::Cat => "exec cat".to_owned(),
            // The first process of a PID namespace gets no signal that it has no handler for.
            Run::UntilTerm => "trap 'exit 143' TERM; sleep 86400 & wait".to_owned(),
            Run::UntilKill => "trap '' TERM; exec sleep 86400".to_owned(),
        };
        json!({
            "args": ["/bin/sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        })
    }

    fn folder(&self) -> &Path {
        self.world.path()
    }
}

/// Stores the layer of the busybox image, unpacks it, and gives it a name that holds it.
async fn unpack_busybox(images: &dyn Images, snapshotter: &str) -> ChainId {
    let image = ImageBuilder::busybox().build();
    let config: Value = serde_json::from_slice(&image.blobs[0].bytes).unwrap();
    let diff_id = config["rootfs"]["diff_ids"][0].as_str().unwrap();
    // The chain of one layer is its diff id.
    let chain: Digest = Digest::try_from(diff_id).unwrap();
    let lease = images.lease().await.unwrap();
    for (blob, held) in [(&image.blobs[1], None), (&image.root, Some(&chain))] {
        let descriptor = described(blob);
        let name = format!("layer-{}", descriptor.digest);
        let mut writer = images.write_blob(&lease, &name, &descriptor).await.unwrap();
        writer.write(blob.bytes.clone().into()).await.unwrap();
        let label = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
        let labels = held.map(|chain| (label, chain.to_string()));
        writer.commit(&labels.into_iter().collect()).await.unwrap();
    }
    let layer = described(&image.blobs[1]);
    let unpack = LayerUnpack {
        lease: &lease,
        snapshotter,
        layer: &layer,
        parent: None,
        chain: &chain,
        diff_id: &chain,
        labels: &StringMap::new(),
    };
    images.unpack(unpack).await.unwrap();
    let record = podbay::backend::ImageRecord {
        name: "contract.example/busybox:1".into(),
        target: described(&image.root),
        labels: StringMap::new(),
    };
    images.put_image(&record, Some(&lease)).await.unwrap();
    images.release(&lease, true).await.unwrap();
    chain
}

fn described(blob: &Blob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type.clone(),
        digest: Digest::try_from(blob.digest.as_str()).unwrap(),
        size: blob.bytes.len() as u64,
        annotations: StringMap::new(),
    }
}

async fn runtime_keeps_the_contract(line: Line) {
    let env = RealEnv::start(line).await;
    let before = Census::take(&env.world).await;
    let runtime: Arc<dyn Runtime> = env.below.clone();
    contract::runtime::runtime_contract(&runtime, &env).await;
    census::assert_nothing_left(&env.world, &before).await;
}

async fn images_keep_the_contract(line: Line) {
    let env = RealEnv::start(line).await;
    let before = Census::take(&env.world).await;
    let images: Arc<dyn Images> = env.below.clone();
    contract::images::images_contract(&images, env.world.snapshotter()).await;
    census::assert_nothing_left(&env.world, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_of_containerd_1_keeps_the_contract() {
    runtime_keeps_the_contract(Line::V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_runtime_of_containerd_2_keeps_the_contract() {
    runtime_keeps_the_contract(Line::V2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_store_of_containerd_1_keeps_the_contract() {
    images_keep_the_contract(Line::V1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_store_of_containerd_2_keeps_the_contract() {
    images_keep_the_contract(Line::V2).await;
}

fn host(world: &TestEnv) -> Arc<dyn Host> {
    let options = linux::Options {
        netns_dir: world.netns_dir(),
        netns_prefix: PREFIX.into(),
        scratch: world.file("scratch"),
        apparmor: world.file("apparmor"),
    };
    Arc::new(LinuxHost::new(options).unwrap())
}

async fn network_keeps_the_contract(line: Line, networking: Networking) {
    let world = TestEnv::start_with(line, networking).await;
    let own = cni::DefaultNetwork {
        bridge: world.bridge(),
        subnets: vec![world.subnet().parse().unwrap()],
        ..Default::default()
    };
    let options = cni::Options {
        conf_dir: world.cni_conf_dir(),
        bin_dirs: vec![world.cni_bin_dir()],
        cache_dir: world.cni_cache_dir(),
        default_network: (networking == Networking::Default).then_some(own),
        use_pod_cidr: true,
        ..Default::default()
    };
    let network: Arc<dyn Network> = Arc::new(Cni::new(options).unwrap());
    let host = host(&world);
    let before = Census::take(&world).await;
    contract::network::network_contract(&network, &host, &world.netns_dir(), PREFIX).await;
    census::assert_nothing_left(&world, &before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_network_with_old_plugins_keeps_the_contract() {
    network_keeps_the_contract(Line::V1, Networking::Conflist).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_network_with_new_plugins_keeps_the_contract() {
    network_keeps_the_contract(Line::V2, Networking::Conflist).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_network_keeps_the_contract() {
    network_keeps_the_contract(Line::V2, Networking::Default).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn this_host_keeps_the_contract() {
    let world = TestEnv::start(Line::V2).await;
    let host = host(&world);
    let before = Census::take(&world).await;
    contract::host::host_contract(&host, world.path(), &world.netns_dir(), PREFIX).await;
    assert_eq!(Census::take(&world).await.of("network namespace"), before.of("network namespace"));
    drop(host);
}
