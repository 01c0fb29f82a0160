//! The disk of the store is full: nothing new begins, and what there is ends as ever.

use std::ffi::CString;
use std::io::Write as _;
use std::path::PathBuf;

use podbay::backend::{Process, Runtime as _};
use podbay::proto::runtime::v1 as cri;
use podbay::store::{Batch, Record};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::calls::{container, pod, refused};
use super::world::{Agent, World};

/// A file system of four megabytes at the folder of a world's store; mounting takes root.
struct SmallDisk(PathBuf);

/// A row that takes space.
#[derive(Serialize, Deserialize)]
struct Ballast(String, String);

impl Record for Ballast {
    const TABLE: &'static str = "ballast";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        &self.0
    }
}

impl SmallDisk {
    fn new(world: &World) -> Self {
        let path = world.path("db");
        std::fs::create_dir(&path).expect("a folder");
        let size = CString::new("size=4m").expect("text");
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(size.as_c_str()))
            .expect("a file system");
        Self(path)
    }

    /// Others fill the disk, until the store has released its reserve and cannot get it back.
    async fn fill(&self, agent: &Agent) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
        for number in 0..100 {
            let row = Ballast(number.to_string(), "x".repeat(64 << 10));
            let batch = Batch::new().put(&row).expect("a row").ends_work();
            agent.rooms.store.write(batch).await.expect("ends may use the reserve");
            if agent.rooms.store.health().is_err() {
                return;
            }
        }
        panic!("the disk is not full");
    }

    fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("the file");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// What the verbose status says of the store; containerd is well.
async fn told(agent: &Agent) -> serde_json::Value {
    let status = agent.cri.clone().status(cri::StatusRequest { verbose: true }).await;
    let cri::StatusResponse { status, info, .. } = status.expect("a status").into_inner();
    let ready = status.expect("a status").conditions.into_iter();
    assert!(ready.filter(|it| it.r#type == "RuntimeReady").all(|it| it.status));
    serde_json::from_str(&info["store"]).expect("JSON")
}

/// Health says that calls are answered: most of them still are.
async fn assert_serves(agent: &Agent) {
    let mut health = HealthClient::new(agent.channel.clone());
    for name in ["", "runtime.v1.RuntimeService", "runtime.v1.ImageService"] {
        let answer = health.check(HealthCheckRequest { service: name.into() }).await;
        let status = answer.expect("an answer").into_inner().status();
        assert_eq!(status, ServingStatus::Serving, "{name:?}");
    }
}

#[tokio::test]
async fn on_a_full_disk_nothing_begins_and_everything_ends() {
    let world = World::new();
    let disk = SmallDisk::new(&world);
    let agent = world.agent().await;
    let [web, other] = [
        agent.run(&pod(&world, "web")).await.unwrap(),
        agent.run(&pod(&world, "other")).await.unwrap(),
    ];
    let created = agent.create(&web, &container("created", &["run"])).await.unwrap();
    let running = agent.launch(&web, "running", &["run"]).await;
    let ending = agent.launch(&web, "ending", &["run"]).await;
    agent.launch(&other, "app", &["run"]).await;
    assert_eq!(told(&agent).await, serde_json::json!({}));
    let before = world.leftovers();

    disk.fill(&agent).await;
    let full = Code::ResourceExhausted;
    refused(agent.run(&pod(&world, "next")).await, full, "no space left");
    refused(agent.create(&web, &container("next", &["run"])).await, full, "no space left");
    refused(agent.start(&created).await, full, "no space left");
    assert_eq!(world.leftovers(), before, "nothing has begun");
    let state = agent.status(&created).await.unwrap().state();
    assert_eq!(state, cri::ContainerState::ContainerCreated, "it can still be started");
    let task = world.fakes.runtime.task(Process::init(&created)).await.unwrap();
    assert!(task.is_none(), "{task:?}");
    assert!(told(&agent).await["error"].as_str().unwrap().contains("no space left"));
    assert_serves(&agent).await;

    world.fakes.runtime.end(Process::init(&ending), 7);
    assert_eq!(agent.ended(&ending).await.exit_code, 7);
    agent.stop(&running, 0).await.unwrap();
    let stopped = agent.ended(&running).await;
    agent.remove_pod(&other).await.unwrap();
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(agent.ended(&ending).await.exit_code, 7);
    assert_eq!(agent.ended(&running).await, stopped);
    refused(agent.pod_status(&other).await, Code::NotFound, &other);
    agent.remove(&ending).await.unwrap();
    refused(agent.run(&pod(&world, "next")).await, full, "no space left");

    disk.clear();
    agent.start(&created).await.unwrap();
    assert_eq!(told(&agent).await, serde_json::json!({}));
    agent.run(&pod(&world, "next")).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
