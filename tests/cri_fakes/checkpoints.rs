//! CheckpointContainer: the contents of the archive, and no leftovers after a failure.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use podbay::backend::ErrorKind;
use podbay::proto::runtime::v1 as cri;
use serde_json::Value;
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::crashes::die_at;
use super::world::{Agent, IMAGE, World, eventually};

impl Agent {
    async fn checkpoint(&self, id: &str, location: &Path, timeout: i64) -> Answer<()> {
        let location = location.to_string_lossy().into_owned();
        let request =
            cri::CheckpointContainerRequest { container_id: id.into(), location, timeout };
        self.cri.clone().checkpoint_container(request).await.map(drop)
    }
}

async fn start() -> (World, Agent, String) {
    let world = World::new();
    world.fakes.host.set_criu(Some(31_701));
    std::fs::create_dir(world.path("checkpoints")).unwrap();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod, "app", &["ignore-term"]).await;
    (world, agent, id)
}

fn contents(archive: &Path) -> BTreeMap<String, String> {
    let mut tar = tar::Archive::new(std::fs::File::open(archive).unwrap());
    let entries = tar.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        let path = entry.path().unwrap().display().to_string();
        (path.trim_end_matches('/').to_owned(), text)
    });
    entries.collect()
}

/// Names in the folder of checkpoints, and in that of the container.
fn left(world: &World, id: &str) -> Vec<String> {
    let folders = [world.path("checkpoints"), world.path("root/containers").join(id)];
    let names = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
    names.map(|name| name.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn an_archive_has_what_tools_look_for() {
    let (world, agent, id) = start().await;
    let before = agent.status(&id).await.unwrap();
    let archive = world.path("checkpoints/app.tar");
    agent.checkpoint(&id, &archive, 0).await.unwrap();
    let found = contents(&archive);
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "checkpoint",
            "checkpoint/inventory.img",
            "config.dump",
            "container.log",
            "dump.log",
            "rootfs-diff.tar",
            "spec.dump",
            "status",
            "status.dump",
        ]
    );
    let json = |name: &str| serde_json::from_str::<Value>(&found[name]).unwrap();
    let config = json("config.dump");
    assert_eq!((&config["id"], &config["name"]), (&id.clone().into(), &"app".into()));
    assert_eq!(config["rootfsImageName"], IMAGE);
    assert!(config["checkpointedTime"].as_str().unwrap().ends_with('Z'), "{config}");
    assert_eq!(json("spec.dump")["process"]["args"], serde_json::json!(["ignore-term"]));
    assert_eq!(json("status.dump")["started_at"], before.started_at);
    assert_eq!(json("status")["StartedAt"], before.started_at);
    assert_eq!(left(&world, &id), ["app.tar"]);
    let calls = world.fakes.steps.calls().into_iter().map(|call| call.step);
    let saving = ["pause", "checkpoint", "export_changes", "resume", "write_archive"];
    let order: Vec<_> = calls.filter(|step| saving.contains(step)).collect();
    assert_eq!(order, saving, "processes and files are of one moment");
    assert_eq!(agent.status(&id).await.unwrap(), before, "it goes on as it was");

    std::fs::write(&archive, "something else").unwrap();
    agent.checkpoint(&id, &archive, 0).await.expect("a file that is there is replaced");
    assert_eq!(contents(&archive).len(), found.len());
    assert_eq!(left(&world, &id), ["app.tar"]);
    agent.checkpoint(&id[..12], &world.path("checkpoints/two.tar"), 60).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_cannot_be_checkpointed_is_refused() {
    let (world, agent, id) = start().await;
    let place = world.path("checkpoints/app.tar");
    for (location, words) in [
        ("relative.tar", "location: must be an absolute path"),
        ("", "location"),
        ("/a/../b.tar", "location: must not contain"),
        ("/there/is/no/such/folder.tar", "location: "),
    ] {
        let answer = agent.checkpoint(&id, Path::new(location), 0).await;
        refused(answer, Code::InvalidArgument, words);
    }
    refused(agent.checkpoint(&id, &place, -1).await, Code::InvalidArgument, "timeout");
    refused(agent.checkpoint("unknown", &place, 0).await, Code::NotFound, "unknown");
    refused(agent.checkpoint("", &place, 0).await, Code::InvalidArgument, "container_id");
    for version in [None, Some(31_500)] {
        world.fakes.host.set_criu(version);
        let answer = agent.checkpoint(&id, &place, 0).await;
        let words = "CRIU binary not found or too old (<31600). Failed to checkpoint container";
        assert!(answer.as_ref().is_err_and(|e| e.message().starts_with(words)), "{answer:?}");
        refused(answer, Code::Unknown, &id);
    }
    world.fakes.host.set_criu(Some(31_600));
    agent.stop(&id, 0).await.unwrap();
    refused(agent.checkpoint(&id, &place, 0).await, Code::FailedPrecondition, "exited");
    let pod = agent.pods().await[0].id.clone();
    let created = agent.create(&pod, &container("new", &["run"])).await.unwrap();
    refused(agent.checkpoint(&created, &place, 0).await, Code::FailedPrecondition, "created");
    assert_eq!(world.fakes.steps.count("checkpoint"), 0);
    assert_eq!(left(&world, &id), [""; 0]);
    assert_eq!(left(&world, &created), [""; 0]);
}

#[tokio::test]
async fn a_failed_checkpoint_leaves_nothing() {
    let (world, mut agent, id) = start().await;
    let place = world.path("checkpoints/app.tar");
    let steps = &world.fakes.steps;
    let all = ["criu_version", "container", "pause", "checkpoint", "export_changes", "write_file"];
    for step in all.into_iter().chain(["write_archive"]) {
        steps.fail(step, ErrorKind::Other, 1);
        refused(agent.checkpoint(&id, &place, 0).await, Code::Unknown, step);
        assert_eq!(left(&world, &id), [""; 0], "{step}");
        assert!(!world.fakes.runtime.is_frozen(&id), "{step}");
    }
    for step in ["checkpoint", "export_changes"] {
        steps.hang(step);
        refused(agent.checkpoint(&id, &place, 1).await, Code::DeadlineExceeded, "longer than 1s");
        assert_eq!(left(&world, &id), [""; 0]);
        assert!(!world.fakes.runtime.is_frozen(&id), "{step}");
        steps.release(step);
    }
    for step in ["checkpoint", "export_changes"] {
        die_at(&world, agent, step, async |agent| agent.checkpoint(&id, &place, 0).await).await;
        assert!(world.fakes.runtime.is_frozen(&id), "{step}");
        agent = world.agent().await;
        assert_eq!(left(&world, &id), [""; 0], "{step}");
        assert!(!world.fakes.runtime.is_frozen(&id), "{step}");
        agent.checkpoint(&id, &place, 0).await.unwrap();
        std::fs::remove_file(&place).unwrap();
    }
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_container_does_not_stay_frozen() {
    let (world, agent, id) = start().await;
    let place = world.path("checkpoints/app.tar");
    let steps = &world.fakes.steps;
    let thawed =
        || eventually("it goes on", async || (!world.fakes.runtime.is_frozen(&id)).then_some(()));
    // A failure to let it go on is made up for, and told to a next agent until then.
    steps.fail("resume", ErrorKind::Unavailable, 1);
    agent.checkpoint(&id, &place, 0).await.unwrap();
    assert_eq!(left(&world, &id).len(), 2, "the archive, and what tells of the frost");
    thawed().await;
    eventually("nothing tells of it", async || (left(&world, &id).len() == 1).then_some(())).await;

    // Who wants to stop it does not wait for a checkpoint.
    steps.hang("export_changes");
    let second = world.path("checkpoints/second.tar");
    tokio::join!(
        async {
            let answer = agent.checkpoint(&id, &second, 0).await;
            refused(answer, Code::Unavailable, "shutting down");
        },
        async {
            steps.called("export_changes", 2).await;
            assert!(world.fakes.runtime.is_frozen(&id));
            steps.forget();
            agent.stop(&id, 0).await.unwrap();
            let calls = steps.calls().into_iter().map(|call| call.step);
            let order: Vec<_> = calls.filter(|step| ["resume", "kill"].contains(step)).collect();
            assert_eq!(order, ["resume", "kill"]);
            // Nor does the end of the agent.
            agent.rooms.tasks.drain(Duration::ZERO).await;
        }
    );
    assert!(!second.exists());
}
