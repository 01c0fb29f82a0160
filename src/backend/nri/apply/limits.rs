//! Applies the limits in an adjustment to a spec.

use serde_json::{Map, Value, json};

use super::super::proto::{LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxRdt, LinuxResources};
use super::{Unusable, items, member, unusable};

/// The limits that the host can enforce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Whether memory plus swap can be limited.
    pub swap: bool,
    /// Whether huge pages can be limited.
    pub hugepages: bool,
}

/// `linux.resources`, and the class of `linux.intelRdt`.
pub(super) fn resources(
    linux: &mut Map<String, Value>,
    wanted: LinuxResources,
    limits: Limits,
) -> Result<(), Unusable> {
    match wanted.rdt_class.map(|class| class.value).as_deref() {
        None => {}
        Some("") => {
            linux.remove("intelRdt");
        }
        Some(class) => {
            linux.insert("intelRdt".to_owned(), json!({ "closID": class }));
        }
    }
    let into = member(linux, "resources");
    match wanted.blockio_class.map(|class| class.value).as_deref() {
        None => {}
        Some("") => {
            into.remove("blockIO");
        }
        Some(class) => {
            let problem =
                format!("no class {class:?} is configured: podbay has no blockio classes");
            return Err(unusable("linux.resources.blockio_class", problem));
        }
    }
    if let Some(wanted) = wanted.memory {
        memory(into, &wanted, limits);
    }
    if let Some(wanted) = wanted.cpu {
        cpu(into, wanted);
    }
    for page in wanted.hugepage_limits.into_iter().filter(|_| limits.hugepages) {
        let list = items(into, "hugepageLimits");
        list.retain(|old| old["pageSize"] != *page.page_size);
        list.push(json!({ "pageSize": page.page_size, "limit": page.limit }));
    }
    for (file, value) in wanted.unified {
        member(into, "unified").insert(file, json!(value));
    }
    if let Some(pids) = wanted.pids {
        into.insert("pids".to_owned(), json!({ "limit": pids.limit }));
    }
    device_rules(into, wanted.devices);
    Ok(())
}

fn memory(into: &mut Map<String, Value>, memory: &LinuxMemory, limits: Limits) {
    let limit = memory.limit.map(|limit| limit.value).filter(|&limit| limit != 0);
    // As for any container, a memory limit alone means no swap.
    let swap = memory.swap.map(|swap| swap.value).or(limit).filter(|_| limits.swap);
    numbers(
        into,
        "memory",
        [
            ("limit", limit.map(|v| json!(v))),
            ("swap", swap.map(|v| json!(v))),
            ("reservation", memory.reservation.map(|v| json!(v.value))),
            ("kernel", memory.kernel.map(|v| json!(v.value))),
            ("kernelTCP", memory.kernel_tcp.map(|v| json!(v.value))),
            ("swappiness", memory.swappiness.map(|v| json!(v.value))),
            ("disableOOMKiller", memory.disable_oom_killer.map(|v| json!(v.value))),
            ("useHierarchy", memory.use_hierarchy.map(|v| json!(v.value))),
        ],
    );
}

fn cpu(into: &mut Map<String, Value>, cpu: LinuxCpu) {
    let text = |list: String| (!list.is_empty()).then(|| json!(list));
    numbers(
        into,
        "cpu",
        [
            ("shares", cpu.shares.map(|v| json!(v.value))),
            ("quota", cpu.quota.map(|v| json!(v.value))),
            ("period", cpu.period.map(|v| json!(v.value))),
            ("realtimeRuntime", cpu.realtime_runtime.map(|v| json!(v.value))),
            ("realtimePeriod", cpu.realtime_period.map(|v| json!(v.value))),
            ("cpus", text(cpu.cpus)),
            ("mems", text(cpu.mems)),
        ],
    );
}

fn device_rules(into: &mut Map<String, Value>, rules: Vec<LinuxDeviceCgroup>) {
    for rule in rules {
        let mut out = json!({ "allow": rule.allow, "access": rule.access });
        if !rule.r#type.is_empty() {
            out["type"] = json!(rule.r#type);
        }
        for (name, number) in [("major", rule.major), ("minor", rule.minor)] {
            if let Some(number) = number {
                out[name] = json!(number.value);
            }
        }
        items(into, "devices").push(out);
    }
}

fn numbers<const N: usize>(
    into: &mut Map<String, Value>,
    group: &str,
    values: [(&str, Option<Value>); N],
) {
    for (name, value) in values {
        if let Some(value) = value {
            member(into, group).insert(name.to_owned(), value);
        }
    }
}

/// `linux.intelRdt`.
pub(super) fn rdt(linux: &mut Map<String, Value>, wanted: LinuxRdt) {
    if wanted.remove {
        linux.remove("intelRdt");
    }
    numbers(
        linux,
        "intelRdt",
        [
            ("closID", wanted.clos_id.map(|v| json!(v.value))),
            ("schemata", wanted.schemata.map(|v| json!(v.value))),
            ("enableMonitoring", wanted.enable_monitoring.map(|v| json!(v.value))),
        ],
    );
}
