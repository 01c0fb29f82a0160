//! The contract suite on the fakes, and tests of what only fakes can do.

mod contract;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contract::{Env, Run, kind, soon};
use futures::StreamExt;
use podbay::backend::fake::{Fakes, SNAPSHOTTER};
use podbay::backend::{
    ErrorKind, Host, Images, Network, NewTask, Process, RootfsOptions, Runtime, RuntimeContainer,
    RuntimeEvent, RuntimeHandler, Stdio, TaskState,
};
use podbay::model::image::{ChainId, Digest};
use serde_json::json;

struct FakeEnv {
    folder: tempfile::TempDir,
    chain: ChainId,
}

impl FakeEnv {
    fn new() -> (Self, Fakes) {
        let folder = tempfile::tempdir().unwrap();
        let fakes = Fakes::new(folder.path());
        fakes.images.seed(&["contract.example/image:1"], &json!({}));
        // The layer of seeded images: an empty archive.
        (Self { folder, chain: Digest::of(&[0; 1024]) }, fakes)
    }
}

impl Env for FakeEnv {
    fn handler(&self) -> RuntimeHandler {
        RuntimeHandler {
            name: "runc".into(),
            snapshotter: SNAPSHOTTER.into(),
            ..RuntimeHandler::default()
        }
    }

    fn chain(&self) -> ChainId {
        self.chain.clone()
    }

    fn spec(&self, _id: &str, run: Run) -> serde_json::Value {
        json!({ "ociVersion": "1.0.2", "process": self.process(run) })
    }

    fn process(&self, run: Run) -> serde_json::Value {
        match run {
            Run::Exit(code) => json!({ "args": ["exit", code.to_string()] }),
            Run::Echo(text) => json!({ "args": ["echo", text] }),
            Run::Cat => json!({ "args": ["cat"] }),
            Run::UntilTerm => json!({ "args": ["run"] }),
            Run::UntilKill => json!({ "args": ["ignore-term"] }),
        }
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

#[tokio::test]
async fn the_fake_runtime_keeps_the_contract() {
    let (env, fakes) = FakeEnv::new();
    let runtime: Arc<dyn Runtime> = fakes.runtime.clone();
    contract::runtime::runtime_contract(&runtime, &env).await;
    assert_eq!(fakes.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_fake_image_store_keeps_the_contract() {
    let (_env, fakes) = FakeEnv::new();
    let images: Arc<dyn Images> = fakes.images.clone();
    contract::images::images_contract(&images, SNAPSHOTTER).await;
    assert_eq!(fakes.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_fake_network_keeps_the_contract() {
    let (_env, fakes) = FakeEnv::new();
    let (network, host): (Arc<dyn Network>, Arc<dyn Host>) =
        (fakes.network.clone(), fakes.host.clone());
    let folder = Path::new("/run/netns");
    contract::network::network_contract(&network, &host, folder, "contract-").await;
    assert_eq!(fakes.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_fake_host_keeps_the_contract() {
    let (env, fakes) = FakeEnv::new();
    let host: Arc<dyn Host> = fakes.host.clone();
    let netns = Path::new("/run/netns");
    contract::host::host_contract(&host, env.folder(), netns, "contract-").await;
    assert_eq!(fakes.leftovers(), [""; 0]);
}

/// A container with a running task.
async fn running(fakes: &Fakes, env: &FakeEnv, id: &str, args: &[&str]) {
    let record = RuntimeContainer {
        id: id.to_owned(),
        image: String::new(),
        labels: Default::default(),
        sandbox: None,
        handler: env.handler(),
        spec: json!({ "process": { "args": args } }),
        snapshot_key: None,
        extension: serde_json::Value::Null,
    };
    fakes.runtime.create_container(&record).await.unwrap();
    let task = NewTask { id: id.to_owned(), rootfs: Vec::new(), stdio: Stdio::default() };
    fakes.runtime.create_task(&task).await.unwrap();
    fakes.runtime.start(Process::init(id)).await.unwrap();
}

#[tokio::test]
async fn steps_fail_hang_and_lose_answers_when_told() {
    let (_env, fakes) = FakeEnv::new();
    let (runtime, steps) = (fakes.runtime.clone(), &fakes.steps);
    let prepare = |key: &'static str| {
        let runtime = runtime.clone();
        async move { runtime.prepare_rootfs(SNAPSHOTTER, key, None, &RootfsOptions::default()).await }
    };
    steps.fail("prepare_rootfs", ErrorKind::ResourceExhausted, 2);
    assert_eq!(kind(prepare("a").await), ErrorKind::ResourceExhausted);
    assert_eq!(kind(prepare("a").await), ErrorKind::ResourceExhausted);
    assert!(fakes.leftovers().is_empty(), "a failed step did its work");
    prepare("a").await.unwrap();

    steps.lose_answer("prepare_rootfs", ErrorKind::Unavailable, 1);
    assert_eq!(kind(prepare("b").await), ErrorKind::Unavailable);
    assert_eq!(fakes.leftovers(), ["snapshot a", "snapshot b"]);

    steps.hang("prepare_rootfs");
    let hanging = tokio::time::timeout(Duration::from_millis(20), prepare("c")).await;
    assert!(hanging.is_err());
    let (made, ()) = tokio::join!(prepare("c"), async {
        steps.called("prepare_rootfs", 6).await;
        steps.release("prepare_rootfs");
    });
    made.unwrap();
    let last = steps.calls().pop().unwrap();
    assert_eq!((last.step, last.subject.as_str()), ("prepare_rootfs", "c"));
}

#[tokio::test]
async fn while_the_daemon_is_away_processes_run_on() {
    let (env, fakes) = FakeEnv::new();
    let runtime = &fakes.runtime;
    running(&fakes, &env, "a", &["run"]).await;
    let mut events = runtime.events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Connected));
    let (waited, ()) = tokio::join!(runtime.wait(Process::init("a")), async {
        fakes.steps.called("wait", 1).await;
        fakes.set_away(true);
    });
    assert_eq!(kind(waited), ErrorKind::Unavailable);
    assert_eq!(kind(runtime.probe().await), ErrorKind::Unavailable);
    assert_eq!(kind(fakes.images.list_images().await), ErrorKind::Unavailable);
    runtime.end(Process::init("a"), 42);
    let host = &fakes.host;
    let ended = async {
        while fakes.leftovers().iter().any(|left| left.starts_with("process")) {
            tokio::task::yield_now().await;
        }
    };
    soon("its end", ended).await;
    assert!(host.facts().kernel.0 > 0);
    fakes.set_away(false);
    assert_eq!(runtime.wait(Process::init("a")).await.unwrap().code, 42);
    assert_eq!(events.next().await, Some(RuntimeEvent::Disconnected));
    assert_eq!(events.next().await, Some(RuntimeEvent::Connected));
}

#[tokio::test]
async fn a_lost_shim_takes_the_exit_code_with_it() {
    let (env, fakes) = FakeEnv::new();
    let runtime = &fakes.runtime;
    running(&fakes, &env, "a", &["run"]).await;
    runtime.set_mute("a", true);
    let status = runtime.task(Process::init("a")).await.unwrap().unwrap();
    assert_eq!(status.state, TaskState::Unknown);
    let killed = runtime.kill(Process::init("a"), 9, true).await;
    assert_eq!(kind(killed), ErrorKind::DeadlineExceeded);
    let (waited, ()) = tokio::join!(runtime.wait(Process::init("a")), async {
        fakes.steps.called("wait", 1).await;
        runtime.lose_task("a");
    });
    assert_eq!(kind(waited), ErrorKind::Unavailable);
    assert_eq!(runtime.task(Process::init("a")).await.unwrap(), None);
    assert_eq!(fakes.leftovers(), ["container a"]);
}

#[tokio::test]
async fn an_oom_kill_is_counted_until_the_task_is_deleted() {
    let (env, fakes) = FakeEnv::new();
    let (runtime, host) = (&fakes.runtime, &fakes.host);
    running(&fakes, &env, "a", &["run"]).await;
    let pid = runtime.pids("a").await.unwrap()[0];
    assert!(host.process_start_time(pid).await.unwrap().is_some());
    let cgroup = host.memory_cgroup(pid).await.unwrap().expect("of a live process");
    assert_eq!(host.oom_kills(&cgroup).await.unwrap(), Some(0));
    runtime.oom("a");
    assert_eq!(runtime.wait(Process::init("a")).await.unwrap().code, 137);
    assert_eq!(host.memory_cgroup(pid).await.unwrap(), None);
    assert_eq!(host.process_start_time(pid).await.unwrap(), None);
    assert_eq!(host.oom_kills(&cgroup).await.unwrap(), Some(1));
    runtime.delete_task(Process::init("a"), false).await.unwrap();
    assert_eq!(host.oom_kills(&cgroup).await.unwrap(), None);
}

#[tokio::test]
async fn a_reboot_leaves_records_and_takes_the_rest() {
    let (env, fakes) = FakeEnv::new();
    running(&fakes, &env, "a", &["run"]).await;
    fakes.host.create_netns(Path::new("/run/netns/a")).await.unwrap();
    let after = fakes.reboot();
    assert_ne!(after.host.facts().boot_id, fakes.host.facts().boot_id);
    assert_eq!(after.leftovers(), ["container a"]);
}

#[tokio::test]
async fn a_program_that_cannot_start_leaves_a_created_task() {
    let (env, fakes) = FakeEnv::new();
    let runtime = &fakes.runtime;
    let record = RuntimeContainer {
        spec: json!({ "process": { "args": ["fail-start"] } }),
        ..record_of(&env, "a")
    };
    runtime.create_container(&record).await.unwrap();
    let task = NewTask { id: "a".into(), rootfs: Vec::new(), stdio: Stdio::default() };
    runtime.create_task(&task).await.unwrap();
    assert_eq!(kind(runtime.start(Process::init("a")).await), ErrorKind::Other);
    runtime.delete_task(Process::init("a"), true).await.unwrap();
    runtime.delete_container("a").await.unwrap();
    assert_eq!(fakes.leftovers(), [""; 0]);
}

fn record_of(env: &FakeEnv, id: &str) -> RuntimeContainer {
    RuntimeContainer {
        id: id.to_owned(),
        image: String::new(),
        labels: Default::default(),
        sandbox: None,
        handler: env.handler(),
        spec: serde_json::Value::Null,
        snapshot_key: None,
        extension: serde_json::Value::Null,
    }
}

#[tokio::test]
async fn the_fake_host_keeps_its_hands_off_the_machine() {
    let (_env, fakes) = FakeEnv::new();
    let host = &fakes.host;
    for path in ["/etc/podbay-test", "/"] {
        let path = Path::new(path);
        assert_eq!(kind(host.write_file(path, b"", 0o600).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(host.create_dir(path, 0o700).await), ErrorKind::InvalidArgument);
        assert_eq!(kind(host.remove_tree(path).await), ErrorKind::InvalidArgument);
    }
    let climbing = _env.folder().join("../x");
    assert_eq!(kind(host.remove_tree(&climbing).await), ErrorKind::InvalidArgument);
}
