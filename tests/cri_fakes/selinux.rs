//! SELinux: the level of each pod, across restarts, and the labels of mount sources.

use std::sync::Arc;

use podbay::backend::{Host as _, HostFacts, Runtime as _, SelinuxContexts};
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::World;

fn world() -> World {
    let mut world = World::new();
    let selinux = Some(SelinuxContexts {
        process: "system_u:system_r:container_t:s0".into(),
        file: "system_u:object_r:container_file_t:s0".into(),
    });
    let facts = HostFacts { selinux, ..world.fakes.host.facts().clone() };
    world.fakes.host = Arc::new(world.fakes.host.with_facts(facts));
    world.oci.selinux = true;
    world
}

/// The level in the process label of a container or pause container.
async fn level(world: &World, id: &str) -> String {
    let spec = world.fakes.runtime.container(id).await.unwrap().spec;
    let label = spec["process"]["selinuxLabel"].as_str().expect("a label");
    label.strip_prefix("system_u:system_r:container_t:").expect("the type").to_owned()
}

#[tokio::test]
async fn each_pod_has_a_level_of_its_own_also_after_a_restart() {
    let world = world();
    let agent = world.agent().await;
    let mut levels = std::collections::BTreeSet::new();
    let mut old = Vec::new();
    for number in 0..20 {
        let id = agent.run(&pod(&world, &format!("old-{number}"))).await.unwrap();
        assert!(levels.insert(level(&world, &id).await), "twice: {levels:?}");
        old.push(id);
    }
    let own = level(&world, &old[0]).await;
    let app = agent.launch(&old[0], "app", &["run"]).await;
    assert_eq!(level(&world, &app).await, own);
    agent.kill().await;
    let agent = world.agent().await;
    let late = agent.launch(&old[0], "late", &["run"]).await;
    assert_eq!(level(&world, &late).await, own, "the level of the pod is remembered");
    for number in 0..20 {
        let id = agent.run(&pod(&world, &format!("new-{number}"))).await.unwrap();
        assert!(levels.insert(level(&world, &id).await), "twice: {levels:?}");
    }
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_mount_is_labelled_only_if_it_asks_for_it() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let mount = |name: &str, selinux_relabel| {
        let source = world.path(name);
        std::fs::create_dir_all(&source).unwrap();
        let (host_path, container_path) = (source.display().to_string(), format!("/{name}"));
        cri::Mount { host_path, container_path, selinux_relabel, ..Default::default() }
    };
    let mut config = container("app", &["run"]);
    config.mounts = vec![mount("private", true), mount("shared", false)];
    let app = agent.create(&id, &config).await.unwrap();
    let label = world.fakes.host.label(&world.path("private")).expect("a label");
    let own = level(&world, &app).await;
    assert_eq!(label, format!("system_u:object_r:container_file_t:{own}"));
    assert_eq!(world.fakes.host.label(&world.path("shared")), None);
    let mut config = container("bad", &["run"]);
    config.mounts = vec![cri::Mount { host_path: "/etc".into(), ..mount("x", true) }];
    refused(agent.create(&id, &config).await, Code::InvalidArgument, "mounts[0].selinux_relabel");
    agent.remove_all().await;
}
