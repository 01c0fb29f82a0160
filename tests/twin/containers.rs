//! Containers: lifecycle, lists, and invalid requests.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};

use crate::compare::scenarios;
use crate::facts::{answer, code, told};
use crate::rig::{LivePod, Rig};
use crate::support::builders::Container;

scenarios! {
    "runtime should support creating container" => creating,
    "runtime should support starting container" => starting,
    "runtime should support stopping container" => stopping,
    "runtime should support removing created container" => removing_created,
    "runtime should support removing running container" => removing_running,
    "runtime should support removing stopped container" => removing_stopped,
    "stopping and removing is idempotent; unknown containers" => unknown_containers,
    "calls in the wrong state" => wrong_state,
    "CreateContainer requests that are wrong" => wrong_creates,
    "container names are used once" => names,
    "runtime should support listing container stats and containers with filters" => filters,
    "multiple containers in a pod" => multiple,
    "runtime should support updating resources" => updating,
    "UpdateContainerResources requests that are wrong" => wrong_updates,
}

pub async fn seen(rig: &Rig, id: &str) -> Value {
    let status = match rig.try_status(id).await {
        Ok(mut status) => {
            status.info.clear();
            if let Some(status) = &mut status.status {
                // Which moments are told, not when they were.
                status.started_at = i64::from(status.started_at > 0);
                status.finished_at = i64::from(status.finished_at > 0);
                status.message = if status.message.is_empty() { "" } else { "some" }.into();
            }
            told("ContainerStatusResponse", &status)
        }
        Err(e) => json!({"code": format!("{:?}", e.code())}),
    };
    let filter = cri::ContainerFilter { id: id.into(), ..Default::default() };
    let rows = rig.containers(filter).await;
    let rows: Vec<_> = rows.iter().map(|it| told("Container", it)).collect();
    json!({"status": status, "listed": rows})
}

pub async fn pod(rig: &Rig, name: &str) -> LivePod {
    rig.run(rig.pod_spec(name)).await
}

async fn creating(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "creating").await;
    let mut spec = Container::waiting("c", &rig.image).label("k", "v").attempt(3);
    spec.config.annotations.insert("x/y".into(), "z".into());
    let spec = spec.memory_limit(64 << 20);
    let id = rig.create(&pod, &spec).await.expect("CreateContainer");
    seen(&rig, &id).await
}

async fn starting(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "starting").await;
    let host = rig.env().file("starting-volume");
    std::fs::create_dir_all(&host).expect("a folder");
    let spec = Container::waiting("c", &rig.image).env("A", "b").mount(
        &host.display().to_string(),
        "/data",
        true,
    );
    let mut spec = spec.memory_limit(64 << 20);
    (spec.resources().cpu_period, spec.resources().cpu_quota) = (100_000, 50_000);
    spec.resources().cpu_shares = 512;
    spec.security().run_as_user = Some(cri::Int64Value { value: 1000 });
    spec.security().supplemental_groups = vec![77];
    let id = rig.launch(&pod, &spec).await;
    seen(&rig, &id).await
}

/// Waits until the shell has set its trap for SIGTERM; before, the signal may even meet the OCI
/// runtime's own first process.
async fn heeds_or_ignores(rig: &Rig, id: &str, mask: &str) {
    let script =
        format!("until grep -q '^{mask}:.*[4-7c-f]...$' /proc/1/status; do sleep 0.1; done");
    rig.exec(id, &script).await;
}

async fn stopping(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "stopping-container").await;
    let graceful = rig.launch_waiting(&pod, "graceful").await;
    heeds_or_ignores(&rig, &graceful, "SigCgt").await;
    rig.stop(&graceful, 20).await;
    let deaf = Container::script("deaf", &rig.image, "trap '' TERM; while :; do sleep 1; done");
    let deaf = rig.launch(&pod, &deaf).await;
    heeds_or_ignores(&rig, &deaf, "SigIgn").await;
    rig.stop(&deaf, 1).await;
    let plain =
        rig.launch(&pod, &Container::new("plain", &rig.image).command(&["sleep", "999"])).await;
    rig.stop(&plain, 0).await;
    let created = Container::waiting("created", &rig.image);
    let created = rig.create(&pod, &created).await.expect("CreateContainer");
    let request = cri::StopContainerRequest { container_id: created.clone(), timeout: 1 };
    let stopped = rig.runtime().stop_container(request).await;
    json!({
        "graceful": seen(&rig, &graceful).await, "deaf": seen(&rig, &deaf).await,
        "plain": seen(&rig, &plain).await,
        "stop of created": code(&stopped), "created": seen(&rig, &created).await,
    })
}

pub async fn remove(rig: &Rig, id: &str) -> Value {
    let request = cri::RemoveContainerRequest { container_id: id.into() };
    let first = rig.runtime().remove_container(request.clone()).await;
    let again = rig.runtime().remove_container(request).await;
    json!({"first": code(&first), "again": code(&again), "seen": seen(rig, id).await})
}

async fn removing_created(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "removing-created").await;
    let id = rig.create(&pod, &Container::waiting("c", &rig.image)).await.expect("created");
    remove(&rig, &id).await
}

async fn removing_running(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "removing-running").await;
    let id = rig.launch_waiting(&pod, "c").await;
    remove(&rig, &id).await
}

async fn removing_stopped(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "removing-stopped").await;
    let id = rig.launch_waiting(&pod, "c").await;
    rig.stop(&id, 5).await;
    rig.stop(&id, 5).await;
    let log = pod.spec.config.log_directory.clone() + "/c.log";
    let removed = remove(&rig, &id).await;
    json!({"removed": removed, "log is kept": std::path::Path::new(&log).exists()})
}

async fn unknown_containers(rig: Arc<Rig>) -> Value {
    let mut found = serde_json::Map::new();
    let long = "e".repeat(64);
    for (name, id) in [("word", "nosuch"), ("id", long.as_str()), ("empty", "")] {
        let container_id = id.to_owned();
        let mut rt = rig.runtime();
        let stop = cri::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        let remove = cri::RemoveContainerRequest { container_id: container_id.clone() };
        let reopen = cri::ReopenContainerLogRequest { container_id: container_id.clone() };
        let stats = cri::ContainerStatsRequest { container_id: container_id.clone() };
        let exec = cri::ExecRequest {
            container_id: container_id.clone(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        let attach = cri::AttachRequest {
            container_id: container_id.clone(),
            stdout: true,
            ..Default::default()
        };
        let checkpoint = cri::CheckpointContainerRequest {
            container_id: container_id.clone(),
            location: "/tmp/none.tar".into(),
            ..Default::default()
        };
        let update = cri::UpdateContainerResourcesRequest {
            container_id,
            linux: Some(cri::LinuxContainerResources { cpu_shares: 10, ..Default::default() }),
            ..Default::default()
        };
        found.insert(
            name.into(),
            json!({
                "stop": code(&rt.stop_container(stop).await),
                "remove": code(&rt.remove_container(remove).await),
                "status": code(&rig.try_status(id).await),
                "start": code(&rig.start_created(id).await),
                "exec sync": code(&rig.try_exec(id, &["true"], 5).await),
                "reopen": code(&rt.reopen_container_log(reopen).await),
                "stats": code(&rt.container_stats(stats).await),
                "exec": code(&rt.exec(exec).await),
                "attach": code(&rt.attach(attach).await),
                "checkpoint": code(&rt.checkpoint_container(checkpoint).await),
                "update": code(&rt.update_container_resources(update).await),
            }),
        );
    }
    found.into()
}

async fn wrong_state(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "wrong-state").await;
    let created =
        rig.create(&pod, &Container::waiting("created", &rig.image)).await.expect("created");
    let runs = rig.launch_waiting(&pod, "runs").await;
    let ended = rig.run_to_end(&pod, &Container::script("ended", &rig.image, "true")).await.id;
    let mut found = serde_json::Map::new();
    for (name, id) in [("created", &created), ("running", &runs), ("exited", &ended)] {
        let mut rt = rig.runtime();
        let exec = cri::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        let none = cri::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".into()],
            ..Default::default()
        };
        let both = cri::ExecRequest { tty: true, stderr: true, ..exec.clone() };
        let attach =
            cri::AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() };
        let wrong = cri::AttachRequest { tty: true, ..attach.clone() };
        let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
        let mut facts = json!({
            "exec sync": code(&rig.try_exec(id, &["true"], 5).await),
            "exec sync of nothing": code(&rig.try_exec(id, &[], 5).await),
            "exec": code(&rt.exec(exec).await),
            "exec without streams": code(&rt.exec(none).await),
            "exec with tty and stderr": code(&rt.exec(both).await),
            "attach": code(&rt.attach(attach).await),
            "attach with a wrong tty": code(&rt.attach(wrong).await),
            "reopen": code(&rt.reopen_container_log(reopen).await),
        });
        if name != "created" {
            facts["start"] = code(&rig.start_created(id).await);
        }
        found.insert(name.into(), facts);
    }
    rig.stop_pod(&pod.id).await;
    found.insert("start in a stopped pod".into(), code(&rig.start_created(&created).await));
    found.into()
}

async fn wrong_creates(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "wrong-creates").await;
    let create = async |change: &dyn Fn(&mut cri::CreateContainerRequest)| {
        let mut request = Container::waiting("c", &rig.image).create(&pod.spec, &pod.id);
        change(&mut request);
        let answer = rig.runtime().create_container(request).await;
        if let Ok(answer) = &answer {
            rig.remove(&answer.get_ref().container_id).await;
        }
        code(&answer)
    };
    fn config(it: &mut cri::CreateContainerRequest) -> &mut cri::ContainerConfig {
        it.config.as_mut().expect("a config")
    }
    json!({
        "nothing": create(&|it| *it = cri::CreateContainerRequest::default()).await,
        "no config": create(&|it| it.config = None).await,
        "no pod config": create(&|it| it.sandbox_config = None).await,
        "unknown pod": create(&|it| it.pod_sandbox_id = "nosuch".into()).await,
        "no metadata": create(&|it| config(it).metadata = None).await,
        "no image": create(&|it| config(it).image = None).await,
        "unknown image": create(&|it| config(it).image = Some(crate::rig::image_spec("localhost/none:1"))).await,
        "no linux": create(&|it| config(it).linux = None).await,
        "privileged in a pod that is not": create(&|it| {
            config(it).linux.as_mut().expect("linux").security_context.as_mut().expect("security").privileged = true;
        }).await,
        "group without user": create(&|it| {
            let linux = config(it).linux.as_mut().expect("linux");
            linux.security_context.as_mut().expect("security").run_as_group = Some(cri::Int64Value { value: 5 });
        }).await,
        "unknown user name": create(&|it| {
            let linux = config(it).linux.as_mut().expect("linux");
            linux.security_context.as_mut().expect("security").run_as_username = "nobodyhere".into();
        }).await,
        "mount without a container path": create(&|it| config(it).mounts.push(cri::Mount {
            host_path: "/tmp".into(), ..Default::default()
        })).await,
        "unknown capability": create(&|it| {
            let linux = config(it).linux.as_mut().expect("linux");
            let capability = cri::Capability { add_capabilities: vec!["NO_SUCH".into()], ..Default::default() };
            linux.security_context.as_mut().expect("security").capabilities = Some(capability);
        }).await,
        "unknown device": create(&|it| config(it).devices.push(cri::Device {
            container_path: "/dev/x".into(), host_path: "/dev/nosuch".into(), permissions: "rwm".into(),
        })).await,
        "all is well": create(&|_| {}).await,
    })
}

async fn names(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "names").await;
    let spec = Container::waiting("c", &rig.image);
    let first = rig.create(&pod, &spec).await.expect("CreateContainer");
    let next = rig.create(&pod, &spec.clone().attempt(1)).await;
    rig.remove(&first).await;
    json!({"next attempt": code(&next), "after removal": code(&rig.create(&pod, &spec).await)})
}

async fn filters(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "container-filters").await;
    let one = Container::waiting("f-one", &rig.image).label("set", "x").label("n", "1");
    let one = rig.launch(&pod, &one).await;
    let two = Container::waiting("f-two", &rig.image).label("set", "x").label("n", "2");
    rig.create(&pod, &two).await.expect("CreateContainer");
    rig.run_to_end(&pod, &Container::script("f-ended", &rig.image, "true").label("set", "x")).await;
    use cri::ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    let by = |pod: &str, labels: &[(&str, &str)], state: Option<cri::ContainerState>| {
        cri::ContainerFilter {
            pod_sandbox_id: pod.into(),
            label_selector: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            state: state.map(|state| cri::ContainerStateValue { state: state.into() }),
            ..Default::default()
        }
    };
    let id = |id: &str| cri::ContainerFilter { id: id.into(), ..Default::default() };
    let mut found = serde_json::Map::new();
    for (name, filter) in [
        ("pod", by(&pod.id, &[], None)),
        ("start of the pod's id", by(&pod.id[..16], &[], None)),
        ("unknown pod", by("nosuch", &[], None)),
        ("created", by(&pod.id, &[], Some(ContainerCreated))),
        ("running", by(&pod.id, &[], Some(ContainerRunning))),
        ("exited", by(&pod.id, &[], Some(ContainerExited))),
        ("label", by("", &[("set", "x")], None)),
        ("labels", by("", &[("set", "x"), ("n", "2")], None)),
        ("other label", by(&pod.id, &[("set", "y")], None)),
        ("id", id(&one)),
        ("start of an id", id(&one[..20])),
        ("unknown id", id("nosuch")),
    ] {
        let stats_filter = cri::ContainerStatsFilter {
            id: filter.id.clone(),
            pod_sandbox_id: filter.pod_sandbox_id.clone(),
            label_selector: filter.label_selector.clone(),
        };
        let mut names: Vec<_> = (rig.containers(filter).await.into_iter())
            .filter_map(|it| it.metadata)
            .map(|it| it.name)
            .collect();
        names.sort();
        let request = cri::ListContainerStatsRequest { filter: Some(stats_filter) };
        let stats =
            rig.runtime().list_container_stats(request).await.expect("stats").into_inner().stats;
        let mut measured: Vec<_> =
            stats.into_iter().filter_map(|it| it.attributes?.metadata).map(|it| it.name).collect();
        measured.sort();
        found.insert(name.into(), json!({"listed": names, "measured": measured}));
    }
    found.into()
}

async fn multiple(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "multiple").await;
    let one = rig.launch_waiting(&pod, "one").await;
    let script = "echo from two; trap 'exit 0' TERM; httpd -f -p 127.0.0.1:8099 & wait";
    let two = rig.launch(&pod, &Container::script("two", &rig.image, script)).await;
    let fetch = ["wget", "-q", "-O-", "http://127.0.0.1:8099/etc/passwd"];
    crate::support::wait_until(crate::rig::SOON, "the other container answers", async || {
        rig.try_exec(&one, &fetch, 5).await.is_ok_and(|done| done.exit_code == 0)
    })
    .await;
    let shared = rig.exec(&one, "hostname; touch /dev/shm/shared").await;
    let there = rig.exec(&two, "ls /dev/shm").await;
    json!({"hostname": shared, "shm": there, "one": seen(&rig, &one).await, "two": seen(&rig, &two).await})
}

async fn updating(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "updating").await;
    let mut spec = Container::waiting("c", &rig.image).memory_limit(64 << 20);
    (spec.resources().cpu_period, spec.resources().cpu_quota) = (100_000, 50_000);
    let mut found = serde_json::Map::new();
    for (state, name) in [("created", "u1"), ("running", "u2"), ("exited", "u3")] {
        let mut spec = spec.clone();
        spec.config.metadata.as_mut().expect("metadata").name = name.into();
        let id = rig.create(&pod, &spec).await.expect("CreateContainer");
        if state != "created" {
            rig.start_created(&id).await.expect("StartContainer");
        }
        if state == "exited" {
            rig.stop(&id, 5).await;
        }
        let linux = cri::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            cpu_quota: 70_000,
            cpu_shares: 300,
            ..Default::default()
        };
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            ..Default::default()
        };
        let updated = rig.runtime().update_container_resources(request).await;
        found.insert(
            state.into(),
            json!({"updated": code(&updated), "seen": seen(&rig, &id).await}),
        );
    }
    found.into()
}

async fn wrong_updates(rig: Arc<Rig>) -> Value {
    let pod = pod(&rig, "wrong-updates").await;
    let id = rig.launch_waiting(&pod, "c").await;
    let update = async |linux: Option<cri::LinuxContainerResources>| {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux,
            ..Default::default()
        };
        answer(
            "UpdateContainerResourcesResponse",
            &rig.runtime().update_container_resources(request).await,
        )
    };
    json!({
        "nothing": update(None).await,
        "empty": update(Some(Default::default())).await,
        "one cpu that is not there": update(Some(cri::LinuxContainerResources {
            cpuset_cpus: "4000".into(), ..Default::default()
        })).await,
    })
}
