//! Behaviour that clients of other runtimes rely on: tolerated requests, late information, and
//! failed starts.

use std::path::Path;
use std::sync::Arc;

use podbay::backend::{ErrorKind, Host, HostFacts, Process};
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{Agent, World, eventually};

async fn start() -> (World, Agent, String) {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    (world, agent, id)
}

fn end(world: &World, id: &str, code: u32) {
    world.fakes.runtime.end(Process::init(id), code);
}

async fn reason(agent: &Agent, id: &str) -> String {
    agent.status(id).await.unwrap().reason
}

#[tokio::test]
async fn a_memory_kill_that_is_told_late_corrects_the_reason() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    end(&world, &id, 137);
    let ended = agent.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
    world.fakes.runtime.tell_oom(&id);
    eventually("the reason is corrected", async || {
        (reason(&agent, &id).await == "OOMKilled").then_some(())
    })
    .await;
    let corrected = agent.status(&id).await.unwrap();
    assert_eq!(cri::ContainerStatus { reason: ended.reason.clone(), ..corrected }, ended);
    agent.kill().await;
    let agent = world.agent().await;
    assert_eq!(reason(&agent, &id).await, "OOMKilled", "a next agent knows");

    // An end of another kind stays what it is.
    let id = agent.launch(&pod, "well", &["run"]).await;
    end(&world, &id, 0);
    assert_eq!(agent.ended(&id).await.reason, "Completed");
    world.fakes.runtime.tell_oom(&id);
    let other = agent.launch(&pod, "other", &["run"]).await;
    assert_eq!(reason(&agent, &id).await, "Completed");
    agent.stop(&other, 0).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_memory_kill_is_waited_for_where_no_counter_tells() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    world.fakes.steps.fail("oom_kills", ErrorKind::NotFound, 1);
    end(&world, &id, 137);
    world.fakes.steps.called("oom_kills", 1).await;
    world.fakes.runtime.tell_oom(&id);
    assert_eq!(agent.ended(&id).await.reason, "OOMKilled", "told so from the first");

    // Nobody comes: it is told all the same.
    let id = agent.launch(&pod, "silent", &["run"]).await;
    world.fakes.steps.fail("oom_kills", ErrorKind::NotFound, 1);
    end(&world, &id, 137);
    assert_eq!(agent.ended(&id).await.reason, "Error");

    // The kernel killed a child, and the first process saw to its own end.
    let id = agent.launch(&pod, "child", &["run"]).await;
    world.fakes.runtime.tell_oom(&id);
    // Once a later event has had its effect the earlier one has been heard.
    let other = agent.launch(&pod, "marker", &["run"]).await;
    end(&world, &other, 137);
    agent.ended(&other).await;
    world.fakes.runtime.tell_oom(&other);
    eventually("the marker is corrected", async || {
        (reason(&agent, &other).await == "OOMKilled").then_some(())
    })
    .await;
    end(&world, &id, 3);
    let ended = agent.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "OOMKilled"));
}

#[tokio::test]
async fn a_memory_kill_of_a_child_is_no_matter_of_luck() {
    let (world, agent, pod) = start().await;
    // The counter tells before the event comes.
    let id = agent.launch(&pod, "counted", &["run"]).await;
    world.fakes.runtime.count_oom(&id);
    end(&world, &id, 3);
    let ended = agent.ended(&id).await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "OOMKilled"));
    // Without a counter the event corrects the reason.
    let id = agent.launch(&pod, "told", &["run"]).await;
    world.fakes.steps.fail("oom_kills", ErrorKind::NotFound, 1);
    end(&world, &id, 3);
    assert_eq!(agent.ended(&id).await.reason, "Error");
    world.fakes.runtime.tell_oom(&id);
    eventually("the reason is corrected", async || {
        (reason(&agent, &id).await == "OOMKilled").then_some(())
    })
    .await;
    assert_eq!(agent.status(&id).await.unwrap().exit_code, 3);
    // A success is one.
    let id = agent.launch(&pod, "well", &["run"]).await;
    world.fakes.runtime.count_oom(&id);
    end(&world, &id, 0);
    assert_eq!(agent.ended(&id).await.reason, "Completed");
}

#[tokio::test]
async fn a_memory_kill_that_is_told_while_the_container_is_removed_does_not_bring_it_back() {
    let (world, agent, pod) = start().await;
    let id = agent.launch(&pod, "app", &["run"]).await;
    end(&world, &id, 137);
    agent.ended(&id).await;
    world.fakes.steps.hang("delete_container");
    let containers = agent.rooms.containers.clone();
    let remove = async {
        world.fakes.steps.called("delete_container", 1).await;
        let late = id.clone();
        agent.inside(async move { containers.note_oom(&late) }).await.unwrap();
        world.fakes.steps.release("delete_container");
    };
    let (removed, ()) = tokio::join!(agent.remove(&id), remove);
    removed.unwrap();
    // Writes after that of the late news.
    agent.stop_pod(&pod).await.unwrap();
    agent.remove_pod(&pod).await.unwrap();
    assert!(agent.containers().await.is_empty());
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn a_start_that_comes_to_nothing_ends_the_container() {
    let (world, agent, pod_id) = start().await;
    let late = agent.create(&pod_id, &container("late", &["run"])).await.unwrap();
    agent.stop_pod(&pod_id).await.unwrap();
    refused(agent.start(&late).await, Code::FailedPrecondition, "is not ready");
    let ended = agent.status(&late).await.unwrap();
    assert_eq!(ended.state(), cri::ContainerState::ContainerExited);
    assert_eq!((ended.exit_code, ended.reason.as_str()), (128, "StartError"));
    assert!(ended.message.contains("is not ready") && ended.finished_at > 0, "{ended:?}");
    refused(agent.start(&late).await, Code::FailedPrecondition, "");
    assert_eq!(agent.status(&late).await.unwrap(), ended, "told once");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_start_over_an_update_that_cannot_be_undone_can_be_tried_again() {
    let (world, agent, pod_id) = start().await;
    let id = agent.create(&pod_id, &container("app", &["run"])).await.unwrap();
    world.fakes.steps.fail("update_container_spec", ErrorKind::Unavailable, 1000);
    let linux = cri::LinuxContainerResources { cpu_shares: 512, ..Default::default() };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    let answer = agent.cri.clone().update_container_resources(request).await;
    refused(answer, Code::Unavailable, "");
    refused(agent.start(&id).await, Code::Unavailable, "old limits");
    let state = agent.status(&id).await.unwrap().state();
    assert_eq!(state, cri::ContainerState::ContainerCreated, "nothing was tried");
}

/// A container with a recursive read-only mount.
fn recursive(world: &World, name: &str) -> cri::ContainerConfig {
    let host = world.path("shared");
    std::fs::create_dir_all(&host).expect("a folder");
    let mut config = container(name, &["run"]);
    config.mounts.push(cri::Mount {
        container_path: "/data".into(),
        host_path: host.display().to_string(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    });
    config
}

#[tokio::test]
async fn nothing_is_refused_for_a_handler_that_was_not_asked_well() {
    let world = World::new();
    let steps = &world.fakes.steps;
    // The start of the agent, the pod, and the first container.
    steps.fail("features", ErrorKind::Other, 3);
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.expect("it needs nothing special");
    let answer = agent.create(&id, &recursive(&world, "app")).await;
    refused(answer, Code::Unavailable, "does not report its features");
    agent.create(&id, &recursive(&world, "app")).await.expect("asked again, it can");
    assert_eq!(steps.count("features"), 4);
    agent.create(&id, &recursive(&world, "two")).await.expect("known");
    assert_eq!(steps.count("features"), 4);
}

#[tokio::test]
async fn a_handler_that_cannot_be_asked_is_asked_once() {
    let world = World::new();
    world.fakes.steps.fail("features", ErrorKind::Unsupported, 1);
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let answer = agent.create(&id, &recursive(&world, "app")).await;
    refused(answer, Code::FailedPrecondition, "RROUnsupported");
    assert_eq!(world.fakes.steps.count("features"), 1);
}

#[tokio::test]
async fn a_pod_maps_a_host_port_once() {
    let world = World::new();
    let agent = world.agent().await;
    let port = |host_port, host_ip: &str| {
        let host_ip = host_ip.to_owned();
        cri::PortMapping { container_port: 80, host_port, host_ip, ..Default::default() }
    };
    for (index, (first, second, is_fine)) in [
        (port(8080, ""), port(8080, ""), false),
        (port(8080, ""), port(8080, "0.0.0.0"), false),
        (port(8080, "127.0.0.1"), port(8080, "0.0.0.0"), true),
        (port(8080, "127.0.0.1"), port(8080, "127.0.0.2"), true),
        (port(8080, ""), port(8081, ""), true),
        (port(0, ""), port(0, ""), true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = pod(&world, &format!("pod-{index}"));
        config.port_mappings = vec![first, second];
        match agent.run(&config).await {
            Ok(id) if is_fine => agent.remove_pod(&id).await.unwrap(),
            answer => {
                assert!(!is_fine, "{config:?}");
                refused(answer, Code::InvalidArgument, "port_mappings[1].host_port");
            }
        }
    }
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn host_ports_are_free_as_soon_as_their_pod_is_to_stop() {
    let world = World::new();
    let agent = world.agent().await;
    let web = |name: &str| {
        let mut config = pod(&world, name);
        let (container_port, host_port) = (80, 8080);
        config.port_mappings =
            vec![cri::PortMapping { container_port, host_port, ..Default::default() }];
        config
    };
    let old = agent.run(&web("old")).await.unwrap();
    refused(agent.run(&web("new")).await, Code::FailedPrecondition, "8080");
    // The stop waits for a creation in the pod.
    world.fakes.steps.hang("prepare_rootfs");
    let (mut client, of) = (agent.cri.clone(), old.clone());
    let creating = tokio::spawn(async move {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: of,
            config: Some(container("app", &["run"])),
            sandbox_config: None,
        };
        client.create_container(request).await
    });
    world.fakes.steps.called("prepare_rootfs", 1).await;
    let (mut client, of) = (agent.cri.clone(), old.clone());
    let stopping = tokio::spawn(async move {
        client.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: of }).await
    });
    let new = eventually("the new pod has the port", async || agent.run(&web("new")).await.ok());
    new.await;
    world.fakes.steps.release("prepare_rootfs");
    creating.await.unwrap().expect("it was under way");
    stopping.await.unwrap().expect("the stop");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn images_that_cannot_be_are_not_there() {
    let (_world, agent, _pod) = start().await;
    let mut images = ImageServiceClient::new(agent.channel.clone());
    for name in ["@@@", "test.example/UPPER:1", "x@sha256:123", " a b ", "a\nb"] {
        let spec = cri::ImageSpec { image: name.into(), ..Default::default() };
        let request = cri::ImageStatusRequest { image: Some(spec.clone()), verbose: true };
        let answer = images.image_status(request).await.expect(name).into_inner();
        assert_eq!(answer.image, None, "{name}");
        let request = cri::RemoveImageRequest { image: Some(spec.clone()) };
        images.remove_image(request).await.expect(name);
        let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
        refused(images.pull_image(request).await, Code::InvalidArgument, "");
    }
    let nothing = cri::ImageStatusRequest::default();
    refused(images.image_status(nothing).await, Code::InvalidArgument, "image");
}

#[tokio::test]
async fn an_image_with_an_odd_stop_signal_is_stopped_by_sigterm() {
    let (world, agent, pod) = start().await;
    let image = "test.example/odd:1";
    let config = serde_json::json!({ "Entrypoint": ["run"], "StopSignal": "SIGNOPE" });
    world.fakes.images.seed(&[image], &config);
    let mut config = container("app", &["run"]);
    config.image = Some(cri::ImageSpec { image: image.into(), ..Default::default() });
    let id = agent.create(&pod, &config).await.expect("the image's word is no reason");
    assert_eq!(agent.status(&id).await.unwrap().stop_signal(), cri::Signal::Sigterm);
}

fn confined(name: &str, kind: i32, profile: &str) -> cri::ContainerConfig {
    let mut config = container(name, &["run"]);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.apparmor =
        Some(cri::SecurityProfile { profile_type: kind, localhost_ref: profile.into() });
    config
}

#[tokio::test]
async fn a_profile_that_is_not_loaded_fails_the_creation() {
    let mut world = World::new();
    let facts = HostFacts { apparmor: true, ..world.fakes.host.facts().clone() };
    world.fakes.host = Arc::new(world.fakes.host.with_facts(facts));
    let list = Path::new("/sys/kernel/security/apparmor/profiles");
    world.fakes.host.put_file(list, b"other (enforce)\n");
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    const LOCALHOST: i32 = 2;
    let mine = |name: &str| confined(name, LOCALHOST, "localhost/mine");
    refused(
        agent.create(&pod, &mine("app")).await,
        Code::InvalidArgument,
        "\"mine\" is not loaded",
    );
    assert!(agent.containers().await.is_empty(), "nothing is left of it");
    for (kind, name) in [(0, "default"), (1, "unconfined")] {
        agent.create(&pod, &confined(name, kind, "")).await.expect(name);
    }
    world.fakes.host.put_file(list, b"other (enforce)\nmine (complain)\n");
    let id = agent.create(&pod, &mine("app")).await.expect("it is loaded now");
    agent.start(&id).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn the_default_profile_is_loaded_again() {
    let mut world = World::new();
    let facts = HostFacts { apparmor: true, ..world.fakes.host.facts().clone() };
    world.fakes.host = Arc::new(world.fakes.host.with_facts(facts));
    world.oci.apparmor_default = Some("podbay-default".to_owned());
    let list = Path::new("/sys/kernel/security/apparmor/profiles");
    let loads = || world.fakes.steps.count("load_apparmor");
    world.fakes.host.put_file(list, b"podbay-default (enforce)\n");
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    agent.create(&pod, &confined("first", 0, "")).await.expect("it is loaded");
    assert_eq!(loads(), 0);
    // Somebody restarts AppArmor's service.
    world.fakes.host.put_file(list, b"other (enforce)\n");
    for name in ["second", "third"] {
        agent.create(&pod, &confined(name, 0, "")).await.expect("it is loaded again");
        assert_eq!(loads(), 1);
    }
    world.fakes.host.put_file(list, b"");
    world.fakes.steps.fail("load_apparmor", ErrorKind::Other, 1);
    let unloaded = agent.create(&pod, &confined("fourth", 0, "")).await;
    refused(unloaded, Code::Unknown, "load the default AppArmor profile");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
