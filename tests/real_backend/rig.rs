//! A private daemon with the adapter, and what is needed to run a small container.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use podbay::backend::containerd::{Containerd, Options};
use podbay::backend::{
    CallDeadlines, NewExec, NewTask, Process, RootfsOptions, Runtime, RuntimeContainer,
    RuntimeHandler, Stdio,
};
use podbay::ids::ContainerId;
use podbay::model::image::ChainId;
use serde_json::{Value, json};

use crate::containerd::{Line, PrivateContainerd};
use crate::image::TestImage;

pub const NAMESPACE: &str = "podbay";
pub const SNAPSHOTTER: &str = "overlayfs";

pub struct Rig {
    pub daemon: PrivateContainerd,
    pub backend: Containerd,
    cgroup: String,
}

impl Rig {
    pub fn start(line: Line) -> Self {
        let daemon = PrivateContainerd::start(line);
        let backend = Containerd::connect(Options {
            address: daemon.address(),
            namespace: NAMESPACE.into(),
            deadlines: CallDeadlines::default(),
        })
        .unwrap();
        std::fs::create_dir(daemon.root().join("work")).unwrap();
        let cgroup = format!("podbay-test-{}", &random_id()[..12]);
        Self { daemon, backend, cgroup }
    }

    pub fn handler(&self) -> RuntimeHandler {
        RuntimeHandler {
            name: "runc".into(),
            runtime_type: "io.containerd.runc.v2".into(),
            root: self.daemon.root().join("runc").to_str().unwrap().into(),
            snapshotter: SNAPSHOTTER.into(),
            ..RuntimeHandler::default()
        }
    }

    /// A container of the busybox image that would run `args`: root file system and record.
    pub async fn container(&self, args: &[&str]) -> String {
        let chain = TestImage::busybox().store(&self.backend).await;
        self.container_on(&chain, args, |_| ()).await
    }

    /// The same with a changed spec.
    pub async fn container_on(
        &self,
        chain: &ChainId,
        args: &[&str],
        change: impl FnOnce(&mut Value),
    ) -> String {
        let id = random_id();
        let mut spec = self.spec(&id, args);
        change(&mut spec);
        let options = RootfsOptions::default();
        self.backend.prepare_rootfs(SNAPSHOTTER, &id, Some(chain), &options).await.unwrap();
        let record = RuntimeContainer {
            id: id.clone(),
            image: TestImage::NAME.into(),
            labels: [("app".to_owned(), "test".to_owned())].into(),
            sandbox: None,
            handler: self.handler(),
            spec,
            snapshot_key: Some(id.clone()),
            extension: json!({"attempt": 1}),
        };
        self.backend.create_container(&record).await.unwrap();
        id
    }

    pub async fn create(&self, id: &str, stdio: Stdio) {
        let rootfs = self.backend.rootfs_mounts(SNAPSHOTTER, id).await.unwrap();
        let pid =
            self.backend.create_task(&NewTask { id: id.into(), rootfs, stdio }).await.unwrap();
        assert!(pid > 1, "pid {pid}");
    }

    /// A running container without streams.
    pub async fn running(&self, args: &[&str]) -> String {
        let id = self.container(args).await;
        self.create(&id, Stdio::default()).await;
        self.backend.start(Process::init(&id)).await.unwrap();
        id
    }

    pub async fn exec(&self, id: &str, exec_id: &str, args: &[&str], stdio: Stdio) {
        let mut process = process(args);
        process["terminal"] = stdio.terminal.into();
        let exec = NewExec { id: id.into(), exec_id: exec_id.into(), process, stdio };
        self.backend.exec(&exec).await.unwrap();
    }

    /// Deletes task, root and record; the test expects all of it to work.
    pub async fn remove(&self, id: &str) {
        self.backend.delete_task(Process::init(id), true).await.unwrap();
        self.backend.remove_rootfs(SNAPSHOTTER, id).await.unwrap();
        self.backend.delete_container(id).await.unwrap();
        until("its shim has ended", || async { self.daemon.shims().is_empty() }).await;
    }

    /// A FIFO in the rig's folder.
    pub fn fifo(&self, name: &str) -> PathBuf {
        let path = self.daemon.root().join("work").join(name);
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        path
    }

    /// Where this container's limit of that name is, on either cgroup version.
    pub fn cgroup_file(&self, id: &str, controller: &str, v1: &str, v2: &str) -> PathBuf {
        let base = PathBuf::from("/sys/fs/cgroup");
        let path = base.join(controller).join(&self.cgroup).join(id).join(v1);
        if path.exists() { path } else { base.join(&self.cgroup).join(id).join(v2) }
    }

    fn spec(&self, id: &str, args: &[&str]) -> Value {
        json!({
            "ociVersion": "1.0.2",
            "process": process(args),
            "root": {"path": "rootfs"},
            "hostname": "test",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nosuid", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            ],
            "linux": {
                "cgroupsPath": format!("/{}/{id}", self.cgroup),
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                ],
            },
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The daemon goes first when fields are dropped; its containers' cgroups are empty then.
        let Self { daemon, cgroup, .. } = self;
        daemon.kill_all();
        let base = PathBuf::from("/sys/fs/cgroup");
        let controllers = std::fs::read_dir(&base).into_iter().flatten().flatten();
        for top in controllers.map(|entry| entry.path()).chain([base]) {
            let parent = top.join(&*cgroup);
            let leaves = std::fs::read_dir(&parent).into_iter().flatten().flatten();
            leaves.for_each(|leaf| drop(std::fs::remove_dir(leaf.path())));
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn process(args: &[&str]) -> Value {
    json!({
        "args": args,
        "cwd": "/",
        "env": ["PATH=/bin"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {
            "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"],
        },
    })
}

pub fn random_id() -> String {
    ContainerId::random().into()
}

/// Reads a FIFO to its end on a thread of its own, which is opening it when this returns or soon
/// after: the shim's opening waits for it.
pub fn read_all(path: PathBuf) -> JoinHandle<String> {
    std::thread::spawn(move || std::fs::read_to_string(path).unwrap())
}

/// Waits until a predicate holds, at most 30 s.
pub async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), wait).await.is_ok(), "never: {what}");
}
