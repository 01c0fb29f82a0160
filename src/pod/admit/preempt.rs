//! Preemption: selects pods to end for a critical pod.

use std::sync::Arc;

use super::super::object::Given;
use super::super::translate::{NodeFacts, Qos, Totals, is_critical, pod_requests, priority, qos};
use super::{has, used};

/// Name of the resource of which each pod uses one.
const PODS: &str = "pods";

/// The pods to end so that a critical pod has enough resources: from the lowest QoS classes, and as
/// few as possible. Empty when there is enough already, or when ending all eligible pods would not
/// suffice. Only resources are considered, so ask [`super::admit`] first. Pods of `coming` use
/// resources but cannot be selected.
pub fn preempt(
    given: &Given,
    running: &[Arc<Given>],
    coming: &[Arc<Given>],
    node: &NodeFacts,
) -> Vec<Arc<Given>> {
    if !is_critical(given) {
        return Vec::new();
    }
    let candidates = running.iter().filter(|other| may_end(given, other));
    let mut classes: [Vec<Pod>; 3] = Default::default();
    for other in candidates {
        let class = match qos(other.spec()) {
            Qos::BestEffort => 0,
            Qos::Burstable => 1,
            Qos::Guaranteed => 2,
        };
        classes[class].push(Pod::new(other));
    }
    let [best_effort, burstable, guaranteed] = classes;
    let short = lacks(given, &[running, coming].concat(), node);
    // Starting with the highest class: it contributes only what all lower classes together cannot
    // free.
    let of_guaranteed = closest(guaranteed, less(less(short.clone(), &best_effort), &burstable));
    let Some(of_guaranteed) = of_guaranteed else { return Vec::new() };
    let rest = less(short, &of_guaranteed);
    let Some(of_burstable) = closest(burstable, less(rest.clone(), &best_effort)) else {
        return Vec::new();
    };
    let Some(of_best_effort) = closest(best_effort, less(rest, &of_burstable)) else {
        return Vec::new();
    };
    let all = of_best_effort.into_iter().chain(of_burstable).chain(of_guaranteed);
    all.map(|pod| pod.given).collect()
}

struct Pod {
    given: Arc<Given>,
    frees: Totals,
}

impl Pod {
    fn new(given: &Arc<Given>) -> Self {
        let mut frees = pod_requests(given.spec());
        frees.insert(PODS.to_owned(), 1);
        Self { given: given.clone(), frees }
    }

    fn frees(&self, resource: &str) -> i64 {
        self.frees.get(resource).copied().unwrap_or_default()
    }
}

fn may_end(for_whom: &Given, other: &Given) -> bool {
    let more = priority(for_whom.spec()) > priority(other.spec()) && !other.source.is_static();
    !is_critical(other) || more
}

/// The resources that are missing for a pod.
fn lacks(given: &Given, running: &[Arc<Given>], node: &NodeFacts) -> Totals {
    let used = used(running);
    let missing = |(name, asked): (String, i64)| {
        let (_, all) = has(&name, &node.allocatable)?;
        let free = all.saturating_sub(used.get(&name).copied().unwrap_or_default());
        Some((name, asked.saturating_sub(free)))
    };
    let mut lacks: Totals = pod_requests(given.spec()).into_iter().filter_map(missing).collect();
    let count = i64::try_from(running.len()).unwrap_or(i64::MAX);
    lacks.insert(PODS.to_owned(), count.saturating_add(1).saturating_sub(node.allocatable.pods));
    lacks.retain(|_, missing| *missing > 0);
    lacks
}

/// What is still missing when these pods have ended.
fn less(mut short: Totals, gone: &[Pod]) -> Totals {
    for pod in gone {
        for (name, missing) in &mut short {
            *missing = missing.saturating_sub(pod.frees(name));
        }
    }
    short.retain(|_, missing| *missing > 0);
    short
}

/// Few pods that free what is missing: repeatedly the one that comes closest, and among equals the
/// one with smaller requests. `None` when all of them are not enough.
fn closest(mut pods: Vec<Pod>, mut short: Totals) -> Option<Vec<Pod>> {
    let mut gone = Vec::new();
    while !short.is_empty() {
        let rank = |pod: &Pod| (distance(pod, &short), pod.frees("memory"), pod.frees("cpu"));
        let ranked = pods.iter().map(rank).enumerate();
        let (best, _) = ranked.min_by(|(_, a), (_, b)| {
            a.0.total_cmp(&b.0).then_with(|| (a.1, a.2).cmp(&(b.1, b.2)))
        })?;
        let pod = pods.swap_remove(best);
        short = less(short, std::slice::from_ref(&pod));
        gone.push(pod);
    }
    Some(gone)
}

/// How much would still be missing: the sum of the squares of the relative amounts.
#[allow(clippy::cast_precision_loss)] // a rank, not an amount
fn distance(pod: &Pod, short: &Totals) -> f64 {
    let part = |(name, missing): (&String, &i64)| {
        let left = missing.saturating_sub(pod.frees(name)).max(0);
        (left as f64 / *missing as f64).powi(2)
    };
    short.iter().map(part).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::super::translate::fixture::{given, given_named, node};
    use super::*;

    /// A pod with memory requests, of QoS class `b`urstable or `g`uaranteed.
    fn pod(name: &str, class: char, cpu: &str, memory: &str) -> Arc<Given> {
        let amounts = json!({"cpu": cpu, "memory": memory});
        let limits = if class == 'g' { amounts.clone() } else { json!({}) };
        let resources = json!({"requests": amounts, "limits": limits});
        Arc::new(given_named(name, json!({"containers": [{"name": "a", "resources": resources}]})))
    }

    fn critical(requests: Value) -> Given {
        given(json!({
            "priority": 2_000_000_000,
            "containers": [{"name": "a", "resources": {"requests": requests}}],
        }))
    }

    fn names(for_whom: &Given, running: &[Arc<Given>], node: &NodeFacts) -> Vec<String> {
        let ended = preempt(for_whom, running, &[], node);
        ended.iter().map(|given| given.key().name).collect()
    }

    #[test]
    fn few_and_the_least_important_end() {
        // 7 GiB and 3500m are allocatable.
        let running = [
            pod("small", 'b', "100m", "512Mi"),
            pod("middle", 'b', "100m", "1Gi"),
            pod("big", 'b', "100m", "3Gi"),
            pod("sure", 'g', "100m", "2Gi"),
        ];
        for (memory, expected) in [
            ("512Mi", vec![]),
            ("1Gi", vec!["small"]),
            ("1100Mi", vec!["middle"]),
            ("2Gi", vec!["big"]),
            ("4Gi", vec!["big", "small"]),
            ("4600Mi", vec!["big", "middle"]),
            ("5Gi", vec!["big", "middle", "small"]),
            // 5.5 GiB are missing: 1 GiB more than the other two have together.
            ("6Gi", vec!["big", "small", "sure"]),
            ("8Gi", vec![]),
        ] {
            let got = names(&critical(json!({"memory": memory})), &running, &node());
            assert_eq!(got, expected, "{memory}");
        }
    }

    #[test]
    fn only_critical_pods_have_others_end_and_never_their_equals() {
        let running = [pod("big", 'b', "3", "6Gi")];
        let ordinary =
            given(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]}));
        assert_eq!(names(&ordinary, &running, &node()), [""; 0]);
        let asks = critical(json!({"cpu": "2"}));
        assert_eq!(names(&asks, &running, &node()), ["big"]);
        let equal = [Arc::new(critical(json!({"cpu": "3"})))];
        assert_eq!(names(&asks, &equal, &node()), [""; 0]);
    }

    #[test]
    fn a_best_effort_pod_makes_room_for_one_pod() {
        let mut small = node();
        small.allocatable.pods = 2;
        let running = [pod("b", 'b', "100m", "1Gi"), Arc::new(given_named("none", json!({})))];
        assert_eq!(names(&critical(json!({})), &running, &small), ["none"]);
    }

    #[test]
    fn who_comes_in_beside_it_takes_room_and_stays() {
        let running = [pod("old", 'b', "100m", "3Gi")];
        let coming = [pod("new", 'b', "100m", "3Gi")];
        let ended = |memory: &str| {
            let asks = critical(json!({"memory": memory}));
            preempt(&asks, &running, &coming, &node()).len()
        };
        // 7 GiB are available, of which the other coming pod takes 3.
        assert_eq!((ended("1Gi"), ended("2Gi"), ended("4Gi"), ended("5Gi")), (0, 1, 1, 0));
    }
}
