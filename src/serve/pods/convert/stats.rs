//! Conversion of resource usage.

use super::timestamp;
use crate::pod::PodView;
use crate::proto::podbay::v1;
use crate::stats;

/// Converts the usage of a pod; `None` when it does not run.
pub(in crate::serve::pods) fn pod_stats(
    view: &PodView,
    stats: Option<stats::PodStats>,
) -> v1::PodStats {
    let key = view.key();
    let shown = v1::PodStats {
        namespace: key.namespace,
        name: key.name,
        uid: view.pod.metadata.uid.clone().unwrap_or_default(),
        ..v1::PodStats::default()
    };
    let Some(stats) = stats else { return shown };
    let interfaces = stats.network.into_iter().flatten().map(|interface| v1::InterfaceStats {
        name: interface.name,
        received_bytes: interface.received.bytes,
        received_errors: interface.received.errors,
        sent_bytes: interface.sent.bytes,
        sent_errors: interface.sent.errors,
    });
    let containers = stats.containers.into_iter().map(|container| v1::ContainerStats {
        name: container.container.config.metadata.name.clone(),
        usage: container.usage.map(|used| usage(&used)),
        layer_bytes: container.layer.bytes,
        layer_inodes: container.layer.inodes,
    });
    v1::PodStats {
        usage: stats.usage.map(|used| usage(&used)),
        interfaces: interfaces.collect(),
        processes: stats.processes.unwrap_or_default(),
        containers: containers.collect(),
        ..shown
    }
}

/// Converts the usage of the node.
pub(in crate::serve::pods) fn node_stats(
    name: String,
    used: Option<stats::Usage>,
) -> v1::NodeStats {
    v1::NodeStats { name, usage: used.map(|used| usage(&used)) }
}

fn usage(used: &stats::Usage) -> v1::Usage {
    let cpu = used.cpu.unwrap_or_default();
    let memory = used.memory.unwrap_or_default();
    v1::Usage {
        time: Some(timestamp(used.at)),
        cpu_nanoseconds: cpu.usage,
        cpu_nano_cores: cpu.nano_cores,
        memory_bytes: memory.usage,
        memory_working_set_bytes: memory.working_set,
        memory_rss_bytes: memory.rss,
        memory_available_bytes: Some(memory.available).filter(|available| *available > 0),
        swap_bytes: used.swap.unwrap_or_default().usage,
    }
}
