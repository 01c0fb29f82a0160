//! Sandboxes: lifecycle, names, refused requests.

use futures::future::join_all;
use podbay::backend::{ErrorKind, Process, Runtime};
use podbay::model::pod::{HostAlias, HostsFile, PodConfig, PodMetadata};
use podbay::model::security::NamespaceMode;
use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use super::calls::{container, pod, refused};
use super::world::{World, eventually, text};

#[tokio::test]
async fn a_pod_runs_stops_and_goes() {
    for world in [World::new(), World::with_pause_image()] {
        let agent = world.agent().await;
        let id = agent.run(&pod(&world, "web")).await.unwrap();
        let answer = agent.pod_status(&id).await.unwrap();
        let status = answer.status.unwrap();
        assert_eq!(status.state(), cri::PodSandboxState::SandboxReady);
        assert_eq!(status.network.unwrap().ip, "10.88.0.1");
        assert!(status.created_at > 0 && answer.timestamp >= status.created_at);
        assert!(answer.info["info"].contains("netns"));
        let container = agent.launch(&id, "app", &["run"]).await;

        agent.stop_pod(&id).await.unwrap();
        assert!(!agent.is_ready(&id).await);
        let stopped = agent.pod_status(&id).await.unwrap();
        assert_eq!(stopped.status.unwrap().network.unwrap().ip, "");
        assert_eq!(stopped.containers_statuses.len(), 1);
        assert_eq!(agent.status(&container).await.unwrap().exit_code, 137);
        agent.stop_pod(&id).await.unwrap();
        refused(agent.start(&container).await, Code::FailedPrecondition, "not ready");
        let late = agent.create(&id, &super::calls::container("late", &["run"])).await;
        refused(late, Code::FailedPrecondition, "not ready");

        agent.remove_pod(&id).await.unwrap();
        agent.remove_pod(&id).await.unwrap();
        refused(agent.pod_status(&id).await, Code::NotFound, &id);
        refused(agent.status(&container).await, Code::NotFound, &container);
        assert_eq!(world.leftovers(), [""; 0]);
        assert_eq!(agent.rows(), [""; 0]);
    }
}

#[tokio::test]
async fn one_request_makes_one_pod_however_often_it_comes() {
    let world = World::new();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    let ids = join_all((0..8).map(|_| agent.run(&config))).await;
    let ids: Vec<_> = ids.into_iter().map(Result::unwrap).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(agent.run(&config).await.unwrap(), ids[0]);
    assert_eq!(agent.pods().await.len(), 1);
    assert_eq!(world.fakes.steps.count("create_netns"), 1);

    let mut other = config.clone();
    other.labels.insert("a".into(), "b".into());
    refused(agent.run(&other).await, Code::FailedPrecondition, &ids[0]);
    // A stopped pod keeps its name.
    agent.stop_pod(&ids[0]).await.unwrap();
    refused(agent.run(&config).await, Code::FailedPrecondition, "already in use");
    agent.remove_pod(&ids[0]).await.unwrap();
    assert_ne!(agent.run(&config).await.unwrap(), ids[0]);
}

#[tokio::test]
async fn callers_who_joined_a_creation_that_fails_hear_why() {
    for (kind, code) in [
        (ErrorKind::Other, Code::Unknown),
        (ErrorKind::Unavailable, Code::Unavailable),
        (ErrorKind::ResourceExhausted, Code::ResourceExhausted),
    ] {
        joined(kind, code).await;
    }
}

async fn joined(kind: ErrorKind, code: Code) {
    let world = World::new();
    let agent = world.agent().await;
    let config = pod(&world, "web");
    world.fakes.steps.hang("attach");
    world.fakes.steps.fail("attach", kind, 1);
    let first = agent.run(&config);
    let second = async {
        world.fakes.steps.called("attach", 1).await;
        let (joined, ()) = tokio::join!(agent.run(&config), async {
            // It waits for the first: nothing can be seen of that but that nothing happens.
            tokio::task::yield_now().await;
            world.fakes.steps.release("attach");
        });
        joined
    };
    let (first, second) = tokio::join!(first, second);
    refused(first, code, "attach");
    // It may have come when all was over: then it has made a pod of its own.
    if second.is_err() {
        refused(second, code, "attach");
    }
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn ids_are_found_by_their_beginning() {
    let world = World::new();
    let agent = world.agent().await;
    // Of 17 ids two begin with the same digit.
    let names = (0..17).map(|number| pod(&world, &format!("pod-{number}")));
    let mut ids = Vec::new();
    for config in names {
        ids.push(agent.run(&config).await.unwrap());
    }
    ids.sort();
    let twins = ids.windows(2).find(|pair| pair[0][..1] == pair[1][..1]).unwrap();
    refused(agent.pod_status(&twins[0][..1]).await, Code::InvalidArgument, "ambiguous");
    refused(agent.stop_pod(&twins[0][..1]).await, Code::InvalidArgument, "ambiguous");
    let status = agent.pod_status(&twins[0][..40]).await.unwrap().status.unwrap();
    assert_eq!(status.id, twins[0]);
    for answer in [agent.stop_pod("").await, agent.remove_pod("").await] {
        refused(answer, Code::InvalidArgument, "pod_sandbox_id");
    }
    refused(agent.pod_status("").await, Code::InvalidArgument, "pod_sandbox_id");
    agent.stop_pod("unknown").await.unwrap();
    agent.remove_pod("unknown").await.unwrap();
    let filter = cri::PodSandboxFilter { id: twins[1][..40].into(), ..Default::default() };
    let request = cri::ListPodSandboxRequest { filter: Some(filter) };
    let found = agent.cri.clone().list_pod_sandbox(request).await.unwrap().into_inner().items;
    assert_eq!(found.iter().map(|item| &item.id).collect::<Vec<_>>(), [&twins[1]]);
}

type Change = fn(&mut cri::PodSandboxConfig);

#[tokio::test]
async fn what_a_pod_may_not_have_is_refused_by_its_field() {
    let sysctl = |config: &mut cri::PodSandboxConfig, key: &str, value: &str| {
        config.linux.get_or_insert_default().sysctls.insert(key.into(), value.into());
    };
    let namespaces = |config: &mut cri::PodSandboxConfig| {
        let linux = config.linux.get_or_insert_default();
        let node = cri::NamespaceMode::Node.into();
        linux.security_context.get_or_insert_default().namespace_options =
            Some(cri::NamespaceOption { network: node, ipc: node, ..Default::default() });
    };
    let sysctls = [
        ("kernel.core_pattern", "x", false),
        ("net.ipv4.x=1+kernel.core_pattern", "x", false),
        ("net../../kernel", "1", false),
        ("net.ipv4.ip_forward", "1\n", false),
        ("net.ipv4.ip_forward", "0'+'net.ipv4.ip_forward=1", false),
        ("net.ipv4.ip_forward", "1", true),
        ("kernel/shmmax", "1", true),
    ];
    let world = World::new();
    let agent = world.agent().await;
    for (key, value, shared) in sysctls {
        let mut config = pod(&world, "web");
        sysctl(&mut config, key, value);
        if shared {
            namespaces(&mut config);
        }
        let field = format!("config.linux.sysctls[{key:?}]: ");
        refused(agent.run(&config).await, Code::InvalidArgument, &field);
    }
    let others: [(Change, &str); 2] = [
        (|config| config.metadata = None, "config.metadata"),
        (|config| config.hostname = "a/b".into(), "config.hostname"),
    ];
    for (change, field) in others {
        let mut config = pod(&world, "web");
        change(&mut config);
        refused(agent.run(&config).await, Code::InvalidArgument, field);
    }
    let unknown = cri::RunPodSandboxRequest {
        config: Some(pod(&world, "web")),
        runtime_handler: "kata".into(),
    };
    let answer = agent.cri.clone().run_pod_sandbox(unknown).await;
    refused(answer, Code::InvalidArgument, "runtime_handler");
    assert_eq!(world.fakes.steps.count("create_netns"), 0);
    assert_eq!(agent.rows(), [""; 0]);
}

#[tokio::test]
async fn files_of_a_pod_say_what_was_asked_for() {
    let world = World::new();
    world.fakes.host.put_file("/etc/hosts".as_ref(), b"127.0.0.1 localhost\n");
    let agent = world.agent().await;
    let mut config = pod(&world, "web");
    config.hostname = "web-0".into();
    config.dns_config =
        Some(cri::DnsConfig { servers: vec!["10.0.0.10".into()], ..Default::default() });
    let id = agent.run(&config).await.unwrap();
    let file = |name: &str| text(&world.path("root/sandboxes").join(&id).join(name));
    assert_eq!(file("hostname"), "web-0\n");
    assert_eq!(file("hosts"), "127.0.0.1 localhost\n");
    assert_eq!(file("resolv.conf"), "nameserver 10.0.0.10\n");
}

#[tokio::test]
async fn a_pod_keeps_the_host_name_that_the_node_had() {
    let world = World::new();
    let agent = world.agent().await;
    world.fakes.host.set_hostname("renamed");
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let file = world.path("root/sandboxes").join(&id).join("hostname");
    assert_eq!(text(&file), "renamed\n", "not the name at the agent's start");
    let record = world.fakes.runtime.container(&id).await.unwrap();
    assert_eq!(record.spec["hostname"], "renamed");
    world.fakes.host.set_hostname("renamed-again");
    agent.kill().await;
    let agent = world.agent().await;
    let app = agent.create(&id, &container("app", &["run"])).await.unwrap();
    let env = world.fakes.runtime.container(&app).await.unwrap().spec["process"]["env"].clone();
    let env = env.as_array().expect("an environment");
    assert!(env.iter().any(|it| it == "HOSTNAME=renamed"), "{env:?}");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn annotations_for_the_snapshotter_reach_it() {
    let world = World::with_pause_image();
    let agent = world.agent().await;
    let label = |name: &str| (format!("containerd.io/snapshot/{name}"), "1".to_owned());
    let mut config = pod(&world, "web");
    config.annotations.extend([label("pods"), label("uidmapping")]);
    let id = agent.run(&config).await.unwrap();
    let mut config = container("app", &["run"]);
    config.annotations.extend([label("apps"), label("gidmapping")]);
    let app = agent.create(&id, &config).await.unwrap();
    assert_eq!(world.fakes.runtime.root_labels(&id), [label("pods")].into());
    assert_eq!(world.fakes.runtime.root_labels(&app), [label("apps")].into());
}

#[tokio::test]
async fn a_pod_whose_pause_process_ends_is_not_ready() {
    let world = World::new();
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    world.fakes.runtime.end(Process::init(&id), 1);
    eventually("not ready", async || (!agent.is_ready(&id).await).then_some(())).await;
    let late = agent.create(&id, &container("app", &["run"])).await;
    refused(late, Code::FailedPrecondition, "not ready");
    agent.remove_pod(&id).await.unwrap();
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_caller_who_hangs_up_tears_nothing_in_half() {
    for step in ["attach", "create_task", "create_netns"] {
        let world = World::new();
        let agent = world.agent().await;
        let config = pod(&world, "web");
        world.fakes.steps.hang(step);
        tokio::select! {
            answer = agent.run(&config) => panic!("{step}: {answer:?}"),
            () = world.fakes.steps.called(step, 1) => {}
        }
        world.fakes.steps.release(step);
        let id = agent.run(&config).await.unwrap();
        assert!(agent.is_ready(&id).await, "{step}");
        assert_eq!(agent.pods().await.len(), 1, "{step}");
        assert_eq!(world.fakes.steps.count("create_netns"), 1, "{step}: joined, not made anew");

        let app = agent.create(&id, &container("app", &["run"])).await.unwrap();
        let calls = world.fakes.steps.count("create_task");
        world.fakes.steps.hang("create_task");
        tokio::select! {
            answer = agent.start(&app) => panic!("{step}: {answer:?}"),
            () = world.fakes.steps.called("create_task", calls + 1) => {}
        }
        world.fakes.steps.release("create_task");
        let running = async || {
            let status = agent.status(&app).await.unwrap();
            (status.state() == cri::ContainerState::ContainerRunning).then_some(())
        };
        eventually("it runs all the same", running).await;
        agent.remove_all().await;
        assert_eq!(world.leftovers(), [""; 0], "{step}");
    }
}

fn managed(name: &str, network: NamespaceMode) -> PodConfig {
    let mut config = PodConfig {
        hostname: name.to_owned(),
        hosts: Some(HostsFile {
            hostname: name.to_owned(),
            domain: "s.ns.svc".to_owned(),
            aliases: vec![HostAlias {
                ip: "10.9.9.9".parse().unwrap(),
                hostnames: vec!["db".to_owned(), "db.example".to_owned()],
            }],
        }),
        ..PodConfig::default()
    };
    let (namespace, uid) = ("ns".to_owned(), format!("uid-{name}"));
    config.metadata = PodMetadata { name: name.to_owned(), namespace, uid, attempt: 0 };
    config.security.namespaces.network = network;
    config
}

#[tokio::test]
async fn a_managed_hosts_file_has_the_pods_addresses_and_aliases() {
    let world = World::new();
    world.fakes.host.put_file("/etc/hosts".as_ref(), b"127.0.0.1 node\n");
    let agent = world.agent().await;
    let hosts = async |config| {
        let id = agent.rooms.sandboxes.run(config, "").await.unwrap();
        let file = world.path("root/sandboxes").join(id.as_str()).join("hosts");
        std::fs::read_to_string(file).unwrap()
    };
    let aliases = "\n# Entries added by HostAliases.\n10.9.9.9\tdb\tdb.example\n";
    let own = hosts(managed("web", NamespaceMode::Pod)).await;
    assert!(own.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"), "{own}");
    assert!(own.ends_with(&format!("\n10.88.0.1\tweb.s.ns.svc\tweb\n{aliases}")), "{own}");
    let of_node = hosts(managed("agent", NamespaceMode::Node)).await;
    let head = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 node\n";
    assert_eq!(of_node, format!("{head}{aliases}"));
    agent.remove_all().await;
    world.clean().await;
}

#[tokio::test]
async fn a_hosts_file_that_cannot_be_written_leaves_nothing() {
    let world = World::new();
    let agent = world.agent().await;
    world.fakes.steps.hang("attach");
    let failing = async {
        world.fakes.steps.called("attach", 1).await;
        world.fakes.steps.fail("write_file", podbay::backend::ErrorKind::Other, 1);
        world.fakes.steps.release("attach");
    };
    let run = agent.rooms.sandboxes.run(managed("web", NamespaceMode::Pod), "");
    let (made, ()) = tokio::join!(run, failing);
    assert!(made.is_err());
    world.clean().await;
    assert_eq!(agent.rows(), [""; 0]);
}
