//! What answers show of a sandbox, a container and an image.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::backend::NetworkStatus;
use crate::container::{Container, ContainerState, EndReason, Exited};
use crate::ids::{ContainerId, PodId};
use crate::image::FsInfo;
use crate::model::Owner;
use crate::model::container::{ImageSpec, Mount, Propagation};
use crate::model::image::{Descriptor, Digest, Image, ImageConfig};
use crate::model::resources::Resources;
use crate::model::signal::Signal;
use crate::oci::user::ResolvedUser;
use crate::sandbox::{Sandbox, SandboxState};

fn sandbox(state: SandboxState, ips: &[&str]) -> Sandbox {
    let network = NetworkStatus {
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        result: serde_json::Value::Null,
    };
    Sandbox {
        id: PodId::random(),
        owner: Owner::Cri,
        config: Arc::new(pod_config(Some(pod())).unwrap()),
        new_overhead: None,
        new_resources: None,
        handler: "crun".into(),
        created_at: 42,
        state,
        network: (!ips.is_empty()).then_some(network),
        netns: None,
    }
}

fn container_in(state: ContainerState) -> Container {
    let mut config = container_config(Some(container())).unwrap();
    config.mounts = vec![Mount {
        container_path: "/a".into(),
        host_path: "/b".into(),
        propagation: Propagation::Bidirectional,
        ..Default::default()
    }];
    config.mounts.push(Mount {
        container_path: "/data".into(),
        readonly: true,
        image: Some(ImageSpec { image: "data:1".into(), ..Default::default() }),
        ..Default::default()
    });
    Container {
        id: ContainerId::random(),
        pod: PodId::random(),
        owner: Owner::Cri,
        config: Arc::new(config),
        image_id: Digest::of(b"config"),
        image_name: "docker.io/library/busybox:latest".into(),
        image_ref: "docker.io/library/busybox@sha256:1".into(),
        mounted_images: [(1, Digest::of(b"mounted"))].into(),
        created_at: 1,
        state,
        user: ResolvedUser { uid: 1000, gid: 3, additional_gids: vec![3, 4], home: None },
        resources: Resources { cpu_quota: 50_000, memory_limit: 1 << 20, ..Default::default() },
        stop_signal: Signal::parse("SIGQUIT").unwrap(),
        log_path: Some("/var/log/pods/x/app/0.log".into()),
    }
}

#[test]
fn a_ready_sandbox_shows_its_addresses_and_namespaces() {
    let status = sandbox_status(&sandbox(SandboxState::Ready { pid: 7 }, &["10.0.0.2", "fd00::2"]));
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!((status.created_at, status.runtime_handler.as_str()), (42, "crun"));
    let network = status.network.unwrap();
    assert_eq!(network.ip, "10.0.0.2");
    assert_eq!(network.additional_ips, [v1::PodIp { ip: "fd00::2".into() }]);
    let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.network(), v1::NamespaceMode::Pod);
    assert_eq!(status.metadata, pod().metadata);
}

#[test]
fn a_dead_sandbox_has_an_empty_network_not_none() {
    for state in [SandboxState::NotReady, SandboxState::Creating] {
        let sandbox = sandbox(state, &[]);
        let status = sandbox_status(&sandbox);
        assert_eq!(status.state(), v1::PodSandboxState::SandboxNotready);
        assert_eq!(status.network, Some(v1::PodSandboxNetworkStatus::default()));
        assert_eq!(sandbox_item(&sandbox).state(), v1::PodSandboxState::SandboxNotready);
    }
}

#[test]
fn times_are_zero_until_they_are_true() {
    let exited = |started_at| {
        ContainerState::Exited(Exited {
            started_at,
            finished_at: 30,
            code: 128,
            reason: EndReason::StartError,
            message: "no such file".into(),
        })
    };
    use v1::ContainerState::*;
    let cases = [
        (ContainerState::Created, ContainerCreated, 0, 0, 0, ""),
        (ContainerState::Running { started_at: 20, pid: 9 }, ContainerRunning, 20, 0, 0, ""),
        (exited(Some(20)), ContainerExited, 20, 30, 128, "StartError"),
        (exited(None), ContainerExited, 0, 30, 128, "StartError"),
        (ContainerState::Unknown { started_at: Some(20) }, ContainerUnknown, 20, 0, 255, "Unknown"),
    ];
    for (state, wanted, started, finished, code, reason) in cases {
        let container = container_in(state);
        let status = container_status(&container);
        assert_eq!(status.state(), wanted);
        assert_eq!(container_item(&container).state(), wanted);
        let times = (status.created_at, status.started_at, status.finished_at);
        assert_eq!(times, (1, started, finished), "{wanted:?}");
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason));
    }
}

#[test]
fn a_container_shows_what_is_in_force() {
    let container = container_in(ContainerState::Created);
    let status = container_status(&container);
    assert_eq!(status.image_id, container.image_id.as_str());
    assert_eq!(status.image_ref, container.image_ref);
    assert_eq!(status.image.as_ref().unwrap().image, container.image_name);
    assert_eq!(status.log_path, "/var/log/pods/x/app/0.log");
    assert_eq!(status.stop_signal(), v1::Signal::Sigquit);
    assert_eq!(status.mounts[0].propagation(), v1::MountPropagation::PropagationBidirectional);
    let mounted = status.mounts[1].image.as_ref().unwrap();
    assert_eq!(mounted.image, "data:1");
    assert_eq!(mounted.image_ref, Digest::of(b"mounted").to_string(), "as a pull told");
    let limits = status.resources.unwrap().linux.unwrap();
    assert_eq!((limits.cpu_quota, limits.memory_limit_in_bytes), (50_000, 1 << 20));
    let user = status.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1000, 3, vec![3, 4]));
    let item = container_item(&container);
    assert_eq!(item.image_ref, container.image_id.as_str(), "as a list of images has it");
    assert_eq!(item.image_id, status.image_id);
    assert_eq!(item.pod_sandbox_id, container.pod.as_str());
}

fn image(user: &str) -> Image {
    Image {
        id: Digest::of(b"config"),
        target: Descriptor {
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            digest: Digest::of(b"index"),
            size: 2,
            annotations: Default::default(),
        },
        repo_tags: vec!["docker.io/library/busybox:latest".into()],
        repo_digests: vec![],
        size: 77,
        pinned: true,
        chain_id: Some(Digest::of(b"chain")),
        config: ImageConfig {
            user: user.into(),
            volumes: vec!["/data".into()],
            ..Default::default()
        },
    }
}

#[test]
fn an_image_has_a_uid_or_a_user_name() {
    let cases = [
        ("", None, ""),
        ("1000", Some(1000), ""),
        ("1000:users", Some(1000), ""),
        ("web:users", None, "web"),
        ("-1", None, "-1"),
        ("4294967296", None, "4294967296"),
    ];
    for (user, uid, name) in cases {
        let found = image_out(&image(user));
        assert_eq!(
            (found.uid.map(|uid| uid.value), found.username.as_str()),
            (uid, name),
            "{user}"
        );
        assert_eq!((found.size, found.pinned), (77, true));
    }
    let document = serde_json::json!({ "architecture": "amd64", "config": { "User": "web" } });
    let facts = image_info(&image("web"), &document);
    assert_eq!(facts["chainID"], Digest::of(b"chain").as_str());
    assert_eq!(facts["imageSpec"], document);
}

#[test]
fn a_pull_is_for_the_handler_of_the_image_or_else_of_the_pod() {
    let image = |handler: &str| crate::model::container::ImageSpec {
        runtime_handler: handler.into(),
        ..Default::default()
    };
    let key = "io.containerd.cri.runtime-handler".to_owned();
    let pod = || v1::PodSandboxConfig {
        annotations: [(key.clone(), "kata".to_owned())].into(),
        ..Default::default()
    };
    assert_eq!(pull_handler(&image("crun"), Some(pod())), "crun");
    assert_eq!(pull_handler(&image(""), Some(pod())), "kata");
    assert_eq!(pull_handler(&image(""), Some(Default::default())), "");
    assert_eq!(pull_handler(&image(""), None), "");
}

#[test]
fn containers_are_on_the_first_file_system() {
    let usage = |path: &str, bytes| FsInfo { mountpoint: path.into(), bytes, inodes: 3, at: 9 };
    let found = fs_info(&[usage("/snapshots", 5), usage("/content", 6)]);
    let bytes = |list: &[v1::FilesystemUsage]| -> Vec<u64> {
        list.iter().map(|entry| entry.used_bytes.unwrap().value).collect()
    };
    assert_eq!(bytes(&found.image_filesystems), [5, 6]);
    assert_eq!(bytes(&found.container_filesystems), [5]);
    let first = &found.image_filesystems[0];
    assert_eq!(first.timestamp, 9);
    assert_eq!(first.fs_id.as_ref().unwrap().mountpoint, "/snapshots");
}

/// Tools for other runtimes read this verbose information.
#[test]
fn configurations_are_told_in_the_json_of_the_interface() {
    let mut request = pod();
    request.metadata.as_mut().unwrap().attempt = 0;
    request.hostname = "web".into();
    request.port_mappings.push(v1::PortMapping {
        protocol: v1::Protocol::Udp.into(),
        container_port: 53,
        host_port: 5353,
        host_ip: "127.0.0.1".into(),
    });
    let linux = request.linux.get_or_insert_default();
    linux.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let security = linux.security_context.get_or_insert_default();
    security.run_as_user = Some(v1::Int64Value { value: 0 });
    security.namespace_options = Some(v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    });
    let told = pod_config_json(&pod_config(Some(request.clone())).unwrap());
    let metadata = request.metadata.unwrap();
    assert_eq!(told["metadata"]["namespace"], metadata.namespace);
    assert!(told["metadata"].get("attempt").is_none(), "a zero says nothing");
    assert_eq!(told["hostname"], "web");
    let port =
        json!({ "protocol": 1, "container_port": 53, "host_port": 5353, "host_ip": "127.0.0.1" });
    assert_eq!(told["port_mappings"], json!([port]));
    assert_eq!(told["linux"]["sysctls"]["kernel.shm_rmid_forced"], "1");
    let security = &told["linux"]["security_context"];
    assert_eq!(security["namespace_options"], json!({ "network": 2, "pid": 1 }));
    assert_eq!(security["run_as_user"], json!({ "value": 0 }), "a zero that is given");

    let mut request = container();
    request.envs = vec![v1::KeyValue { key: "A".into(), value: "b".into() }];
    request.mounts = vec![v1::Mount {
        container_path: "/a".into(),
        host_path: "/b".into(),
        readonly: true,
        propagation: v1::MountPropagation::PropagationBidirectional.into(),
        ..Default::default()
    }];
    request.cdi_devices = vec![v1::CdiDevice { name: "vendor.com/class=one".into() }];
    request.stop_signal = v1::Signal::Sigquit.into();
    request.log_path = "app/0.log".into();
    let linux = request.linux.get_or_insert_default();
    let limits = linux.resources.get_or_insert_default();
    (limits.memory_limit_in_bytes, limits.cpu_quota) = (1 << 20, -1);
    let security = linux.security_context.get_or_insert_default();
    security.capabilities = Some(v1::Capability {
        add_capabilities: vec!["NET_ADMIN".into()],
        drop_capabilities: vec!["all".into()],
        ..Default::default()
    });
    security.seccomp = Some(v1::SecurityProfile::default());
    let told = container_config_json(&container_config(Some(request.clone())).unwrap());
    assert_eq!(told["image"]["image"], request.image.unwrap().image);
    assert_eq!(told["envs"], json!([{ "key": "A", "value": "b" }]));
    let mount =
        json!({ "container_path": "/a", "host_path": "/b", "readonly": true, "propagation": 2 });
    assert_eq!(told["mounts"], json!([mount]));
    assert_eq!(told["CDI_devices"], json!([{ "name": "vendor.com/class=one" }]));
    assert_eq!(told["stop_signal"], v1::Signal::Sigquit as i32);
    assert_eq!(told["log_path"], "app/0.log");
    let limits = &told["linux"]["resources"];
    assert_eq!(
        (&limits["memory_limit_in_bytes"], &limits["cpu_quota"]),
        (&json!(1 << 20), &json!(-1))
    );
    let security = &told["linux"]["security_context"];
    let wanted = json!({ "add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["ALL"] });
    assert_eq!(security["capabilities"], wanted);
    assert_eq!(security["seccomp"]["profile_type"], 0);
}

#[test]
fn interfaces_are_told_by_their_names() {
    let result = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": "cni0", "mac": "02:00:00:00:00:01" },
            { "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/x" },
        ],
        "ips": [
            { "interface": 1, "address": "10.0.0.2/24", "gateway": "10.0.0.1" },
            { "interface": 1, "address": "fd00::2/64" },
        ],
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": {},
    });
    let told = network_json(&NetworkStatus { ips: Vec::new(), result });
    let eth0 = &told["Interfaces"]["eth0"];
    assert_eq!(
        (&eth0["Mac"], &eth0["Sandbox"]),
        (&json!("02:00:00:00:00:02"), &json!("/run/netns/x"))
    );
    let configs = json!([
        { "IP": "10.0.0.2", "Gateway": "10.0.0.1" },
        { "IP": "fd00::2", "Gateway": null },
    ]);
    assert_eq!(eth0["IPConfigs"], configs);
    assert_eq!(told["Interfaces"]["cni0"]["IPConfigs"], json!([]));
    assert_eq!(told["Routes"], json!([{ "dst": "0.0.0.0/0" }]));
    let none = network_json(&NetworkStatus { ips: Vec::new(), result: Value::Null });
    assert_eq!(none["Interfaces"], json!({}));
}
