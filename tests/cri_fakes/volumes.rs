//! Images mounted as volumes, and volumes that images declare.

use std::sync::Arc;

use podbay::backend::{ErrorKind, Host, HostFacts, SelinuxContexts};
use podbay::proto::runtime::v1 as cri;
use podbay::proto::runtime::v1::image_service_client::ImageServiceClient;
use tonic::{Code, Status};

use super::calls::{container, pod, refused};
use super::world::{Agent, IMAGE, World};

const DATA: &str = "test.example/data:1";

/// Steps of CreateContainer that image mounts add.
const STEPS: [&str; 4] = ["create_dir", "view_rootfs", "mount_image", "find_inside"];

fn world() -> World {
    let world = World::new();
    world.fakes.images.seed(&[DATA], &serde_json::json!({ "Env": ["DATA=1"] }));
    world.fakes.host.put_rootfs_file("/models/large", b"weights");
    world
}

/// A container that mounts parts of an image.
fn reader(name: &str, image: &str, paths: &[&str]) -> cri::ContainerConfig {
    let mut config = container(name, &["run"]);
    config.mounts = paths
        .iter()
        .enumerate()
        .map(|(n, path)| cri::Mount {
            container_path: format!("/data-{n}"),
            readonly: true,
            image: Some(cri::ImageSpec { image: image.into(), ..Default::default() }),
            image_sub_path: (*path).into(),
            ..Default::default()
        })
        .collect();
    config
}

async fn remove_image(agent: &Agent, image: &str) -> Result<(), Status> {
    let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
    let request = cri::RemoveImageRequest { image: Some(spec) };
    ImageServiceClient::new(agent.channel.clone()).remove_image(request).await.map(drop)
}

async fn image_id(agent: &Agent, image: &str) -> String {
    let spec = cri::ImageSpec { image: image.into(), ..Default::default() };
    let request = cri::ImageStatusRequest { image: Some(spec), verbose: false };
    let answer = ImageServiceClient::new(agent.channel.clone()).image_status(request).await;
    answer.expect("ImageStatus").into_inner().image.expect("an image").id
}

fn views(world: &World) -> usize {
    world
        .leftovers()
        .iter()
        .filter(|left| left.starts_with("snapshot") && left.contains('.'))
        .count()
}

#[tokio::test]
async fn one_mount_serves_a_pod_and_keeps_the_image() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let one = reader("one", DATA, &["", "models"]);
    let made = agent.create(&id, &one).await.unwrap();
    assert_eq!(agent.create(&id, &one).await.unwrap(), made, "a retry adopts it");
    agent.create(&id, &reader("two", DATA, &["models/large"])).await.unwrap();
    assert_eq!((world.fakes.steps.count("mount_image"), views(&world)), (1, 1));
    let status = agent.status(&made).await.unwrap();
    let mut wanted = one.mounts.clone();
    let image = image_id(&agent, DATA).await;
    for mount in &mut wanted {
        mount.image.as_mut().expect("an image").image_ref.clone_from(&image);
    }
    assert_eq!(status.mounts, wanted, "as they were asked for, and which image it is");
    agent.start(&made).await.unwrap();

    refused(remove_image(&agent, DATA).await, Code::FailedPrecondition, "in use as a volume");
    agent.kill().await;
    let agent = world.agent().await;
    refused(remove_image(&agent, DATA).await, Code::FailedPrecondition, "in use as a volume");
    agent.create(&id, &reader("three", DATA, &[""])).await.unwrap();
    assert_eq!(views(&world), 1);

    agent.stop_pod(&id).await.unwrap();
    assert_eq!(views(&world), 0);
    assert!(!world.leftovers().iter().any(|left| left.starts_with("mount")));
    remove_image(&agent, DATA).await.unwrap();
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn refusals_say_which_mount_and_leave_nothing() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let before = world.leftovers();
    for (config, code, words) in [
        (
            reader("a", "test.example/none:1", &[""]),
            Code::NotFound,
            "\"test.example/none:1\" not found",
        ),
        (
            reader("a", DATA, &["", "nowhere"]),
            Code::InvalidArgument,
            "\"nowhere\" is not in the image",
        ),
        (reader("a", DATA, &["/etc"]), Code::InvalidArgument, "must be a relative path"),
        (reader("a", DATA, &["a/../../b"]), Code::InvalidArgument, "must not contain .."),
        (reader("a", "UPPER", &[""]), Code::InvalidArgument, "invalid image reference"),
    ] {
        let answer = agent.create(&id, &config).await;
        let index = config.mounts.len() - 1;
        let start = format!("ImageVolumeMountFailed: config.mounts[{index}]: ");
        assert!(answer.as_ref().is_err_and(|e| e.message().starts_with(&start)), "{answer:?}");
        refused(answer, code, words);
        assert_eq!(world.leftovers(), before, "{words}");
    }
    remove_image(&agent, DATA).await.expect("nobody uses it any more");

    // A creation that fails later takes its volumes back, but not those that others have.
    world.fakes.images.seed(&[DATA], &serde_json::json!({ "Env": ["DATA=1"] }));
    world.fakes.steps.fail("create_container", ErrorKind::Other, 1);
    refused(agent.create(&id, &reader("b", DATA, &[""])).await, Code::Unknown, "create_container");
    assert_eq!(world.leftovers(), before);
    agent.create(&id, &reader("c", DATA, &[""])).await.unwrap();
    world.fakes.steps.fail("create_container", ErrorKind::Other, 1);
    refused(agent.create(&id, &reader("d", DATA, &[""])).await, Code::Unknown, "create_container");
    assert_eq!(views(&world), 1);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_and_a_retry_works() {
    let world = world();
    let agent = world.agent().await;
    for step in STEPS {
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let (before, config) = (world.leftovers(), reader("app", DATA, &["models"]));
        for lost in [false, true] {
            let steps = &world.fakes.steps;
            match lost {
                false => steps.fail(step, ErrorKind::Other, 1),
                true => steps.lose_answer(step, ErrorKind::Other, 1),
            }
            refused(agent.create(&id, &config).await, Code::Unknown, step);
            assert_eq!(world.leftovers(), before, "{step}");
        }
        agent.create(&id, &config).await.unwrap();
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
    }
}

#[tokio::test]
async fn a_teardown_that_fails_is_resumed() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.create(&id, &reader("app", DATA, &[""])).await.unwrap();
    world.fakes.steps.fail("list_rootfs", ErrorKind::Unavailable, 1);
    refused(agent.stop_pod(&id).await, Code::Unavailable, "image volumes");
    agent.kill().await;
    let agent = world.agent().await;
    agent.stop_pod(&id).await.unwrap();
    assert_eq!(views(&world), 0);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn an_agent_that_died_half_way_is_taken_over() {
    let world = world();
    for step in STEPS {
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let config = reader("app", DATA, &["models"]);
        let calls = world.fakes.steps.count(step);
        world.fakes.steps.hang(step);
        tokio::select! {
            _ = agent.create(&id, &config) => panic!("{step}: it did not wait"),
            () = world.fakes.steps.called(step, calls + 1) => {}
        }
        agent.kill().await;
        world.fakes.steps.release(step);
        let agent = world.agent().await;
        agent.create(&id, &config).await.unwrap();
        refused(remove_image(&agent, DATA).await, Code::FailedPrecondition, "volume");
        assert_eq!(views(&world), 1, "{step}");
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
        agent.kill().await;
    }
}

#[tokio::test]
async fn volumes_of_a_lost_store_and_of_another_boot_are_taken_away() {
    let world = world();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.create(&id, &reader("app", DATA, &[""])).await.unwrap();
    agent.kill().await;
    world.delete_store();
    let agent = world.agent().await;
    refused(remove_image(&agent, DATA).await, Code::FailedPrecondition, "volume");
    agent.stop_pod(&id).await.unwrap();
    assert_eq!(views(&world), 0);
    agent.remove_all().await;

    let id = agent.run(&pod(&world, "web")).await.unwrap();
    agent.create(&id, &reader("app", DATA, &[""])).await.unwrap();
    agent.kill().await;
    let world = world.rebooted();
    let agent = world.agent().await;
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
    remove_image(&agent, DATA).await.unwrap();
    assert!(agent.create(&id, &container("x", &["run"])).await.is_err());
    remove_image(&agent, IMAGE).await.unwrap();
}

#[tokio::test]
async fn volumes_that_an_image_declares_are_labelled_for_its_container() {
    let mut world = World::new();
    let selinux = Some(SelinuxContexts {
        process: "system_u:system_r:container_t:s0".into(),
        file: "system_u:object_r:container_file_t:s0".into(),
    });
    let facts = HostFacts { selinux, ..world.fakes.host.facts().clone() };
    world.fakes.host = Arc::new(world.fakes.host.with_facts(facts));
    world.oci.selinux = true;
    let image = serde_json::json!({ "Entrypoint": ["run"], "Volumes": { "/data": {} } });
    world.fakes.images.seed(&[IMAGE], &image);
    let agent = world.agent().await;
    let web = agent.run(&pod(&world, "web")).await.unwrap();
    let volume = |id: &str| world.path("root/containers").join(id).join("volumes/0");
    let id = agent.create(&web, &container("app", &["run"])).await.unwrap();
    let label = world.fakes.host.label(&volume(&id)).expect("a label");
    assert!(label.starts_with("system_u:object_r:container_file_t:s0:c"), "{label}");
    let mut config = container("free", &["run"]);
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.privileged = true;
    let mut free = pod(&world, "free");
    let linux = free.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().privileged = true;
    let free = agent.run(&free).await.unwrap();
    let id = agent.create(&free, &config).await.unwrap();
    assert_eq!(world.fakes.host.label(&volume(&id)), None);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
