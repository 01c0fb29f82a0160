//! The metric families, with the names, help texts and labels of cAdvisor's Prometheus collector:
//! those that the kernel provides per cgroup. Fixed for the lifetime of the process.

/// Labels of every sample, in the order in which a kubelet sets them for cAdvisor.
pub const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Grows and falls.
    Gauge,
}

/// A family of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Name.
    pub name: &'static str,
    /// Help text.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Labels besides the common ones.
    pub labels: &'static [&'static str],
}

impl Descriptor {
    /// Keys of all labels, in the order of each sample's values.
    pub fn label_keys(&self) -> impl Iterator<Item = &'static str> {
        BASE_LABELS.iter().chain(self.labels).copied()
    }
}

/// A family with `N` labels of its own.
pub(super) struct Family<const N: usize>(pub Descriptor);

const fn count(labels: &[&str]) -> usize {
    labels.len()
}

macro_rules! families {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Family<{ count(&[$($label),*]) }> = Family(Descriptor {
            name: $name,
            help: $help,
            kind: Kind::$kind,
            labels: &[$($label),*],
        });)*

        /// All families.
        pub const DESCRIPTORS: &[Descriptor] = &[$($id.0),*];
    };
}

families! {
    LAST_SEEN = Gauge "container_last_seen" []
        "Last time a container was seen by the exporter";
    START_TIME = Gauge "container_start_time_seconds" []
        "Start time of the container since unix epoch in seconds.";

    CPU_USAGE = Counter "container_cpu_usage_seconds_total" ["cpu"]
        "Cumulative cpu time consumed in seconds.";
    CPU_USER = Counter "container_cpu_user_seconds_total" []
        "Cumulative user cpu time consumed in seconds.";
    CPU_SYSTEM = Counter "container_cpu_system_seconds_total" []
        "Cumulative system cpu time consumed in seconds.";
    CFS_PERIODS = Counter "container_cpu_cfs_periods_total" []
        "Number of elapsed enforcement period intervals.";
    CFS_THROTTLED_PERIODS = Counter "container_cpu_cfs_throttled_periods_total" []
        "Number of throttled period intervals.";
    CFS_THROTTLED_TIME = Counter "container_cpu_cfs_throttled_seconds_total" []
        "Total time duration the container has been throttled.";

    CFS_BURSTS = Counter "container_cpu_cfs_burst_periods_total" []
        "Number of periods in which a burst occurred.";
    CFS_BURST_TIME = Counter "container_cpu_cfs_burst_seconds_total" []
        "CPU time used above the quota in the periods with a burst.";

    MEMORY_USAGE = Gauge "container_memory_usage_bytes" []
        "Current memory usage in bytes, including all memory regardless of when it was accessed";
    MEMORY_WORKING_SET = Gauge "container_memory_working_set_bytes" []
        "Current working set in bytes.";
    MEMORY_MAX_USAGE = Gauge "container_memory_max_usage_bytes" []
        "Maximum memory usage recorded in bytes";
    MEMORY_RSS = Gauge "container_memory_rss" []
        "Size of RSS in bytes.";
    MEMORY_CACHE = Gauge "container_memory_cache" []
        "Number of bytes of page cache memory.";
    MEMORY_KERNEL = Gauge "container_memory_kernel_usage" []
        "Size of kernel memory allocated in bytes.";
    MEMORY_MAPPED_FILE = Gauge "container_memory_mapped_file" []
        "Size of memory mapped files in bytes.";
    MEMORY_SWAP = Gauge "container_memory_swap" []
        "Container swap usage in bytes.";
    MEMORY_ACTIVE_FILE = Gauge "container_memory_total_active_file_bytes" []
        "Current total active file in bytes.";
    MEMORY_INACTIVE_FILE = Gauge "container_memory_total_inactive_file_bytes" []
        "Current total inactive file in bytes.";
    MEMORY_FAILCNT = Counter "container_memory_failcnt" []
        "Number of memory usage hits limits";
    MEMORY_FAILURES = Counter "container_memory_failures_total" ["failure_type", "scope"]
        "Cumulative count of memory allocation failures.";
    NUMA_PAGES = Gauge "container_memory_numa_pages" ["type", "scope", "node"]
        "Number of pages used on a NUMA node";
    OOM_EVENTS = Counter "container_oom_events_total" []
        "Count of out of memory events observed for the container";

    HUGETLB_USAGE = Gauge "container_hugetlb_usage_bytes" ["pagesize"]
        "Current hugepage usage in bytes";
    HUGETLB_MAX_USAGE = Gauge "container_hugetlb_max_usage_bytes" ["pagesize"]
        "Maximum hugepage usage recorded in bytes";
    HUGETLB_FAILCNT = Counter "container_hugetlb_failcnt" ["pagesize"]
        "Number of hugepage usage hits limits";

    PRESSURE_CPU_WAITING = Counter "container_pressure_cpu_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to CPU congestion.";
    PRESSURE_CPU_STALLED = Counter "container_pressure_cpu_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to CPU congestion.";
    PRESSURE_MEMORY_WAITING = Counter "container_pressure_memory_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to memory congestion.";
    PRESSURE_MEMORY_STALLED = Counter "container_pressure_memory_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to memory congestion.";
    PRESSURE_IO_WAITING = Counter "container_pressure_io_waiting_seconds_total" []
        "Total time duration tasks in the container have waited due to IO congestion.";
    PRESSURE_IO_STALLED = Counter "container_pressure_io_stalled_seconds_total" []
        "Total time duration no tasks in the container could make progress due to IO congestion.";

    FS_USAGE = Gauge "container_fs_usage_bytes" ["device"]
        "Number of bytes that are consumed by the container on this filesystem.";
    FS_LIMIT = Gauge "container_fs_limit_bytes" ["device"]
        "Number of bytes that can be consumed by the container on this filesystem.";
    FS_INODES_FREE = Gauge "container_fs_inodes_free" ["device"]
        "Number of available Inodes";
    FS_INODES_TOTAL = Gauge "container_fs_inodes_total" ["device"]
        "Number of Inodes";
    FS_READS_BYTES = Counter "container_fs_reads_bytes_total" ["device"]
        "Cumulative count of bytes read";
    FS_READS = Counter "container_fs_reads_total" ["device"]
        "Cumulative count of reads completed";
    FS_WRITES_BYTES = Counter "container_fs_writes_bytes_total" ["device"]
        "Cumulative count of bytes written";
    FS_WRITES = Counter "container_fs_writes_total" ["device"]
        "Cumulative count of writes completed";
    BLKIO_USAGE =
        Counter "container_blkio_device_usage_total" ["device", "major", "minor", "operation"]
        "Blkio Device bytes usage";

    RECEIVE_BYTES = Counter "container_network_receive_bytes_total" ["interface"]
        "Cumulative count of bytes received";
    RECEIVE_PACKETS = Counter "container_network_receive_packets_total" ["interface"]
        "Cumulative count of packets received";
    RECEIVE_DROPPED = Counter "container_network_receive_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while receiving";
    RECEIVE_ERRORS = Counter "container_network_receive_errors_total" ["interface"]
        "Cumulative count of errors encountered while receiving";
    TRANSMIT_BYTES = Counter "container_network_transmit_bytes_total" ["interface"]
        "Cumulative count of bytes transmitted";
    TRANSMIT_PACKETS = Counter "container_network_transmit_packets_total" ["interface"]
        "Cumulative count of packets transmitted";
    TRANSMIT_DROPPED = Counter "container_network_transmit_packets_dropped_total" ["interface"]
        "Cumulative count of packets dropped while transmitting";
    TRANSMIT_ERRORS = Counter "container_network_transmit_errors_total" ["interface"]
        "Cumulative count of errors encountered while transmitting";

    TCP_USAGE = Gauge "container_network_tcp_usage_total" ["tcp_state"]
        "Number of TCP sockets over IPv4 in each state";
    TCP6_USAGE = Gauge "container_network_tcp6_usage_total" ["tcp_state"]
        "Number of TCP sockets over IPv6 in each state";
    UDP_USAGE = Gauge "container_network_udp_usage_total" ["udp_state"]
        "UDP sockets over IPv4, the datagrams they dropped and the bytes in their queues";
    UDP6_USAGE = Gauge "container_network_udp6_usage_total" ["udp_state"]
        "UDP sockets over IPv6, the datagrams they dropped and the bytes in their queues";

    PROCESSES = Gauge "container_processes" []
        "Number of processes running inside the container.";
    FILE_DESCRIPTORS = Gauge "container_file_descriptors" []
        "Number of open file descriptors for the container.";
    SOCKETS = Gauge "container_sockets" []
        "Number of open sockets for the container.";
    THREADS = Gauge "container_threads" []
        "Number of threads running inside the container";
    THREADS_MAX = Gauge "container_threads_max" []
        "Maximum number of threads allowed inside the container, infinity if value is zero";
    TASKS_STATE = Gauge "container_tasks_state" ["state"]
        "Number of tasks in given state";
    ULIMITS_SOFT = Gauge "container_ulimits_soft" ["ulimit"]
        "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice";

    SPEC_CPU_PERIOD = Gauge "container_spec_cpu_period" []
        "CPU period of the container.";
    SPEC_CPU_QUOTA = Gauge "container_spec_cpu_quota" []
        "CPU quota of the container.";
    SPEC_CPU_SHARES = Gauge "container_spec_cpu_shares" []
        "CPU share of the container.";
    SPEC_MEMORY_LIMIT = Gauge "container_spec_memory_limit_bytes" []
        "Memory limit for the container.";
    SPEC_MEMORY_SWAP_LIMIT = Gauge "container_spec_memory_swap_limit_bytes" []
        "Memory swap limit for the container.";
    SPEC_MEMORY_RESERVATION = Gauge "container_spec_memory_reservation_limit_bytes" []
        "Memory reservation limit for the container.";
}
