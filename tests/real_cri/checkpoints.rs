//! CheckpointContainer with a real CRIU.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use podbay::proto::runtime::v1 as cri;
use serde_json::Value;

use crate::rig::{LivePod, Rig, SOON, entries};
use crate::support::builders::Container;
use crate::support::containerd::{Line, criu_path};
use crate::support::wait_until;

impl Rig {
    async fn checkpoint(&self, id: &str, to: &Path) -> Result<(), tonic::Status> {
        let location = to.display().to_string();
        let request =
            cri::CheckpointContainerRequest { container_id: id.into(), location, timeout: 60 };
        self.runtime().checkpoint_container(request).await.map(drop)
    }

    /// A container that changes its files, and counts into its log from then on.
    async fn launch_counting(&self, pod: &LivePod) -> String {
        let script = "echo kept >/new; rm /etc/group; i=0; \
                      while true; do i=$((i+1)); echo $i; sleep 0.1; done";
        let id = self.launch(pod, &Container::script("counts", &self.image, script)).await;
        self.goes_on(pod, "counts").await;
        id
    }

    async fn goes_on(&self, pod: &LivePod, name: &str) {
        let lines = || entries(&self.log(pod, name)).len();
        let before = lines();
        wait_until(SOON, "it goes on", async || lines() > before + 2).await;
    }
}

/// Files of an archive; folders have no content.
fn contents(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut tar = tar::Archive::new(archive);
    let entries = tar.entries().expect("an archive").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("its content");
        (name.trim_end_matches('/').to_owned(), content)
    });
    entries.collect()
}

/// Whether CRIU can dump anything on this kernel.
pub fn criu_works() -> bool {
    let checked = Command::new("criu").arg("check").env("PATH", criu_path()).output();
    checked.expect("criu").status.success()
}

pub async fn containers_are_checkpointed(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("saved")).await;
    let id = rig.launch_counting(&pod).await;
    let (before, pid) = (rig.status(&id).await, rig.pid(&id).await);
    let place = rig.env().file("saved.tar");
    let done = rig.checkpoint(&id, &place).await;
    if criu_works() {
        done.expect("CheckpointContainer");
        assert_eq!(std::fs::metadata(&place).expect("the archive").permissions().mode(), 0o100600);
        check(&std::fs::read(&place).expect("the archive"), &before);
        let first = std::fs::metadata(&place).expect("the archive").ino();
        rig.checkpoint(&id, &place).await.expect("a second one takes its place");
        assert_ne!(std::fs::metadata(&place).expect("the archive").ino(), first);
    } else {
        let refused = done.expect_err("CRIU cannot");
        assert!(refused.message().to_lowercase().contains("criu"), "{refused}");
        assert!(!place.exists(), "nothing is left of it");
    }
    // It is as if nothing had happened.
    rig.goes_on(&pod, "counts").await;
    assert_eq!((rig.status(&id).await, rig.pid(&id).await), (before, pid));
    assert_eq!(rig.exec(&id, "cat /new").await, "kept");
    assert!(!rig.env().root().join("containers").join(&id).join("checkpoint").exists());
    rig.stop(&id, 0).await;
    rig.finish().await;
}

/// The layout that checkpointctl and the kubelet's documentation have.
fn check(archive: &[u8], status: &cri::ContainerStatus) {
    let files = contents(archive);
    let images = |start: &str| {
        let start = format!("checkpoint/{start}");
        files.keys().any(|name| name.starts_with(&start))
    };
    for start in ["inventory.img", "pstree.img", "core-", "pages-", "descriptors.json"] {
        assert!(images(start), "no {start}* in {:?}", files.keys());
    }
    for name in ["dump.log", "stats-dump"] {
        assert!(files.contains_key(name), "no {name} in {:?}", files.keys());
    }
    let json = |name: &str| -> Value { serde_json::from_slice(&files[name]).expect(name) };
    let config = json("config.dump");
    assert_eq!((&config["id"], &config["name"]), (&status.id.clone().into(), &"counts".into()));
    assert_eq!(config["rootfsImageRef"], status.image_ref);
    assert_eq!(config["runtime"], "io.containerd.runc.v2");
    let spec = json("spec.dump");
    assert_eq!(spec["annotations"]["io.kubernetes.cri.container-name"], "counts");
    assert_eq!(spec["process"]["args"][0], "/bin/sh");
    assert_eq!(json("status.dump")["started_at"], status.started_at);
    assert!(String::from_utf8_lossy(&files["container.log"]).contains(" stdout F 1\n"));
    let changes = contents(&files["rootfs-diff.tar"]);
    assert_eq!(changes["new"], b"kept\n");
    assert!(changes.contains_key("etc/.wh.group"), "{:?}", changes.keys());
    assert!(!changes.keys().any(|name| name.starts_with("bin")), "the image's files are not in it");
}

/// What CRIU gives up on after it has begun is let go on.
pub async fn what_cannot_be_dumped_goes_on(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("talks")).await;
    let script = "nc -l -p 7000 -e cat & while true; do \
                  (while true; do echo x; sleep 0.1; done) | nc 127.0.0.1 7000; sleep 0.1; done";
    let id = rig.launch(&pod, &Container::script("talks", &rig.image, script)).await;
    rig.goes_on(&pod, "talks").await;
    let pid = rig.pid(&id).await;
    let place = rig.env().file("talks.tar");
    let refused = rig.checkpoint(&id, &place).await.expect_err("a connection is open");
    assert!(refused.message().to_lowercase().contains("criu"), "{refused}");
    assert!(!place.exists());
    rig.goes_on(&pod, "talks").await;
    assert_eq!(rig.pid(&id).await, pid);
    // Nor does it matter to what comes after.
    let other = rig.launch_counting(&pod).await;
    let done = rig.checkpoint(&other, &rig.env().file("counts.tar")).await;
    assert_eq!(done.is_ok(), criu_works(), "{done:?}");
    rig.finish().await;
}
