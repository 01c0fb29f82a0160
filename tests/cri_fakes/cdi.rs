//! Devices by the Container Device Interface.

use podbay::backend::nri::proto as nri;
use podbay::backend::{DeviceNode, Runtime as _};
use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};
use tonic::Code;

use super::calls::{container, pod, refused};
use super::hooks;
use super::plugin::{Plugin, with as with_answer};
use super::world::{Agent, World};

fn write(world: &World, path: &str, content: &str) {
    let path = world.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn file(devices: Value) -> String {
    json!({"cdiVersion": "0.6.0", "kind": "v.com/gpu", "devices": devices}).to_string()
}

fn with(devices: &[&str], annotation: &str) -> cri::ContainerConfig {
    let mut config = container("app", &["run"]);
    config.cdi_devices = devices.iter().map(|&name| cri::CdiDevice { name: name.into() }).collect();
    if !annotation.is_empty() {
        config.annotations.insert("cdi.k8s.io/plugin".into(), annotation.into());
    }
    config
}

async fn start() -> (World, Agent, String) {
    let world = World::new();
    for (name, minor) in [("/dev/nvidia0", 0), ("/dev/nvidia1", 1)] {
        world.fakes.host.put_device(DeviceNode {
            path: name.into(),
            kind: 'c',
            major: 195,
            minor,
            ..DeviceNode::default()
        });
    }
    let agent = world.agent().await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    (world, agent, id)
}

async fn spec(world: &World, id: &str) -> Value {
    world.fakes.runtime.container(id).await.unwrap().spec
}

#[tokio::test]
async fn a_plugin_may_ask_for_devices() {
    let world = hooks::world();
    let wants = hooks::answering("CreateContainer", |heard| {
        let cdi_devices = match heard.container_name() {
            "app" => vec![nri::CdiDevice { name: "v.com/gpu=0".into() }],
            _ => vec![nri::CdiDevice { name: "v.com/gpu=9".into() }],
        };
        let adjust = Some(nri::ContainerAdjustment { cdi_devices, ..Default::default() });
        with_answer(nri::CreateContainerResponse { adjust, ..Default::default() })
    });
    let agent = world.agent().await;
    write(
        &world,
        "cdi/gpu.json",
        &file(json!([{"name": "0", "containerEdits": {"env": ["GPU=0"]}}])),
    );
    let _plugin = Plugin::join(&world.nri_socket(), "10", "gpus", wants).await;
    let id = agent.run(&pod(&world, "web")).await.unwrap();
    let made = agent.create(&id, &container("app", &["run"])).await.unwrap();
    let spec = spec(&world, &made).await;
    assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("GPU=0")), "{spec}");
    let missing = agent.create(&id, &container("other", &["run"])).await;
    refused(missing, Code::FailedPrecondition, "v.com/gpu=9");
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}

#[tokio::test]
async fn field_and_annotations_give_devices_each_once() {
    let (world, agent, id) = start().await;
    write(
        &world,
        "cdi/gpu.json",
        &file(json!([
            {"name": "0", "containerEdits": {
                "env": ["GPU=0"], "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/nvidia0"}],
            }},
            {"name": "1", "containerEdits": {
                "env": ["GPU=1"], "deviceNodes": [{"path": "/dev/nvidia1", "permissions": "r"}],
            }},
        ])),
    );
    let config = with(&["v.com/gpu=0"], "v.com/gpu=1,v.com/gpu=0");
    let made = agent.create(&id, &config).await.unwrap();
    let spec = spec(&world, &made).await;
    let env = spec["process"]["env"].as_array().unwrap();
    assert!(env.contains(&json!("GPU=1")) && !env.contains(&json!("GPU=0")), "{env:?}");
    let node =
        |path: &str, minor: u32| json!({"path": path, "type": "c", "major": 195, "minor": minor});
    assert_eq!(spec["linux"]["devices"], json!([node("/dev/gpu0", 0), node("/dev/nvidia1", 1)]));
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    let rule = |minor: u32, access: &str| json!({"allow": true, "type": "c", "major": 195, "minor": minor, "access": access});
    assert!(rules.ends_with(&[rule(0, "rwm"), rule(1, "r")]), "{rules:?}");
    let annotations = spec["annotations"].as_object().unwrap();
    assert!(!annotations.keys().any(|key| key.starts_with("cdi.k8s.io/")), "{annotations:?}");

    // A device that is written later is found, and a later folder wins.
    refused(
        agent
            .create(
                &id,
                &cri::ContainerConfig { metadata: name("b"), ..with(&["v.com/gpu=9"], "") },
            )
            .await,
        Code::FailedPrecondition,
        "unresolvable CDI devices v.com/gpu=9",
    );
    write(
        &world,
        "run/cdi/claim.yaml",
        "
cdiVersion: 0.6.0
kind: v.com/gpu
devices:
- name: '9'
  containerEdits: {env: [GPU=9]}
- name: '0'
  containerEdits: {env: [GPU=claimed]}
",
    );
    let config =
        cri::ContainerConfig { metadata: name("b"), ..with(&["v.com/gpu=9", "v.com/gpu=0"], "") };
    let made = agent.create(&id, &config).await.unwrap();
    let env = self::spec(&world, &made).await["process"]["env"].clone();
    assert!(env.as_array().unwrap().contains(&json!("GPU=claimed")), "{env}");
    agent.remove_all().await;
}

fn name(name: &str) -> Option<cri::ContainerMetadata> {
    Some(cri::ContainerMetadata { name: name.into(), attempt: 0 })
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_by_name_and_leaves_nothing() {
    let (world, agent, id) = start().await;
    let nodes = json!([
        {"name": "gone", "containerEdits": {"deviceNodes": [{"path": "/dev/none"}]}},
        {"name": "block", "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0", "type": "b"}]}},
    ]);
    write(&world, "cdi/gpu.json", &file(nodes));
    write(&world, "cdi/broken.json", "{");
    let net = json!({"cdiVersion": "1.1.0", "kind": "v.com/nic", "devices": [{"name": "0",
        "containerEdits": {"netDevices": [{"hostInterfaceName": "ib0", "name": "net1"}]}}]});
    write(&world, "cdi/nic.json", &net.to_string());
    let before = world.leftovers();
    for (config, code, words) in [
        (
            with(&["gpu0"], ""),
            Code::InvalidArgument,
            "config.CDI_devices[0].name: \"gpu0\" is not a CDI",
        ),
        (
            with(&[], "v.com/gpu"),
            Code::InvalidArgument,
            "config.annotations[\"cdi.k8s.io/plugin\"]",
        ),
        (with(&["v.com/gpu=7"], ""), Code::FailedPrecondition, "devices v.com/gpu=7 (not used: "),
        (
            with(&["v.com/gpu=gone"], ""),
            Code::FailedPrecondition,
            "/dev/none: it is not on this host",
        ),
        (with(&["v.com/gpu=block"], ""), Code::FailedPrecondition, "has type \"c\", not \"b\""),
        (with(&["v.com/nic=0"], ""), Code::FailedPrecondition, "does not support OCI 1.3"),
    ] {
        refused(agent.create(&id, &config).await, code, words);
        assert_eq!(world.leftovers(), before, "{words}");
    }
    assert!(agent.containers().await.is_empty());
    // Without devices nobody looks at the files.
    world.fakes.steps.forget();
    agent.create(&id, &container("plain", &["run"])).await.unwrap();
    assert_eq!(world.fakes.steps.count("trusted_files"), 0);
    agent.remove_all().await;
    assert_eq!(world.leftovers(), [""; 0]);
}
