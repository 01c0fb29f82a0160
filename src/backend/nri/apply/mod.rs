//! Applies plugins' adjustments of a new container to its OCI spec.
//!
//! The spec is handled as JSON, so that everything an adjustment does not name is preserved,
//! including fields without a type in this version.

mod limits;

use serde_json::{Map, Value, json};

use super::merge::removal;
use super::proto::{
    ContainerAdjustment, Hook, Hooks, IoPrioClass, KeyValue, LinuxContainerAdjustment, LinuxDevice,
    LinuxMemoryPolicy, LinuxNamespace, LinuxScheduler, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    LinuxSeccomp, Mount, MpolFlag, MpolMode, PosixRlimit,
};
use crate::backend::Adjusted;

pub use limits::Limits;
use limits::{rdt, resources};

/// An adjustment that cannot be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(super) struct Unusable {
    field: String,
    problem: String,
}

fn unusable(field: impl Into<String>, problem: impl Into<String>) -> Unusable {
    Unusable { field: field.into(), problem: problem.into() }
}

/// Applies an adjustment to a spec.
pub(super) fn apply(
    mut spec: Value,
    adjust: ContainerAdjustment,
    limits: Limits,
) -> Result<Adjusted, Unusable> {
    let root = object(&mut spec);
    for (key, value) in adjust.annotations {
        set_text(member(root, "annotations"), key, value);
    }
    drop_empty(root, "annotations");
    let process = member(root, "process");
    env(process, adjust.env)?;
    if !adjust.args.is_empty() {
        adjust.args.iter().try_for_each(|arg| no_nul("args", arg))?;
        process.insert("args".to_owned(), json!(adjust.args));
    }
    rlimits(process, adjust.rlimits)?;
    if let Some(wanted) = adjust.hooks {
        hooks(member(root, "hooks"), wanted);
    }
    if let Some(wanted) = adjust.linux {
        linux(root, wanted, limits)?;
    }
    let relabel = mounts(root, adjust.mounts)?;
    let cdi_devices = adjust.cdi_devices.into_iter().map(|device| device.name).collect();
    Ok(Adjusted { spec, cdi_devices, relabel })
}

/// Converts `value` to an object unless it is one.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("an object since the line above")
}

fn member<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    object(map.entry(name).or_insert(Value::Null))
}

fn items<'a>(map: &'a mut Map<String, Value>, name: &str) -> &'a mut Vec<Value> {
    let list = map.entry(name).or_insert(Value::Null);
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    list.as_array_mut().expect("a list since the line above")
}

/// Removes an object that is still empty.
fn drop_empty(map: &mut Map<String, Value>, name: &str) {
    if map.get(name).and_then(Value::as_object).is_some_and(Map::is_empty) {
        map.remove(name);
    }
}

/// Sets an entry, or removes it if its key is marked for removal.
fn set_text(map: &mut Map<String, Value>, key: String, value: String) {
    match removal(&key) {
        Some(key) => map.remove(key),
        None => map.insert(key, Value::String(value)),
    };
}

fn no_nul(field: &str, text: &str) -> Result<(), Unusable> {
    if text.contains('\0') { Err(unusable(field, "contains a NUL")) } else { Ok(()) }
}

fn env(process: &mut Map<String, Value>, wanted: Vec<KeyValue>) -> Result<(), Unusable> {
    if wanted.is_empty() {
        return Ok(());
    }
    let list = items(process, "env");
    for KeyValue { key, value } in wanted {
        let name = removal(&key).unwrap_or(&key);
        if name.is_empty() || name.contains('=') {
            return Err(unusable(format!("env[{key:?}]"), "is not a variable name"));
        }
        no_nul("env", &key)?;
        no_nul(&format!("env[{key:?}]"), &value)?;
        let is_this = |old: &Value| {
            old.as_str().is_some_and(|old| old.split_once('=').map_or(old, |kv| kv.0) == name)
        };
        let place = list.iter().position(&is_this);
        match (removal(&key), place) {
            (Some(_), _) => list.retain(|old| !is_this(old)),
            (None, Some(place)) => list[place] = json!(format!("{key}={value}")),
            (None, None) => list.push(json!(format!("{key}={value}"))),
        }
    }
    Ok(())
}

fn rlimits(process: &mut Map<String, Value>, wanted: Vec<PosixRlimit>) -> Result<(), Unusable> {
    for limit in wanted {
        let kind = limit.r#type;
        let known = kind.starts_with("RLIMIT_")
            && kind.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
        if !known || limit.soft > limit.hard {
            let problem = "must be an RLIMIT_… with a soft limit of at most the hard one";
            return Err(unusable(format!("rlimits[{kind:?}]"), problem));
        }
        let list = items(process, "rlimits");
        list.retain(|old| old["type"] != *kind);
        list.push(json!({ "type": kind, "hard": limit.hard, "soft": limit.soft }));
    }
    Ok(())
}

fn hooks(into: &mut Map<String, Value>, wanted: Hooks) {
    for (name, hooks) in [
        ("prestart", wanted.prestart),
        ("createRuntime", wanted.create_runtime),
        ("createContainer", wanted.create_container),
        ("startContainer", wanted.start_container),
        ("poststart", wanted.poststart),
        ("poststop", wanted.poststop),
    ] {
        if !hooks.is_empty() {
            items(into, name).extend(hooks.into_iter().map(hook));
        }
    }
}

fn hook(hook: Hook) -> Value {
    let mut out = Map::new();
    out.insert("path".to_owned(), json!(hook.path));
    for (name, list) in [("args", hook.args), ("env", hook.env)] {
        if !list.is_empty() {
            out.insert(name.to_owned(), json!(list));
        }
    }
    if let Some(timeout) = hook.timeout {
        out.insert("timeout".to_owned(), json!(timeout.value));
    }
    Value::Object(out)
}

fn linux(
    root: &mut Map<String, Value>,
    wanted: LinuxContainerAdjustment,
    limits: Limits,
) -> Result<(), Unusable> {
    let process = member(root, "process");
    if let Some(score) = wanted.oom_score_adj {
        if !(-1000..=1000).contains(&score.value) {
            let problem = format!("{} is not between -1000 and 1000", score.value);
            return Err(unusable("linux.oom_score_adj", problem));
        }
        process.insert("oomScoreAdj".to_owned(), json!(score.value));
    }
    if let Some(priority) = wanted.io_priority {
        let class = IoPrioClass::try_from(priority.class)
            .map_err(|_| unusable("linux.io_priority.class", "is unknown"))?;
        let priority = json!({ "class": class.as_str_name(), "priority": priority.priority });
        process.insert("ioPriority".to_owned(), priority);
    }
    if let Some(wanted) = wanted.scheduler {
        process.insert("scheduler".to_owned(), scheduler(&wanted)?);
    }
    let linux = member(root, "linux");
    devices(linux, wanted.devices);
    if !wanted.cgroups_path.is_empty() {
        no_nul("linux.cgroups_path", &wanted.cgroups_path)?;
        linux.insert("cgroupsPath".to_owned(), json!(wanted.cgroups_path));
    }
    if let Some(policy) = wanted.seccomp_policy {
        linux.insert("seccomp".to_owned(), seccomp(policy));
    }
    namespaces(linux, wanted.namespaces);
    for (key, value) in wanted.sysctl {
        set_text(member(linux, "sysctl"), key, value);
    }
    drop_empty(linux, "sysctl");
    for (key, device) in wanted.net_devices {
        let devices = member(linux, "netDevices");
        match removal(&key) {
            Some(key) => devices.remove(key),
            None => devices.insert(key, json!({ "name": device.name })),
        };
    }
    drop_empty(linux, "netDevices");
    if let Some(policy) = wanted.memory_policy {
        linux.insert("memoryPolicy".to_owned(), memory_policy(&policy)?);
    }
    if let Some(wanted) = wanted.resources {
        resources(linux, wanted, limits)?;
    }
    if let Some(wanted) = wanted.rdt {
        rdt(linux, wanted);
    }
    Ok(())
}

fn scheduler(wanted: &LinuxScheduler) -> Result<Value, Unusable> {
    let policy = LinuxSchedulerPolicy::try_from(wanted.policy);
    let policy = policy.map_err(|_| unusable("linux.scheduler.policy", "is unknown"))?;
    let flags: Result<Vec<_>, _> =
        wanted.flags.iter().map(|&flag| LinuxSchedulerFlag::try_from(flag)).collect();
    let flags = flags.map_err(|_| unusable("linux.scheduler.flags", "one is unknown"))?;
    let mut out = Map::from_iter([("policy".to_owned(), json!(policy.as_str_name()))]);
    for (name, number) in [
        ("nice", json!(wanted.nice)),
        ("priority", json!(wanted.priority)),
        ("runtime", json!(wanted.runtime)),
        ("deadline", json!(wanted.deadline)),
        ("period", json!(wanted.period)),
    ] {
        if number != 0 {
            out.insert(name.to_owned(), number);
        }
    }
    if !flags.is_empty() {
        let flags: Vec<_> = flags.iter().map(LinuxSchedulerFlag::as_str_name).collect();
        out.insert("flags".to_owned(), json!(flags));
    }
    Ok(Value::Object(out))
}

/// Besides its node, a device needs a cgroup rule.
fn devices(linux: &mut Map<String, Value>, wanted: Vec<LinuxDevice>) {
    for device in wanted {
        let path = removal(&device.path).unwrap_or(&device.path);
        let nodes = items(linux, "devices");
        nodes.retain(|old| old["path"] != *path);
        if removal(&device.path).is_some() {
            continue;
        }
        let (kind, major, minor) = (&device.r#type, device.major, device.minor);
        let mut node = json!({ "path": path, "type": kind, "major": major, "minor": minor });
        for (name, number) in [
            ("fileMode", device.file_mode.map(|mode| mode.value & 0o7777)),
            ("uid", device.uid.map(|uid| uid.value)),
            ("gid", device.gid.map(|gid| gid.value)),
        ] {
            if let Some(number) = number {
                object(&mut node).insert(name.to_owned(), json!(number));
            }
        }
        nodes.push(node);
        // The device cgroup does not cover FIFOs.
        if kind != "p" {
            let access = if kind == "b" { "rwm" } else { "rw" };
            items(member(linux, "resources"), "devices").push(json!({
                "allow": true, "type": kind, "major": major, "minor": minor, "access": access,
            }));
        }
    }
}

fn seccomp(policy: LinuxSeccomp) -> Value {
    let mut out = Map::from_iter([("defaultAction".to_owned(), json!(policy.default_action))]);
    let mut set = |name: &str, value: Value, wanted: bool| {
        if wanted {
            out.insert(name.to_owned(), value);
        }
    };
    if let Some(errno) = policy.default_errno {
        set("defaultErrnoRet", json!(errno.value), true);
    }
    set("architectures", json!(policy.architectures), !policy.architectures.is_empty());
    set("flags", json!(policy.flags), !policy.flags.is_empty());
    set("listenerPath", json!(policy.listener_path), !policy.listener_path.is_empty());
    set("listenerMetadata", json!(policy.listener_metadata), !policy.listener_metadata.is_empty());
    let syscalls = policy.syscalls.into_iter().map(|rule| {
        let mut out = json!({ "names": rule.names, "action": rule.action });
        if let Some(errno) = rule.errno_ret {
            out["errnoRet"] = json!(errno.value);
        }
        let args = rule.args.into_iter().map(|arg| {
            json!({ "index": arg.index, "value": arg.value, "valueTwo": arg.value_two, "op": arg.op })
        });
        let args: Vec<_> = args.collect();
        if !args.is_empty() {
            out["args"] = Value::Array(args);
        }
        out
    });
    let syscalls: Vec<_> = syscalls.collect();
    let any = !syscalls.is_empty();
    set("syscalls", Value::Array(syscalls), any);
    Value::Object(out)
}

fn namespaces(linux: &mut Map<String, Value>, wanted: Vec<LinuxNamespace>) {
    for namespace in wanted {
        let list = items(linux, "namespaces");
        let kind = removal(&namespace.r#type).unwrap_or(&namespace.r#type);
        let place = list.iter().position(|old| old["type"] == *kind);
        let new = match namespace.path.as_str() {
            "" => json!({ "type": kind }),
            path => json!({ "type": kind, "path": path }),
        };
        match (removal(&namespace.r#type), place) {
            (Some(_), _) => list.retain(|old| old["type"] != *kind),
            (None, Some(place)) => list[place] = new,
            (None, None) => list.push(new),
        }
    }
}

fn memory_policy(policy: &LinuxMemoryPolicy) -> Result<Value, Unusable> {
    let mode = MpolMode::try_from(policy.mode);
    let mode = mode.map_err(|_| unusable("linux.memory_policy.mode", "is unknown"))?;
    let flags: Result<Vec<_>, _> =
        policy.flags.iter().map(|&flag| MpolFlag::try_from(flag)).collect();
    let flags = flags.map_err(|_| unusable("linux.memory_policy.flags", "one is unknown"))?;
    let mut out = json!({ "mode": mode.as_str_name(), "nodes": policy.nodes });
    if !flags.is_empty() {
        out["flags"] = json!(flags.iter().map(MpolFlag::as_str_name).collect::<Vec<_>>());
    }
    Ok(out)
}

/// Mounts are made in list order, so one must come after those above its path. Returns the sources
/// to give the container's SELinux label.
fn mounts(root: &mut Map<String, Value>, wanted: Vec<Mount>) -> Result<Vec<String>, Unusable> {
    let mut relabel = Vec::new();
    if wanted.is_empty() {
        return Ok(relabel);
    }
    let mut shared = None;
    for mount in wanted {
        let list = items(root, "mounts");
        let place = removal(&mount.destination).unwrap_or(&mount.destination);
        list.retain(|old| old["destination"] != *place);
        if removal(&mount.destination).is_some() {
            continue;
        }
        if !place.starts_with('/') || place.contains('\0') || mount.source.contains('\0') {
            return Err(unusable(format!("mounts[{place:?}]"), "must be an absolute path"));
        }
        for option in &mount.options {
            match (option.as_str(), shared) {
                ("rshared", _) => shared = Some("rshared"),
                ("rslave", None) => shared = Some("rslave"),
                _ => {}
            }
        }
        let mut new = json!({ "destination": place, "source": mount.source });
        if !mount.r#type.is_empty() {
            new["type"] = json!(mount.r#type);
        }
        // An option of NRI, not of the kernel.
        let (labels, options): (Vec<_>, Vec<_>) =
            mount.options.iter().partition(|option| *option == "relabel");
        if !labels.is_empty() {
            relabel.push(mount.source.clone());
        }
        if !options.is_empty() {
            new["options"] = json!(options);
        }
        list.push(new);
    }
    let depth = |mount: &Value| {
        let path = mount["destination"].as_str().unwrap_or_default();
        path.split('/').filter(|part| !part.is_empty()).count()
    };
    items(root, "mounts").sort_by_key(depth);
    let linux = member(root, "linux");
    let now = linux.get("rootfsPropagation").and_then(Value::as_str).unwrap_or_default();
    match shared {
        Some("rshared") => linux.insert("rootfsPropagation".to_owned(), json!("rshared")),
        Some(_) if now != "rshared" => {
            linux.insert("rootfsPropagation".to_owned(), json!("rslave"))
        }
        _ => None,
    };
    Ok(relabel)
}

#[cfg(test)]
mod tests;
