//! Whole pods with the real binary on both lines of containerd: from the manifest to the first log
//! line, through restarts and crashes of the agent, to the complete removal of a pod.

mod support;

#[path = "real_pods/archives.rs"]
mod archives;
#[path = "real_pods/ends.rs"]
mod ends;
#[path = "real_pods/ephemeral.rs"]
mod ephemeral;
#[path = "real_pods/evict.rs"]
mod evict;
#[path = "real_pods/life.rs"]
mod life;
#[path = "real_pods/ports.rs"]
mod ports;
#[path = "real_pods/resize.rs"]
mod resize;
#[path = "real_pods/rig.rs"]
mod rig;
#[path = "real_pods/shutdown.rs"]
mod shutdown;
#[path = "real_pods/volumes.rs"]
mod volumes;
#[path = "real_pods/wishes.rs"]
mod wishes;

use support::containerd::Line;
use support::on_both_lines;

on_both_lines! {
    life::a_pod_from_its_manifest_to_its_last_trace,
    life::a_killed_agent_keeps_pods_running,
    life::a_lost_store_loses_no_pod,
    life::a_static_pod_follows_its_file,
    ends::deletion_is_graceful,
    ends::a_crash_is_told_and_restarted,
    ends::probes_decide,
    volumes::volumes_are_there_and_go,
    volumes::an_init_container_writes_the_environment_of_the_apps,
    ephemeral::a_debugger_looks_at_its_target_and_outlives_the_agent,
    evict::a_volume_beyond_its_limit_evicts_its_pod,
    evict::a_full_disk_evicts_and_keeps_pods_out,
    ports::datagrams_reach_a_pod,
    archives::an_image_goes_out_and_comes_back,
    archives::other_tools_read_it_and_are_read,
    archives::a_pull_is_followed,
    resize::memory_in_use_is_not_taken_away,
    shutdown::pods_end_before_the_host_does,
    wishes::ulimits_reach_their_container,
}
