//! Converts resource usage for answers.

use super::status::{container_metadata, pod_metadata};
use crate::model::UnixNanos;
use crate::proto::runtime::v1;
use crate::stats::{ContainerStats, Interface, Layer, Memory, PodStats, Pressure, Usage, Waiting};

/// Name of a pod's interface created by CNI.
const DEFAULT_INTERFACE: &str = "eth0";

/// A container with its usage.
pub fn container_stats(stats: &ContainerStats) -> v1::ContainerStats {
    let ContainerStats { container, usage, layer } = stats;
    let config = &container.config;
    let usage = usage.unwrap_or_default();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: container.id.to_string(),
            metadata: Some(container_metadata(&config.metadata)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: cpu(&usage),
        memory: memory(&usage),
        writable_layer: Some(writable_layer(layer)),
        swap: usage.swap.map(|swap| v1::SwapUsage {
            timestamp: usage.at,
            swap_available_bytes: swap.available.map(number),
            swap_usage_bytes: Some(number(swap.usage)),
        }),
        io: io(&usage),
    }
}

/// A pod with its usage.
pub fn pod_stats(stats: &PodStats) -> v1::PodSandboxStats {
    let PodStats { sandbox, at, usage, network, processes, containers } = stats;
    let config = &sandbox.config;
    let usage = usage.unwrap_or_default();
    v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: sandbox.id.to_string(),
            metadata: Some(pod_metadata(&config.metadata)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: cpu(&usage),
            memory: memory(&usage),
            network: network.as_ref().map(|interfaces| network_usage(*at, interfaces)),
            process: processes.map(|count| v1::ProcessUsage {
                timestamp: *at,
                process_count: Some(number(count)),
            }),
            containers: containers.iter().map(container_stats).collect(),
            io: io(&usage),
        }),
        windows: None,
    }
}

fn cpu(usage: &Usage) -> Option<v1::CpuUsage> {
    usage.cpu.map(|cpu| v1::CpuUsage {
        timestamp: usage.at,
        usage_core_nano_seconds: Some(number(cpu.usage)),
        usage_nano_cores: cpu.nano_cores.map(number),
        psi: cpu.pressure.as_ref().map(pressure),
    })
}

fn memory(usage: &Usage) -> Option<v1::MemoryUsage> {
    usage.memory.map(|memory| {
        let Memory {
            usage: bytes,
            working_set,
            available,
            rss,
            page_faults,
            major_page_faults,
            pressure: waits,
        } = memory;
        v1::MemoryUsage {
            timestamp: usage.at,
            working_set_bytes: Some(number(working_set)),
            available_bytes: Some(number(available)),
            usage_bytes: Some(number(bytes)),
            rss_bytes: Some(number(rss)),
            page_faults: Some(number(page_faults)),
            major_page_faults: Some(number(major_page_faults)),
            psi: waits.as_ref().map(pressure),
        }
    })
}

fn io(usage: &Usage) -> Option<v1::IoUsage> {
    let waits = usage.io.as_ref()?;
    Some(v1::IoUsage { timestamp: usage.at, psi: Some(pressure(waits)) })
}

fn pressure(pressure: &Pressure) -> v1::PsiStats {
    let line = |waiting: &Waiting| {
        let Waiting { total, avg10, avg60, avg300 } = *waiting;
        v1::PsiData { total, avg10, avg60, avg300 }
    };
    v1::PsiStats { full: Some(line(&pressure.full)), some: Some(line(&pressure.some)) }
}

fn writable_layer(layer: &Layer) -> v1::FilesystemUsage {
    let Layer { at, mountpoint, bytes, inodes } = layer;
    let mountpoint = mountpoint.to_string_lossy().into_owned();
    v1::FilesystemUsage {
        timestamp: *at,
        fs_id: Some(v1::FilesystemIdentifier { mountpoint }),
        used_bytes: Some(number(*bytes)),
        inodes_used: Some(number(*inodes)),
    }
}

fn network_usage(timestamp: UnixNanos, interfaces: &[Interface]) -> v1::NetworkUsage {
    let interfaces: Vec<_> = interfaces.iter().map(interface).collect();
    let named = interfaces.iter().find(|interface| interface.name == DEFAULT_INTERFACE);
    let default_interface = named.or(interfaces.first()).cloned();
    v1::NetworkUsage { timestamp, default_interface, interfaces }
}

fn interface(interface: &Interface) -> v1::NetworkInterfaceUsage {
    let Interface { name, received, sent } = interface;
    v1::NetworkInterfaceUsage {
        name: name.clone(),
        rx_bytes: Some(number(received.bytes)),
        rx_errors: Some(number(received.errors)),
        tx_bytes: Some(number(sent.bytes)),
        tx_errors: Some(number(sent.errors)),
    }
}

fn number(value: u64) -> v1::UInt64Value {
    v1::UInt64Value { value }
}
