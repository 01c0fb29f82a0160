//! The requests of a node's pods, compared with its resources.

use serde_json::Value;
use time::OffsetDateTime;

use super::super::print::amount::{bytes, cpu, milli, percent};
use super::super::print::{age, items, plain, safe, text};
use super::Page;

/// Formats an amount.
type Tell = fn(i128) -> String;

/// Resources and their formats.
const RESOURCES: [(&str, Tell); 3] =
    [("cpu", cpu), ("memory", bytes), ("ephemeral-storage", bytes)];

/// The pods, and the sum of their requests.
pub(super) fn all(page: &mut Page, node: &Value, pods: &[Value], now: OffsetDateTime) {
    let has = |name: &str| amount(node.pointer("/status/allocatable"), name);
    let told = |part: i128, name: &str, tell: Tell| {
        format!("{} ({}%)", tell(part), percent(part, has(name)))
    };
    page.line(0, format!("Non-terminated Pods:  ({} in total)", pods.len()));
    page.line(1, "Namespace\tName\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    page.line(1, "---------\t----\t------------\t----------\t---------------\t-------------\t---");
    for pod in pods {
        let mut cells =
            ["/metadata/namespace", "/metadata/name"].map(|at| safe(text(pod, at))).to_vec();
        for (name, tell) in &RESOURCES[..2] {
            cells.extend(["requests", "limits"].map(|list| told(of(pod, list, name), name, *tell)));
        }
        cells.push(age::since(pod, "/metadata/creationTimestamp", now));
        page.line(1, cells.join("\t"));
    }
    page.line(0, "Allocated resources:");
    page.line(1, "(Total limits may be over 100 percent, i.e., overcommitted.)");
    page.line(1, "Resource\tRequests\tLimits");
    page.line(1, "--------\t--------\t------");
    for (name, tell) in RESOURCES {
        let sum = |list: &str| pods.iter().map(|pod| of(pod, list, name)).sum();
        let [requests, limits] = ["requests", "limits"].map(|list| told(sum(list), name, tell));
        page.line(1, format!("{name}\t{requests}\t{limits}"));
    }
}

fn amount(list: Option<&Value>, name: &str) -> i128 {
    list.and_then(|list| list.get(name)).map_or(0, |quantity| milli(&plain(quantity)))
}

/// A pod's request: the sum of its containers and sidecars, or an init container plus the sidecars
/// before it if that is more; a pod-level value takes precedence.
fn of(pod: &Value, list: &str, name: &str) -> i128 {
    let overhead = amount(pod.pointer("/spec/overhead"), name);
    let whole = amount(pod.pointer(&format!("/spec/resources/{list}")), name);
    if whole > 0 {
        return whole + overhead;
    }
    let own = |container: &Value| amount(container.pointer(&format!("/resources/{list}")), name);
    let (mut sidecars, mut most) = (0, 0);
    for init in items(pod, "/spec/initContainers") {
        if text(init, "/restartPolicy") == "Always" {
            sidecars += own(init);
            most = most.max(sidecars);
        } else {
            most = most.max(sidecars + own(init));
        }
    }
    let apps: i128 = items(pod, "/spec/containers").iter().map(own).sum();
    most.max(apps + sidecars) + overhead
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_asks_for() {
        let needs = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = needs("100m");
        sidecar["restartPolicy"] = json!("Always");
        let mut pod = json!({"spec": {"containers": [needs("200m"), needs("300m")]}});
        assert_eq!(of(&pod, "requests", "cpu"), 500);
        assert_eq!(of(&pod, "limits", "cpu"), 0);
        pod["spec"]["initContainers"] = json!([sidecar, needs("1")]);
        assert_eq!(of(&pod, "requests", "cpu"), 1100);
        pod["spec"]["initContainers"] = json!([sidecar, needs("200m")]);
        assert_eq!(of(&pod, "requests", "cpu"), 600);
        pod["spec"]["overhead"] = json!({"cpu": "50m"});
        assert_eq!(of(&pod, "requests", "cpu"), 650);
        pod["spec"]["resources"] = json!({"requests": {"cpu": "2"}});
        assert_eq!(of(&pod, "requests", "cpu"), 2050);
    }
}
