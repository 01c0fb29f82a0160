//! Pods: lifecycle, lists, and invalid requests.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};

use crate::compare::scenarios;
use crate::facts::{answer, code, told};
use crate::rig::Rig;
use crate::support::builders::Container;

scenarios! {
    "runtime should return version info" => version,
    "runtime should return runtime conditions" => conditions,
    "runtime should return its configuration" => configuration,
    "runtime should support running PodSandbox" => running,
    "runtime should support stopping PodSandbox" => stopping,
    "runtime should support removing PodSandbox" => removing,
    "stopping and removing a PodSandbox that does not exist" => unknown_pod,
    "removing a ready PodSandbox with containers" => removing_with_containers,
    "PodSandbox requests that are wrong" => wrong_requests,
    "PodSandbox names are used once" => names,
    "listing PodSandboxes with filters" => filters,
    "runtime should support sysctls" => sysctls,
    "runtime should support hostnames" => hostnames,
    "UpdateRuntimeConfig" => update_config,
    "container events tell the life of a pod" => events,
}

async fn version(rig: Arc<Rig>) -> Value {
    let request = cri::VersionRequest { version: String::new() };
    let told = rig.runtime().version(request).await.expect("Version").into_inner();
    json!({"version": told.version, "api": told.runtime_api_version})
}

async fn conditions(rig: Arc<Rig>) -> Value {
    let request = cri::StatusRequest { verbose: true };
    let told_status = rig.runtime().status(request).await.expect("Status").into_inner();
    let status = told_status.status.expect("a status");
    let conditions = status.conditions.iter();
    let handlers: Vec<_> =
        told_status.runtime_handlers.iter().map(|it| told("RuntimeHandler", it)).collect();
    json!({
        "conditions": conditions.map(|it| (it.r#type.clone(), Value::from(it.status)))
            .collect::<serde_json::Map<_, _>>(),
        "features": told_status.features.map(|it| told("RuntimeFeatures", &it)),
        "handlers": handlers,
    })
}

async fn configuration(rig: Arc<Rig>) -> Value {
    let config = rig.runtime().runtime_config(cri::RuntimeConfigRequest {}).await;
    answer("RuntimeConfigResponse", &config)
}

async fn update_config(rig: Arc<Rig>) -> Value {
    let network = cri::NetworkConfig { pod_cidr: "10.99.0.0/24".into() };
    let config = cri::RuntimeConfig { network_config: Some(network) };
    let request = cri::UpdateRuntimeConfigRequest { runtime_config: Some(config) };
    json!({
        "with": code(&rig.runtime().update_runtime_config(request).await),
        "without": code(&rig.runtime().update_runtime_config(cri::UpdateRuntimeConfigRequest::default()).await),
    })
}

/// What is told of a pod: its status and its row in the list.
async fn seen(rig: &Rig, id: &str) -> Value {
    let status = rig.try_pod_status(id).await.map(|mut it| {
        it.info.clear();
        if let Some(network) = it.status.as_mut().and_then(|it| it.network.as_mut()) {
            network.ip = if network.ip.is_empty() { "none" } else { "some" }.into();
        }
        it.timestamp = i64::from(it.timestamp > 0);
        it
    });
    let filter = cri::PodSandboxFilter { id: id.into(), ..Default::default() };
    let rows: Vec<_> = rig.pods(filter).await.iter().map(|it| told("PodSandbox", it)).collect();
    let status = match status {
        Ok(status) => told("PodSandboxStatusResponse", &status),
        Err(e) => json!({"code": format!("{:?}", e.code())}),
    };
    json!({"status": status, "listed": rows})
}

async fn running(rig: Arc<Rig>) -> Value {
    let spec = rig.pod_spec("running").label("k", "v").annotation("a/b", "c d").attempt(2);
    let pod = rig.run(spec).await;
    seen(&rig, &pod.id).await
}

async fn stopping(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("stopping")).await;
    let container = rig.launch_waiting(&pod, "c").await;
    let first = rig.try_stop_pod(&pod.id).await;
    let stopped = seen(&rig, &pod.id).await;
    let again = rig.try_stop_pod(&pod.id).await;
    let late = rig.create(&pod, &Container::waiting("late", &rig.image)).await;
    let status = rig.status(&container).await;
    json!({
        "first": code(&first), "again": code(&again), "stopped": stopped,
        "container": status.state().as_str_name(), "code": status.exit_code,
        "reason": status.reason, "create": code(&late),
    })
}

async fn removing(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("removing")).await;
    rig.stop_pod(&pod.id).await;
    rig.remove_pod(&pod.id).await;
    let gone = seen(&rig, &pod.id).await;
    rig.remove_pod(&pod.id).await;
    json!({"gone": gone, "stop": code(&rig.try_stop_pod(&pod.id).await)})
}

async fn unknown_pod(rig: Arc<Rig>) -> Value {
    let mut found = serde_json::Map::new();
    let long = "f".repeat(64);
    for (name, id) in [("word", "nosuchpod"), ("id", long.as_str()), ("empty", "")] {
        let pod_sandbox_id = id.to_owned();
        let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        let forward =
            cri::PortForwardRequest { pod_sandbox_id: pod_sandbox_id.clone(), port: vec![80] };
        let stats = cri::PodSandboxStatsRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        let update = cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id, ..Default::default() };
        let facts = json!({
            "stop": code(&rig.try_stop_pod(id).await),
            "remove": code(&rig.runtime().remove_pod_sandbox(remove).await),
            "status": code(&rig.try_pod_status(id).await),
            "port-forward": code(&rig.runtime().port_forward(forward).await),
            "stats": code(&rig.runtime().pod_sandbox_stats(stats).await),
            "update": code(&rig.runtime().update_pod_sandbox_resources(update).await),
        });
        found.insert(name.into(), facts);
    }
    found.into()
}

async fn removing_with_containers(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("forced")).await;
    let runs = rig.launch_waiting(&pod, "runs").await;
    let created = rig.create(&pod, &Container::waiting("created", &rig.image)).await;
    rig.remove_pod(&pod.id).await;
    let filter = cri::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    json!({
        "running": code(&rig.try_status(&runs).await),
        "created": code(&rig.try_status(&created.expect("CreateContainer")).await),
        "listed": rig.containers(filter).await.len(),
    })
}

async fn wrong_requests(rig: Arc<Rig>) -> Value {
    let run = async |config: Option<cri::PodSandboxConfig>, handler: &str| {
        let request = cri::RunPodSandboxRequest { config, runtime_handler: handler.into() };
        code(&rig.runtime().run_pod_sandbox(request).await)
    };
    let whole = rig.pod_spec("wrong").config;
    let mut nameless = whole.clone();
    nameless.metadata = None;
    let mut group_alone = rig.pod_spec("wrong");
    group_alone.security().run_as_group = Some(cri::Int64Value { value: 1 });
    let mut sysctl = whole.clone();
    sysctl.linux.get_or_insert_default().sysctls.insert("no.such.thing".into(), "1".into());
    json!({
        "no config": run(None, "").await,
        "no metadata": run(Some(nameless), "").await,
        "unknown handler": run(Some(whole.clone()), "nosuchhandler").await,
        "group without user": run(Some(group_alone.config), "").await,
        "unknown sysctl": run(Some(sysctl), "").await,
        "the name is free afterwards": run(Some(whole), "").await,
    })
}

async fn names(rig: Arc<Rig>) -> Value {
    let spec = rig.pod_spec("twice");
    let pod = rig.run(spec.clone()).await;
    let second = rig.try_run(&spec.clone().attempt(1)).await;
    rig.stop_pod(&pod.id).await;
    rig.remove_pod(&pod.id).await;
    let again = rig.try_run(&spec).await;
    json!({"next attempt": code(&second), "after removal": code(&again)})
}

async fn filters(rig: Arc<Rig>) -> Value {
    let one = rig.run(rig.pod_spec("filter-1").label("set", "a").label("n", "1")).await;
    let two = rig.run(rig.pod_spec("filter-2").label("set", "a").label("n", "2")).await;
    rig.stop_pod(&two.id).await;
    let listed = async |filter: cri::PodSandboxFilter| {
        let mut names: Vec<_> = (rig.pods(filter).await.into_iter())
            .filter_map(|it| it.metadata)
            .map(|it| it.name)
            .filter(|name| name.starts_with("filter-"))
            .collect();
        names.sort();
        names
    };
    let by = |labels: &[(&str, &str)], state: Option<cri::PodSandboxState>| cri::PodSandboxFilter {
        label_selector: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        state: state.map(|state| cri::PodSandboxStateValue { state: state.into() }),
        ..Default::default()
    };
    let id = |id: &str| cri::PodSandboxFilter { id: id.into(), ..Default::default() };
    use cri::PodSandboxState::{SandboxNotready, SandboxReady};
    json!({
        "all": listed(Default::default()).await,
        "ready": listed(by(&[], Some(SandboxReady))).await,
        "not ready": listed(by(&[], Some(SandboxNotready))).await,
        "label": listed(by(&[("set", "a")], None)).await,
        "labels": listed(by(&[("set", "a"), ("n", "2")], None)).await,
        "label and state": listed(by(&[("n", "2")], Some(SandboxReady))).await,
        "no such label": listed(by(&[("set", "b")], None)).await,
        "id": listed(id(&one.id)).await,
        "start of an id": listed(id(&one.id[..20])).await,
        "no such id": listed(id("nosuchpod")).await,
    })
}

async fn sysctls(rig: Arc<Rig>) -> Value {
    let spec = rig.pod_spec("sysctls");
    let spec = spec.sysctl("kernel.shm_rmid_forced", "1").sysctl("net.ipv4.ip_forward", "0");
    let pod = match rig.try_run(&spec).await {
        Ok(id) => crate::rig::LivePod { spec, id },
        Err(e) => return json!({"code": format!("{:?}", e.code())}),
    };
    let id = rig.launch_waiting(&pod, "c").await;
    let script = "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_forward \
                  /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
    json!(rig.exec(&id, script).await)
}

async fn hostnames(rig: Arc<Rig>) -> Value {
    let mut found = Vec::new();
    for (name, hostname) in [("named", "some-host"), ("unnamed", ""), ("dots", "a.b.c")] {
        let mut spec = rig.pod_spec(&format!("hostname-{name}"));
        spec.config.hostname = hostname.into();
        let pod = rig.run(spec).await;
        let id = rig.launch_waiting(&pod, "c").await;
        let own = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let told = rig.exec(&id, "hostname; cat /etc/hostname; echo HOSTNAME=$HOSTNAME").await;
        found.push(told.replace(own.trim(), "<host>"));
    }
    json!(found)
}

/// A pod's container exits by itself, the pod is stopped and removed: kinds of events in order,
/// with the states that they carry.
async fn events(rig: Arc<Rig>) -> Value {
    let stream = rig.runtime().get_container_events(cri::GetEventsRequest {}).await;
    let mut stream = stream.expect("GetContainerEvents").into_inner();
    let pod = rig.run(rig.pod_spec("events")).await;
    let id = rig.launch(&pod, &Container::script("c", &rig.image, "exit 3")).await;
    rig.ended(&id).await;
    rig.stop_pod(&pod.id).await;
    let request = cri::RemoveContainerRequest { container_id: id.clone() };
    rig.runtime().remove_container(request).await.expect("RemoveContainer");
    rig.remove_pod(&pod.id).await;
    let mut seen = Vec::new();
    let ended = async {
        while let Some(event) = stream.message().await.expect("an event") {
            let own = event.pod_sandbox_status.as_ref().is_some_and(|it| it.id == pod.id);
            if !own && event.container_id != pod.id && event.container_id != id {
                continue;
            }
            let who = if event.container_id == pod.id { "pod" } else { "container" };
            let pod_state = event.pod_sandbox_status.as_ref().map(|it| it.state().as_str_name());
            let states: Vec<_> =
                event.containers_statuses.iter().map(|it| it.state().as_str_name()).collect();
            let kind = event.container_event_type();
            let last = who == "pod" && kind == cri::ContainerEventType::ContainerDeletedEvent;
            seen.push(json!({
                "who": who, "kind": kind.as_str_name(), "pod": pod_state, "containers": states,
                "timed": event.created_at > 0,
            }));
            if last {
                break;
            }
        }
    };
    let whole = tokio::time::timeout(crate::rig::SOON, ended).await.is_ok();
    json!({"seen": seen, "whole": whole})
}
