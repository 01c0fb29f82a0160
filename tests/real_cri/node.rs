//! Lists and their filters, Status, and grpcurl as an external client.

use std::process::Command;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};

use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::{Networking, TestEnv};
use crate::support::{parts, wait_until};

pub async fn lists_are_filtered(line: Line) {
    let rig = Rig::start(line).await;
    let one = rig.run(rig.pod_spec("one").label("app", "a").label("tier", "x")).await;
    let two = rig.run(rig.pod_spec("two").label("app", "b").label("tier", "x")).await;
    let running = rig.launch(&one, &Container::waiting("r", &rig.image).label("k", "v")).await;
    let exited = Container::script("e", &rig.image, "exit 0").label("k", "v");
    let exited = rig.run_to_end(&two, &exited).await.id;
    let created =
        rig.create(&two, &Container::waiting("c", &rig.image)).await.expect("a container");
    rig.stop_pod(&two.id).await;

    let labels = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    use cri::PodSandboxState::{SandboxNotready, SandboxReady};
    let pods = |id: &str, state: Option<cri::PodSandboxState>, selector: &[(&str, &str)]| {
        let state = state.map(|state| cri::PodSandboxStateValue { state: state.into() });
        let filter =
            cri::PodSandboxFilter { id: id.into(), state, label_selector: labels(selector) };
        let rig = &rig;
        async move { rig.pods(filter).await.into_iter().map(|pod| pod.id).collect::<Vec<_>>() }
    };
    assert_eq!(pods("", None, &[]).await, [two.id.as_str(), &one.id], "the newest first");
    assert_eq!(pods("", Some(SandboxReady), &[]).await, [one.id.as_str()]);
    assert_eq!(pods("", Some(SandboxNotready), &[("tier", "x")]).await, [two.id.as_str()]);
    assert_eq!(pods("", None, &[("app", "a"), ("tier", "x")]).await, [one.id.as_str()]);
    assert!(pods("", None, &[("app", "a"), ("tier", "y")]).await.is_empty());
    assert_eq!(pods(&one.id[..10], None, &[]).await, [one.id.as_str()]);
    assert!(pods(&one.id, Some(SandboxNotready), &[]).await.is_empty());
    assert!(pods("no-such-id", None, &[]).await.is_empty());

    use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    let containers = |id: &str,
                      pod: &str,
                      state: Option<cri::ContainerState>,
                      selector: &[(&str, &str)]| {
        let state = state.map(|state| cri::ContainerStateValue { state: state.into() });
        let filter = cri::ContainerFilter {
            id: id.into(),
            state,
            pod_sandbox_id: pod.into(),
            label_selector: labels(selector),
        };
        let rig = &rig;
        async move { rig.containers(filter).await.into_iter().map(|it| it.id).collect::<Vec<_>>() }
    };
    let all = containers("", "", None, &[]).await;
    assert_eq!(all, [created.as_str(), &exited, &running], "the newest first");
    assert_eq!(containers("", "", Some(ContainerRunning), &[]).await, [running.as_str()]);
    assert_eq!(containers("", "", Some(ContainerExited), &[("k", "v")]).await, [exited.as_str()]);
    assert_eq!(
        containers("", &two.id[..10], Some(ContainerCreated), &[]).await,
        [created.as_str()]
    );
    assert_eq!(containers(&running[..10], &one.id, None, &[]).await, [running.as_str()]);
    assert!(containers(&running, &two.id, None, &[]).await.is_empty());

    // Truncated ids are good everywhere.
    assert_eq!(rig.status(&exited[..13]).await.id, exited);
    assert_eq!(rig.pod_status(&one.id[..13]).await.id, one.id);
    let full = rig.try_pod_status(&one.id).await.expect("PodSandboxStatus");
    assert_eq!(full.containers_statuses.len(), 1);
    assert!(full.timestamp > 0);
    assert!(rig.info(&running).await["pid"].as_i64().is_some_and(|pid| pid > 0));
    rig.remove(&running[..13]).await;
    rig.remove_pod(&two.id[..13]).await;
    rig.finish().await;
}

/// Verbose facts have the names that `crictl inspect` and `inspectp` show of other runtimes.
pub async fn verbose_facts_have_known_names(line: Line) {
    let rig = Rig::start(line).await;
    let mut spec = rig.pod_spec("facts").label("app", "facts");
    spec.config.linux.get_or_insert_default().sysctls =
        [("kernel.shm_rmid_forced".to_owned(), "1".to_owned())].into();
    let pod = rig.run(spec).await;
    let mut spec = Container::waiting("c", &rig.image).env("A", "b").memory_limit(64 << 20);
    spec.config.image.as_mut().expect("an image").user_specified_image = "busybox".into();
    let id = rig.create(&pod, &spec).await.expect("CreateContainer");
    assert_eq!(rig.info(&id).await["pid"], 0, "no process yet");
    rig.start_created(&id).await.expect("StartContainer");

    let facts = rig.info(&id).await;
    assert!(facts["pid"].as_i64().is_some_and(|pid| pid > 1), "{}", facts["pid"]);
    assert_eq!(facts["sandboxID"], pod.id);
    assert_eq!((&facts["snapshotter"], &facts["snapshotKey"]), (&json!("overlayfs"), &json!(id)));
    assert_eq!(facts["runtimeType"], "io.containerd.runc.v2");
    assert_eq!(facts["removing"], false);
    assert!(facts["runtimeOptions"].is_object());
    assert_eq!(facts["runtimeSpec"]["process"]["args"][0], "/bin/sh");
    assert_eq!(facts["runtimeSpec"]["linux"]["resources"]["memory"]["limit"], 64 << 20);
    let config = &facts["config"];
    assert_eq!(config["metadata"]["name"], "c");
    assert_eq!(config["image"]["user_specified_image"], "busybox");
    assert_eq!(config["envs"], json!([{ "key": "A", "value": "b" }]));
    assert_eq!(config["linux"]["resources"]["memory_limit_in_bytes"], 64 << 20);
    assert_eq!(config["linux"]["security_context"]["namespace_options"]["pid"], 1);
    let status = rig.status(&id).await;
    let image = status.image.expect("an image");
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        (&*rig.image, "busybox")
    );
    let listed = rig.containers(cri::ContainerFilter::default()).await.remove(0);
    assert_eq!(listed.image_id, status.image_id);
    assert_eq!(listed.image.map(|it| it.user_specified_image).as_deref(), Some("busybox"));

    let facts = rig.pod_info(&pod.id).await;
    assert!(facts["pid"].as_i64().is_some_and(|pid| pid > 1), "{}", facts["pid"]);
    assert_eq!(
        (&facts["processStatus"], &facts["netNamespaceClosed"]),
        (&json!("running"), &json!(false))
    );
    assert_eq!(facts["runtimeType"], "io.containerd.runc.v2");
    assert!(facts["runtimeSpec"]["linux"]["namespaces"].is_array());
    let config = &facts["config"];
    assert_eq!(config["metadata"]["uid"], "uid-facts");
    assert_eq!(config["labels"]["app"], "facts");
    assert_eq!(config["linux"]["sysctls"]["kernel.shm_rmid_forced"], "1");
    assert_eq!(config["linux"]["cgroup_parent"], rig.env().cgroup_parent());
    let eth0 = &facts["cniResult"]["Interfaces"]["eth0"];
    assert_eq!(eth0["IPConfigs"][0]["IP"], rig.pod_ip(&pod.id).await);
    assert!(eth0["Mac"].as_str().is_some_and(|mac| mac.len() == 17), "{eth0}");
    rig.stop_pod(&pod.id).await;
    let facts = rig.pod_info(&pod.id).await;
    assert_eq!((&facts["pid"], &facts["netNamespaceClosed"]), (&json!(0), &json!(true)));
    assert_eq!(rig.info(&id).await["pid"], 0);
    rig.finish().await;
}

async fn status(rig: &Rig) -> cri::StatusResponse {
    let request = cri::StatusRequest { verbose: true };
    rig.runtime().status(request).await.expect("Status").into_inner()
}

async fn condition(rig: &Rig, name: &str) -> (bool, String) {
    let status = status(rig).await.status.expect("a status");
    let found = status.conditions.into_iter().find(|condition| condition.r#type == name);
    let found = found.unwrap_or_else(|| panic!("no condition {name}"));
    (found.status, found.reason)
}

pub async fn status_is_true(line: Line) {
    let mut rig = Rig::start(line).await;
    let version = rig.runtime().version(cri::VersionRequest::default()).await.expect("Version");
    let version = version.into_inner();
    assert_eq!((version.version.as_str(), version.runtime_api_version.as_str()), ("0.1.0", "v1"));
    assert_eq!(version.runtime_name, "podbay");
    for name in ["RuntimeReady", "NetworkReady"] {
        assert_eq!(condition(&rig, name).await, (true, String::new()), "{name}");
    }
    let told = status(&rig).await;
    for (key, value) in &told.info {
        let value: Value = serde_json::from_str(value).expect(key);
        assert!(value.is_object(), "{key} is no object: {value}");
    }
    let handlers: Vec<_> = told.runtime_handlers.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(handlers, ["", "runc"]);
    let config = rig.runtime().runtime_config(cri::RuntimeConfigRequest {}).await;
    let linux = config.expect("RuntimeConfig").into_inner().linux.expect("linux");
    assert_eq!(linux.cgroup_driver(), cri::CgroupDriver::Cgroupfs);

    // containerd away: said within moments, lists go on, changes are Unavailable.
    let pod = rig.run(rig.pod_spec("steady")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    rig.agent.env.containerd.kill9();
    wait_until(SOON, "RuntimeReady is false", async || !condition(&rig, "RuntimeReady").await.0)
        .await;
    assert_eq!(rig.status(&id).await.state(), cri::ContainerState::ContainerRunning);
    let refused = rig.try_run(&rig.pod_spec("later")).await.expect_err("containerd is away");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    rig.agent.env.containerd.restart();
    wait_until(SOON, "RuntimeReady is true", async || condition(&rig, "RuntimeReady").await.0)
        .await;
    assert_eq!(rig.exec(&id, "echo alive").await, "alive");
    rig.finish().await;

    let rig = Rig::start_in(TestEnv::start_with(line, Networking::Missing).await).await;
    let missing = condition(&rig, "NetworkReady").await;
    assert_eq!(missing, (false, "NetworkPluginNotReady".to_owned()));
    rig.try_run(&rig.pod_spec("networked")).await.expect_err("no network");
    let mut spec = rig.pod_spec("host").host_network();
    spec.config.hostname.clear();
    rig.run(spec).await;
    rig.finish().await;
}

/// Runs grpcurl against the agent; returns what it said.
fn grpcurl(rig: &Rig, data: Option<&Value>, words: &[&str]) -> String {
    let mut command = Command::new(parts().join("grpcurl"));
    command.args(["-plaintext", "-unix"]);
    if let Some(data) = data {
        command.args(["-d", &data.to_string()]);
    }
    let socket = rig.env().socket();
    let output = command.arg(socket).args(words).output().expect("grpcurl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{words:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

pub async fn grpcurl_is_served(line: Line) {
    let rig = Rig::start(line).await;
    let services = grpcurl(&rig, None, &["list"]);
    for service in ["runtime.v1.RuntimeService", "runtime.v1.ImageService", "grpc.health.v1.Health"]
    {
        assert!(services.contains(service), "{service} is not in {services}");
    }
    let described = grpcurl(&rig, None, &["describe", "runtime.v1.RuntimeService.RunPodSandbox"]);
    assert!(described.contains("RunPodSandboxRequest"), "{described}");
    let call = |method: &str, data: Value| -> Value {
        let answer = grpcurl(&rig, Some(&data), &[&format!("runtime.v1.{method}")]);
        serde_json::from_str(&answer).expect("JSON")
    };
    assert_eq!(call("RuntimeService/Version", json!({}))["runtimeApiVersion"], "v1");
    let conditions = call("RuntimeService/Status", json!({}))["status"]["conditions"].clone();
    assert_eq!(conditions.as_array().map(Vec::len), Some(2));
    let config = json!({
        "metadata": {"name": "curl", "namespace": "test", "uid": "curl-1"},
        "hostname": "curl", "linux": {"cgroup_parent": rig.env().cgroup_parent()},
    });
    let made = call("RuntimeService/RunPodSandbox", json!({"config": config}));
    let id = made["podSandboxId"].as_str().expect("an id").to_owned();
    let status = call("RuntimeService/PodSandboxStatus", json!({"pod_sandbox_id": id}));
    assert_eq!(status["status"]["metadata"]["name"], "curl");
    call("RuntimeService/StopPodSandbox", json!({"pod_sandbox_id": id}));
    call("RuntimeService/RemovePodSandbox", json!({"pod_sandbox_id": id}));
    assert!(rig.pods(cri::PodSandboxFilter::default()).await.is_empty());
    rig.finish().await;
}
