//! Statistics and metrics: which fields are present for which objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};

use crate::compare::scenarios;
use crate::facts::{code, shape, told};
use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::eventually;

scenarios! {
    "runtime should support listing stats for container" => container_stats,
    "runtime should support listing stats for created containers" => created_stats,
    "runtime should support listing pod stats" => pod_stats,
    "listing pod stats with filters" => pod_filters,
    "runtime should support returning metrics descriptors" => descriptors,
    "runtime should support listing pod sandbox metrics" => metrics,
}

/// Stats of a running container.
async fn container_stats(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("stats")).await;
    let script = "echo data >/file; while :; do :; done";
    let spec = Container::script("c", &rig.image, script).label("k", "v").memory_limit(64 << 20);
    let id = rig.launch(&pod, &spec).await;
    let stats = eventually(SOON, async || {
        let request = cri::ContainerStatsRequest { container_id: id.clone() };
        let stats = rig.runtime().container_stats(request).await.ok()?.into_inner().stats?;
        stats.cpu.is_some().then_some(stats)
    });
    let mut stats = stats.await.expect("stats");
    // The plugin computes it only for pods.
    stats.cpu.as_mut().expect("CPU").usage_nano_cores = None;
    // Filled by a walk that each side makes when it likes.
    stats.writable_layer = None;
    rig.stop(&id, 0).await;
    let request = cri::ContainerStatsRequest { container_id: id };
    let ended = rig.runtime().container_stats(request).await;
    json!({"shape": shape(&told("ContainerStats", &stats)), "ended": code(&ended)})
}

async fn created_stats(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("stats-created")).await;
    rig.create(&pod, &Container::waiting("c", &rig.image)).await.expect("CreateContainer");
    rig.run_to_end(&pod, &Container::script("ended", &rig.image, "true")).await;
    let filter = cri::ContainerStatsFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let request = cri::ListContainerStatsRequest { filter: Some(filter) };
    let listed =
        rig.runtime().list_container_stats(request).await.expect("stats").into_inner().stats;
    let names: BTreeSet<_> =
        listed.into_iter().filter_map(|it| it.attributes?.metadata).map(|it| it.name).collect();
    json!(names)
}

async fn pod_stats(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("pod-stats").label("k", "v").annotation("a", "b")).await;
    let id = rig.launch(&pod, &Container::script("c", &rig.image, "while :; do :; done")).await;
    let stats = eventually(SOON, async || {
        let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
        let stats = rig.runtime().pod_sandbox_stats(request).await.ok()?.into_inner().stats?;
        let linux = stats.linux.as_ref()?;
        let known = linux.cpu.as_ref()?.usage_nano_cores.is_some()
            && linux.containers.first()?.cpu.as_ref()?.usage_nano_cores.is_some();
        known.then_some(stats)
    });
    let mut stats = stats.await.expect("stats");
    stats
        .linux
        .as_mut()
        .expect("linux")
        .containers
        .iter_mut()
        .for_each(|it| it.writable_layer = None);
    rig.stop(&id, 0).await;
    rig.stop_pod(&pod.id).await;
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    let stopped = rig.runtime().pod_sandbox_stats(request).await;
    json!({"shape": shape(&told("PodSandboxStats", &stats)), "stopped": code(&stopped)})
}

async fn pod_filters(rig: Arc<Rig>) -> Value {
    let one = rig.run(rig.pod_spec("pod-filter-1").label("pf", "a")).await;
    rig.run(rig.pod_spec("pod-filter-2").label("pf", "b")).await;
    let list = async |id: &str, labels: &[(&str, &str)]| {
        let filter = cri::PodSandboxStatsFilter {
            id: id.into(),
            label_selector: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        let request = cri::ListPodSandboxStatsRequest { filter: Some(filter) };
        let listed =
            rig.runtime().list_pod_sandbox_stats(request).await.expect("stats").into_inner().stats;
        let names = listed.into_iter().filter_map(|it| it.attributes?.metadata).map(|it| it.name);
        names.filter(|name| name.starts_with("pod-filter")).collect::<BTreeSet<_>>()
    };
    json!({
        "all": list("", &[]).await, "id": list(&one.id, &[]).await, "start": list(&one.id[..16], &[]).await,
        "label": list("", &[("pf", "b")]).await, "none": list("", &[("pf", "c")]).await,
        "unknown": list("nosuch", &[]).await,
    })
}

async fn described(rig: &Rig) -> BTreeMap<String, Vec<String>> {
    let request = cri::ListMetricDescriptorsRequest {};
    let listed = rig.runtime().list_metric_descriptors(request).await.expect("descriptors");
    listed.into_inner().descriptors.into_iter().map(|it| (it.name, it.label_keys)).collect()
}

async fn descriptors(rig: Arc<Rig>) -> Value {
    // Their order is each side's own, and the suite's.
    let mut found = described(&rig).await;
    found.values_mut().for_each(|keys| keys.sort());
    json!(found)
}

/// Names of metrics of a pod and of its container; the number of values that each has must be
/// that of its descriptor's keys.
async fn metrics(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("metrics")).await;
    let spec = Container::waiting("c", &rig.image).memory_limit(64 << 20);
    rig.launch(&pod, &spec).await;
    let keys = described(&rig).await;
    let found = eventually(SOON, async || {
        let request = cri::ListPodSandboxMetricsRequest {};
        let listed = rig.runtime().list_pod_sandbox_metrics(request).await.ok()?.into_inner();
        let own = listed.pod_metrics.into_iter().find(|it| it.pod_sandbox_id == pod.id)?;
        (!own.container_metrics.first()?.metrics.is_empty()).then_some(own)
    });
    let found = found.await.expect("metrics of the pod");
    let told = |metrics: &[cri::Metric]| {
        let names: BTreeSet<_> = metrics.iter().map(|it| it.name.clone()).collect();
        let wrong: BTreeSet<_> = (metrics.iter())
            .filter(|it| keys.get(&it.name).is_none_or(|keys| keys.len() != it.label_values.len()))
            .map(|it| it.name.clone())
            .collect();
        json!({"names": names.into_iter().map(|it| (it, Value::from("there"))).collect::<serde_json::Map<_, _>>(), "wrong labels": wrong})
    };
    json!({"pod": told(&found.metrics), "container": told(&found.container_metrics[0].metrics)})
}
