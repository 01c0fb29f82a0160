//! Converts metrics for answers.

use crate::proto::runtime::v1;
use crate::stats::{Descriptor, Kind, PodMetrics, Sample, Samples};

/// A family of metrics.
pub fn metric_descriptor(family: &Descriptor) -> v1::MetricDescriptor {
    v1::MetricDescriptor {
        name: family.name.to_owned(),
        help: family.help.to_owned(),
        label_keys: family.label_keys().map(str::to_owned).collect(),
    }
}

/// The metrics of a pod and its containers.
pub fn pod_metrics(found: PodMetrics) -> v1::PodSandboxMetrics {
    let PodMetrics { pod, samples, containers } = found;
    let containers = containers.into_iter().map(|(id, samples)| v1::ContainerMetrics {
        container_id: id.into(),
        metrics: metrics(samples),
    });
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.into(),
        metrics: metrics(samples),
        container_metrics: containers.collect(),
    }
}

fn metrics(samples: Samples) -> Vec<v1::Metric> {
    let Samples { at, base_labels, list } = samples;
    let metric = |Sample { family, labels, value }| v1::Metric {
        name: family.name.to_owned(),
        timestamp: at,
        metric_type: match family.kind {
            Kind::Counter => v1::MetricType::Counter.into(),
            Kind::Gauge => v1::MetricType::Gauge.into(),
        },
        label_values: base_labels.iter().cloned().chain(labels).collect(),
        value: Some(v1::UInt64Value { value }),
    };
    list.into_iter().map(metric).collect()
}
