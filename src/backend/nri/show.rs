//! Converts pods and containers to NRI messages.

use std::collections::BTreeMap;

use serde_json::Value;

use super::limits::{from_cri, from_oci};
use super::proto::{
    CdiDevice, Container, ContainerState, Hook, Hooks, Image, IoPrioClass, LinuxContainer,
    LinuxDevice, LinuxIoPriority, LinuxNamespace, LinuxNetDevice, LinuxPodSandbox, LinuxRdt,
    LinuxScheduler, LinuxSchedulerFlag, LinuxSchedulerPolicy, LinuxSeccomp, LinuxSeccompArg,
    LinuxSyscall, Mount, OptionalBool, OptionalFileMode, OptionalInt, OptionalRepeatedString,
    OptionalString, OptionalUInt32, PodSandbox, PosixRlimit, SecurityProfile, User,
    security_profile::ProfileType,
};
use crate::backend::{HookedContainer, HookedPod, Stage};
use crate::ids::PodId;
use crate::model::StringMap;
use crate::model::security;

/// A pod.
pub(super) fn pod(pod: &HookedPod) -> PodSandbox {
    let (config, spec) = (&pod.config, &pod.spec);
    let mut annotations = config.annotations.clone();
    annotations.extend(texts(&spec["annotations"]));
    PodSandbox {
        id: pod.id.to_string(),
        name: config.metadata.name.clone(),
        uid: config.metadata.uid.clone(),
        namespace: config.metadata.namespace.clone(),
        labels: config.labels.clone(),
        annotations,
        runtime_handler: pod.handler.clone(),
        linux: Some(LinuxPodSandbox {
            pod_overhead: pod.overhead.as_ref().map(from_cri),
            pod_resources: pod.resources.as_ref().map(from_cri),
            cgroup_parent: config.cgroup_parent.clone(),
            cgroups_path: text(&spec["linux"]["cgroupsPath"]),
            namespaces: namespaces(spec),
            resources: from_oci(&spec["linux"]["resources"]),
        }),
        pid: pod.pid,
        ips: pod.ips.iter().map(ToString::to_string).collect(),
    }
}

/// A container of a pod.
pub(super) fn container(pod: &PodId, shown: &HookedContainer) -> Container {
    let (config, spec) = (&shown.config, &shown.spec);
    let with = |mut map: StringMap, wins: &StringMap| {
        map.extend(wins.iter().map(|(key, value)| (key.clone(), value.clone())));
        map
    };
    let process = &spec["process"];
    let container = Container {
        id: shown.id.to_string(),
        pod_sandbox_id: pod.to_string(),
        name: config.metadata.name.clone(),
        labels: with(shown.labels.clone(), &config.labels),
        annotations: with(texts(&spec["annotations"]), &config.annotations),
        args: list(&process["args"], text),
        env: list(&process["env"], text),
        mounts: list(&spec["mounts"], mount),
        hooks: spec["hooks"].is_object().then(|| hooks(&spec["hooks"])),
        linux: Some(linux(shown)),
        rlimits: list(&process["rlimits"], rlimit),
        created_at: shown.created_at,
        cdi_devices: config
            .cdi_devices
            .iter()
            .map(|name| CdiDevice { name: name.clone() })
            .collect(),
        user: process["user"].is_object().then(|| user(&process["user"])),
        image: Some(Image {
            name: shown.image.name.clone(),
            digest: shown.image.digest.clone(),
            config_digest: shown.image.config_digest.clone(),
        }),
        ..Container::default()
    };
    with_stage(container, &shown.stage)
}

fn with_stage(container: Container, stage: &Stage) -> Container {
    let state = |state: ContainerState| state as i32;
    match stage {
        Stage::Created => Container { state: state(ContainerState::ContainerCreated), ..container },
        Stage::Running { started_at, pid } => Container {
            // While it is being started it still counts as created.
            state: state(match started_at {
                Some(_) => ContainerState::ContainerRunning,
                None => ContainerState::ContainerCreated,
            }),
            started_at: started_at.unwrap_or_default(),
            pid: *pid,
            ..container
        },
        Stage::Stopped { started_at, finished_at, code, reason, message } => Container {
            state: state(ContainerState::ContainerStopped),
            started_at: started_at.unwrap_or_default(),
            finished_at: *finished_at,
            exit_code: *code,
            status_reason: reason.clone(),
            status_message: message.clone(),
            ..container
        },
        Stage::Unknown => Container { state: state(ContainerState::ContainerUnknown), ..container },
    }
}

fn linux(shown: &HookedContainer) -> LinuxContainer {
    let (linux, process) = (&shown.spec["linux"], &shown.spec["process"]);
    LinuxContainer {
        namespaces: namespaces(&shown.spec),
        devices: list(&linux["devices"], device),
        resources: from_oci(&linux["resources"]),
        oom_score_adj: process["oomScoreAdj"].as_i64().map(|value| OptionalInt { value }),
        cgroups_path: text(&linux["cgroupsPath"]),
        io_priority: process["ioPriority"].is_object().then(|| io_priority(&process["ioPriority"])),
        seccomp_profile: shown.config.security.seccomp.as_ref().map(profile),
        seccomp_policy: linux["seccomp"].is_object().then(|| seccomp(&linux["seccomp"])),
        sysctl: texts(&linux["sysctl"]),
        net_devices: net_devices(&linux["netDevices"]),
        scheduler: process["scheduler"].is_object().then(|| scheduler(&process["scheduler"])),
        rdt: linux["intelRdt"].is_object().then(|| rdt(&linux["intelRdt"])),
    }
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A JSON object of texts as a map.
pub(super) fn texts(value: &Value) -> StringMap {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().into_iter().flatten().map(item).collect()
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|value| u32::try_from(value).ok())
}

fn namespaces(spec: &Value) -> Vec<LinuxNamespace> {
    list(&spec["linux"]["namespaces"], |one| LinuxNamespace {
        r#type: text(&one["type"]),
        path: text(&one["path"]),
    })
}

fn mount(mount: &Value) -> Mount {
    Mount {
        destination: text(&mount["destination"]),
        r#type: text(&mount["type"]),
        source: text(&mount["source"]),
        options: list(&mount["options"], text),
    }
}

fn hooks(hooks: &Value) -> Hooks {
    let of = |name: &str| list(&hooks[name], hook);
    Hooks {
        prestart: of("prestart"),
        create_runtime: of("createRuntime"),
        create_container: of("createContainer"),
        start_container: of("startContainer"),
        poststart: of("poststart"),
        poststop: of("poststop"),
    }
}

fn hook(hook: &Value) -> Hook {
    Hook {
        path: text(&hook["path"]),
        args: list(&hook["args"], text),
        env: list(&hook["env"], text),
        timeout: hook["timeout"].as_i64().map(|value| OptionalInt { value }),
    }
}

fn device(device: &Value) -> LinuxDevice {
    let id = |value: &Value| number(value).map(|value| OptionalUInt32 { value });
    LinuxDevice {
        path: text(&device["path"]),
        r#type: text(&device["type"]),
        major: device["major"].as_i64().unwrap_or_default(),
        minor: device["minor"].as_i64().unwrap_or_default(),
        file_mode: number(&device["fileMode"]).map(|value| OptionalFileMode { value }),
        uid: id(&device["uid"]),
        gid: id(&device["gid"]),
    }
}

fn rlimit(limit: &Value) -> PosixRlimit {
    PosixRlimit {
        r#type: text(&limit["type"]),
        hard: limit["hard"].as_u64().unwrap_or_default(),
        soft: limit["soft"].as_u64().unwrap_or_default(),
    }
}

fn user(user: &Value) -> User {
    User {
        uid: number(&user["uid"]).unwrap_or_default(),
        gid: number(&user["gid"]).unwrap_or_default(),
        additional_gids: list(&user["additionalGids"], |gid| number(gid).unwrap_or_default()),
    }
}

fn profile(profile: &security::SecurityProfile) -> SecurityProfile {
    let (kind, path) = match profile {
        security::SecurityProfile::RuntimeDefault => (ProfileType::RuntimeDefault, ""),
        security::SecurityProfile::Unconfined => (ProfileType::Unconfined, ""),
        security::SecurityProfile::Localhost(path) => (ProfileType::Localhost, path.as_str()),
    };
    SecurityProfile { profile_type: kind as i32, localhost_ref: path.to_owned() }
}

fn seccomp(policy: &Value) -> LinuxSeccomp {
    let errno = |value: &Value| number(value).map(|value| OptionalUInt32 { value });
    LinuxSeccomp {
        default_action: text(&policy["defaultAction"]),
        default_errno: errno(&policy["defaultErrnoRet"]),
        architectures: list(&policy["architectures"], text),
        flags: list(&policy["flags"], text),
        listener_path: text(&policy["listenerPath"]),
        listener_metadata: text(&policy["listenerMetadata"]),
        syscalls: list(&policy["syscalls"], |rule| LinuxSyscall {
            names: list(&rule["names"], text),
            action: text(&rule["action"]),
            errno_ret: errno(&rule["errnoRet"]),
            args: list(&rule["args"], |arg| LinuxSeccompArg {
                index: number(&arg["index"]).unwrap_or_default(),
                value: arg["value"].as_u64().unwrap_or_default(),
                value_two: arg["valueTwo"].as_u64().unwrap_or_default(),
                op: text(&arg["op"]),
            }),
        }),
    }
}

fn io_priority(priority: &Value) -> LinuxIoPriority {
    let class = IoPrioClass::from_str_name(&text(&priority["class"])).unwrap_or_default();
    let priority = priority["priority"].as_i64().and_then(|value| i32::try_from(value).ok());
    LinuxIoPriority { class: class as i32, priority: priority.unwrap_or_default() }
}

fn scheduler(scheduler: &Value) -> LinuxScheduler {
    let signed = |name: &str| {
        scheduler[name].as_i64().and_then(|value| i32::try_from(value).ok()).unwrap_or_default()
    };
    let unsigned = |name: &str| scheduler[name].as_u64().unwrap_or_default();
    let policy = LinuxSchedulerPolicy::from_str_name(&text(&scheduler["policy"]));
    let flag = |flag: &Value| LinuxSchedulerFlag::from_str_name(&text(flag));
    LinuxScheduler {
        policy: policy.unwrap_or_default() as i32,
        nice: signed("nice"),
        priority: signed("priority"),
        flags: list(&scheduler["flags"], flag).into_iter().flatten().map(|f| f as i32).collect(),
        runtime: unsigned("runtime"),
        deadline: unsigned("deadline"),
        period: unsigned("period"),
    }
}

fn rdt(rdt: &Value) -> LinuxRdt {
    LinuxRdt {
        clos_id: rdt["closID"].as_str().map(|id| OptionalString { value: id.to_owned() }),
        schemata: rdt["schemata"]
            .is_array()
            .then(|| OptionalRepeatedString { value: list(&rdt["schemata"], text) }),
        enable_monitoring: rdt["enableMonitoring"].as_bool().map(|value| OptionalBool { value }),
        remove: false,
    }
}

fn net_devices(devices: &Value) -> BTreeMap<String, LinuxNetDevice> {
    let entries = devices.as_object().into_iter().flatten();
    let device = |value: &Value| LinuxNetDevice { name: text(&value["name"]) };
    entries.map(|(key, value)| (key.clone(), device(value))).collect()
}
