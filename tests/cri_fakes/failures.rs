//! Every step of a creation fails once, or does its work but its answer is lost: the caller gets an
//! error for that step, nothing is left over, and the same request succeeds afterwards.

use futures::future::join_all;
use podbay::backend::ErrorKind;
use podbay::backend::fake::Steps;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{Answer, container, pod, refused};
use super::world::{Agent, IMAGE, World, eventually};

/// How a step goes wrong, and the code that its caller gets.
type Fault = (fn(&Steps, &str), Code);

const FAULTS: [Fault; 4] = [
    (|steps, step| steps.fail(step, ErrorKind::Other, 1), Code::Unknown),
    (|steps, step| steps.fail(step, ErrorKind::ResourceExhausted, 1), Code::ResourceExhausted),
    (|steps, step| steps.lose_answer(step, ErrorKind::Unavailable, 1), Code::Unavailable),
    (|steps, step| steps.lose_answer(step, ErrorKind::DeadlineExceeded, 1), Code::DeadlineExceeded),
];

/// Steps of RunPodSandbox; those of a pause image last.
pub const RUN: [&str; 9] = [
    "create_dir",
    "read_file",
    "write_file",
    "mount_shm",
    "create_netns",
    "attach",
    "create_container",
    "create_task",
    "start",
];

/// Steps of CreateContainer with a mount and an anonymous volume.
pub const CREATE: [&str; 5] = [
    "resolve_mount_source",
    "read_user_files",
    "prepare_rootfs",
    "copy_from_rootfs",
    "create_container",
];

/// Steps of StartContainer.
pub const START: [&str; 4] = ["create_dir", "make_fifos", "create_task", "start"];

const EXEC: [&str; 4] = ["create_dir", "make_fifos", "exec", "start"];

/// A container that needs all of [`CREATE`].
pub fn demanding(world: &World, name: &str) -> cri::ContainerConfig {
    let volumes = serde_json::json!({ "Entrypoint": ["run"], "Volumes": { "/data": {} } });
    world.fakes.images.seed(&[IMAGE], &volumes);
    let mut config = container(name, &["run"]);
    config.mounts.push(cri::Mount {
        container_path: "/mnt".into(),
        host_path: world.path("mounted").to_string_lossy().into_owned(),
        ..Default::default()
    });
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().run_as_username = "root".into();
    config
}

#[tokio::test]
async fn a_failing_step_of_a_run_leaves_nothing() {
    let world = World::new();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    for step in RUN {
        for (fault, code) in FAULTS {
            fault(&world.fakes.steps, step);
            refused(agent.run(&config).await, code, step);
            assert_eq!(world.leftovers(), [""; 0], "{step} {code:?}");
            assert_eq!(agent.rows(), [""; 0], "{step} {code:?}");
            assert!(agent.pods().await.is_empty(), "{step} {code:?}");
            agent.run(&config).await.unwrap();
            agent.remove_all().await;
            assert_eq!(world.leftovers(), [""; 0], "{step} {code:?}");
        }
    }
}

/// Steps of RunPodSandbox with a user namespace in place of those without.
const RUN_WITH_USERS: [&str; 4] = ["create_dir", "create_userns", "set_owner", "create_task"];

#[tokio::test]
async fn a_failing_step_of_a_run_with_own_users_leaves_nothing() {
    let world = World::new();
    let agent = world.agent().await;
    let mut config = pod(&world, "web");
    let line = |host_id| vec![cri::IdMapping { host_id, container_id: 0, length: 65536 }];
    let linux = config.linux.get_or_insert_default();
    let options = linux.security_context.get_or_insert_default();
    options.namespace_options.get_or_insert_default().userns_options = Some(cri::UserNamespace {
        mode: cri::NamespaceMode::Pod.into(),
        uids: line(200_000),
        gids: line(300_000),
    });
    for step in RUN_WITH_USERS {
        for (fault, code) in FAULTS {
            fault(&world.fakes.steps, step);
            refused(agent.run(&config).await, code, step);
            assert_eq!(world.leftovers(), [""; 0], "{step} {code:?}");
            let id = agent.run(&config).await.unwrap();
            let hosts = world.path("root/sandboxes").join(id).join("hosts");
            assert_eq!(world.fakes.host.owner(&hosts), Some((200_000, 300_000)));
            agent.remove_all().await;
            assert_eq!(world.leftovers(), [""; 0], "{step} {code:?}");
        }
    }
}

#[tokio::test]
async fn a_failing_step_of_a_run_from_an_image_leaves_nothing() {
    let world = World::with_pause_image();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    for (fault, code) in FAULTS {
        fault(&world.fakes.steps, "prepare_rootfs");
        refused(agent.run(&config).await, code, "prepare_rootfs");
        assert_eq!(world.leftovers(), [""; 0], "{code:?}");
        agent.run(&config).await.unwrap();
        agent.remove_all().await;
    }
}

#[tokio::test]
async fn a_failing_step_of_a_creation_leaves_nothing() {
    let world = World::new();
    for step in CREATE {
        for (fault, code) in FAULTS {
            // What an agent has read of an image it does not read again.
            let agent = world.agent().await;
            let pod = agent.run(&pod(&world, "web")).await.unwrap();
            let config = demanding(&world, "app");
            let before = world.leftovers();
            fault(&world.fakes.steps, step);
            refused(agent.create(&pod, &config).await, code, step);
            assert_eq!(world.leftovers(), before, "{step} {code:?}");
            assert_eq!(agent.rows(), std::slice::from_ref(&pod), "{step} {code:?}");
            assert!(agent.containers().await.is_empty(), "{step} {code:?}");
            let id = agent.create(&pod, &config).await.unwrap();
            agent.start(&id).await.unwrap();
            agent.remove_all().await;
            assert_eq!(world.leftovers(), [""; 0], "{step} {code:?}");
            agent.kill().await;
        }
    }
}

#[tokio::test]
async fn a_failing_step_of_a_start_leaves_a_container_that_says_so() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let config = container("app", &["run"]);
    for step in START {
        for (fault, code) in FAULTS {
            let id = agent.create(&pod, &config).await.unwrap();
            fault(&world.fakes.steps, step);
            refused(agent.start(&id).await, code, step);
            let status = agent.status(&id).await.unwrap();
            assert_eq!((status.exit_code, &*status.reason), (128, "StartError"), "{step}");
            assert!(status.message.contains(step), "{}", status.message);
            let task = format!("task {id}");
            assert!(!world.leftovers().contains(&task), "{step} {code:?}");
            refused(agent.start(&id).await, Code::FailedPrecondition, "exited");
            agent.remove(&id).await.unwrap();
            let next = agent.create(&pod, &config).await.unwrap();
            agent.start(&next).await.unwrap();
            agent.remove(&next).await.unwrap();
        }
    }
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_failing_step_of_an_exec_leaves_nothing() {
    let world = World::new();
    let agent = world.agent().await;
    let pod = agent.run(&pod(&world, "web")).await.unwrap();
    let id = agent.launch(&pod, "app", &["run"]).await;
    let before = world.leftovers();
    let clean = async |what: &str| {
        eventually(what, async || (world.leftovers() == before).then_some(())).await;
    };
    for step in EXEC {
        for (fault, code) in FAULTS {
            fault(&world.fakes.steps, step);
            refused(agent.exec(&id, &["echo", "hi"], 0).await, code, step);
            clean(step).await;
            assert_eq!(agent.exec(&id, &["echo", "hi"], 0).await.unwrap().stdout, b"hi\n");
            clean(step).await;
        }
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_undone_at_once_is_listed_until_it_is() {
    let cases = [
        ("attach", "detach"),
        ("start", "delete_task"),
        ("attach", "remove_netns"),
        ("attach", "unmount"),
        ("attach", "remove_tree"),
        ("attach", "delete_container"),
    ];
    join_all(cases.map(|(broken, undo)| async move {
        let world = World::new();
        let agent = world.agent().await;
        let config = pod(&world, "web");
        world.fakes.steps.fail(broken, ErrorKind::Other, 1);
        world.fakes.steps.fail(undo, ErrorKind::Other, 1);
        refused(agent.run(&config).await, Code::Unknown, broken);
        let listed = agent.pods().await;
        assert_eq!(listed.len(), 1, "{undo}");
        assert_eq!(listed[0].state(), cri::PodSandboxState::SandboxNotready, "{undo}");
        refused(agent.run(&config).await, Code::Unknown, "failed");
        world.clean().await;
        let again = async || agent.run(&config).await.ok();
        eventually("the name is free", again).await;
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{undo}");
    }))
    .await;
}

#[tokio::test]
async fn a_del_that_never_works_after_an_add_that_failed_holds_nobody_up() {
    let world = World::new();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    world.fakes.steps.fail("attach", ErrorKind::Other, 1);
    world.fakes.steps.fail("detach", ErrorKind::Other, usize::MAX);
    refused(agent.run(&config).await, Code::Unknown, "attach");
    let id = agent.pods().await[0].id.clone();
    assert!(!agent.is_ready(&id).await);
    agent.stop_pod(&id).await.unwrap();
    agent.remove_pod(&id).await.unwrap();
    assert_eq!(world.leftovers(), [""; 0]);
    agent.run(&config).await.unwrap();
}

#[tokio::test]
async fn a_creation_that_cannot_be_undone_at_once_frees_its_name_and_goes_later() {
    let steps = ["delete_task", "remove_rootfs", "delete_container", "remove_tree"];
    join_all(steps.map(|undo| async move {
        let world = World::new();
        let agent = world.agent().await;
        let pod = agent.run(&pod(&world, "web")).await.unwrap();
        let config = container("app", &["run"]);
        world.fakes.steps.lose_answer("create_container", ErrorKind::Other, 1);
        world.fakes.steps.fail(undo, ErrorKind::Other, 1);
        let answer: Answer<String> = agent.create(&pod, &config).await;
        refused(answer, Code::Unknown, "create_container");
        let id = agent.create(&pod, &config).await.unwrap();
        agent.remove(&id).await.unwrap();
        only_the_pod(&agent, &pod).await;
        agent.remove_all().await;
        world.clean().await;
    }))
    .await;
}

#[tokio::test]
async fn a_panic_frees_the_name_and_leaves_nothing() {
    for step in ["create_netns", "attach", "create_container", "start"] {
        let world = World::new();
        let agent = world.agent().await;
        let config = pod(&world, "web");
        world.fakes.steps.panic(step);
        refused(agent.run(&config).await, Code::Internal, "panicked");
        world.clean().await;
        assert_eq!(agent.rows(), [""; 0], "{step}");
        agent.run(&config).await.unwrap();
        agent.remove_all().await;
    }
    for step in ["prepare_rootfs", "create_container"] {
        let world = World::new();
        let agent = world.agent().await;
        let pod = agent.run(&pod(&world, "web")).await.unwrap();
        let config = container("app", &["run"]);
        world.fakes.steps.panic(step);
        refused(agent.create(&pod, &config).await, Code::Internal, "panicked");
        only_the_pod(&agent, &pod).await;
        let id = agent.create(&pod, &config).await.unwrap();
        agent.start(&id).await.unwrap();
        agent.remove_all().await;
        world.clean().await;
    }
}

async fn only_the_pod(agent: &Agent, pod: &str) {
    eventually("only the pod is stored", async || (agent.rows() == [pod]).then_some(())).await;
}
