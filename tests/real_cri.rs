//! The CRI service with real containerd of both lines: the real binary, real runc, real CNI
//! plugins, and a leak census at the end of each test.
//!
//! Needs root, and fails rather than skips when a part is missing.

#[path = "real_cri/cdi.rs"]
mod cdi;
#[path = "real_cri/checkpoints.rs"]
mod checkpoints;
#[path = "real_cri/containers.rs"]
mod containers;
#[path = "real_cri/crictl.rs"]
mod crictl;
#[path = "real_cri/ends.rs"]
mod ends;
#[path = "real_cri/events.rs"]
mod events;
#[path = "real_cri/exec.rs"]
mod exec;
#[path = "real_cri/files.rs"]
mod files;
#[path = "real_cri/handlers.rs"]
mod handlers;
#[path = "real_cri/hostile.rs"]
mod hostile;
#[path = "real_cri/images.rs"]
mod images;
#[path = "real_cri/logs.rs"]
mod logs;
#[path = "real_cri/networks.rs"]
mod networks;
#[path = "real_cri/node.rs"]
mod node;
#[path = "real_cri/nri.rs"]
mod nri;
#[path = "real_cri/outside.rs"]
mod outside;
#[path = "real_cri/plugins.rs"]
mod plugins;
#[path = "real_cri/pods.rs"]
mod pods;
#[path = "real_cri/registries.rs"]
mod registries;
#[path = "real_cri/rig.rs"]
mod rig;
#[path = "real_cri/security.rs"]
mod security;
#[path = "real_cri/sessions.rs"]
mod sessions;
#[path = "real_cri/stats.rs"]
mod stats;
#[path = "real_cri/streaming.rs"]
mod streaming;
mod support;
#[path = "real_cri/updates.rs"]
mod updates;
#[path = "real_cri/userns.rs"]
mod userns;
#[path = "real_cri/volumes.rs"]
mod volumes;
#[path = "real_cri/websocket.rs"]
mod websocket;

use support::containerd::Line;

macro_rules! on_both_lines {
    ($($noun:ident::$name:ident,)*) => {
        mod containerd_1 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$noun::$name(crate::Line::V1).await;
            })*
        }
        mod containerd_2 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::$noun::$name(crate::Line::V2).await;
            })*
        }
    };
}

/// The same tests with crun in place of runc, on the newer line.
macro_rules! with_crun {
    ($($noun:ident::$name:ident,)*) => {
        mod crun {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                crate::handlers::offer_hugetlb_to_crun();
                let test = crate::$noun::$name(crate::Line::V2);
                crate::support::env::RUNTIME.scope("crun", test).await;
            })*
        }
    };
}

with_crun! {
    pods::pods_have_addresses_and_status,
    pods::pods_share_what_they_should,
    pods::process_namespaces_are_as_asked,
    pods::ends_of_pods,
    containers::commands_follow_image_and_config,
    containers::limits_are_in_the_cgroup,
    containers::terminals_and_stdin,
    containers::bad_requests_leave_nothing,
    security::users_and_groups,
    security::privileges,
    security::seccomp_profiles,
    security::paths_are_masked,
    files::mounts_are_as_asked,
    files::image_volumes_are_filled,
    files::devices_are_given,
    ends::exits_are_told_exactly,
    ends::stops_are_graceful,
    ends::memory_hogs_are_oom_killed,
    exec::exec_gives_output_and_code,
    exec::exec_is_bounded,
    streaming::exec_streams_and_codes,
    streaming::terminals_have_sizes,
    logs::logs_have_the_format,
    events::events_tell_the_life_of_a_pod,
    stats::containers_are_measured,
    updates::limits_change_while_it_runs,
    updates::refused_limits_change_nothing,
}

on_both_lines! {
    pods::pods_have_addresses_and_status,
    pods::pods_share_what_they_should,
    pods::process_namespaces_are_as_asked,
    pods::pods_of_the_host,
    pods::ends_of_pods,
    networks::own_bridge_serves_a_fresh_machine,
    networks::failed_plugins_leave_nothing,
    containers::commands_follow_image_and_config,
    containers::limits_are_in_the_cgroup,
    containers::terminals_and_stdin,
    containers::bad_requests_leave_nothing,
    security::users_and_groups,
    security::privileges,
    security::seccomp_profiles,
    security::paths_are_masked,
    security::profiles_in_the_old_fields,
    security::nothing_of_ours_is_open,
    security::operators_limit_and_own,
    security::read_only_is_recursive_or_refused,
    userns::pods_have_users_of_their_own,
    userns::volumes_have_mapped_ids,
    userns::image_volumes_have_the_users_of_the_pod,
    userns::limits_hold_in_user_namespaces,
    userns::bad_user_namespaces_leave_nothing,
    userns::the_host_network_with_own_users,
    files::mounts_are_as_asked,
    files::image_volumes_are_filled,
    files::devices_are_given,
    files::what_containers_write_is_on_the_disk,
    volumes::images_are_mounted_as_volumes,
    cdi::cdi_devices_are_given,
    handlers::handlers_run_side_by_side,
    handlers::a_handler_has_its_own_snapshotter,
    ends::exits_are_told_exactly,
    ends::stops_are_graceful,
    ends::memory_hogs_are_oom_killed,
    exec::exec_gives_output_and_code,
    exec::exec_is_bounded,
    exec::a_slow_start_given_up_holds_up_nothing,
    exec::sessions_leave_no_descriptors_and_threads,
    streaming::exec_streams_and_codes,
    streaming::exec_input_and_its_end,
    streaming::terminals_have_sizes,
    streaming::many_clients_attach,
    streaming::stdin_once_ends_with_its_first_client,
    streaming::attach_works_after_a_restart,
    streaming::urls_are_good_once,
    crictl::crictl_runs_a_pod,
    outside::commands_run,
    outside::terminals_are_resized,
    outside::containers_are_attached_to,
    outside::ports_are_forwarded,
    streaming::ports_of_pods_are_reached,
    streaming::ports_of_the_host_are_reached_unless_forbidden,
    logs::logs_have_the_format,
    logs::logs_are_reopened_without_loss,
    images::images_are_named_as_asked,
    images::disk_use_is_told_while_a_container_churns_files,
    images::removal_takes_all_names,
    images::one_download_for_many_pulls,
    registries::private_registries_want_the_password,
    registries::tokens_are_passed_on,
    registries::mirrors_are_asked_first,
    registries::tampered_content_is_refused,
    plugins::lists_of_all_versions_work,
    plugins::pods_have_addresses_of_two_families,
    plugins::capabilities_reach_their_plugins,
    plugins::plugins_that_fail_are_named,
    node::lists_are_filtered,
    node::status_is_true,
    node::verbose_facts_have_known_names,
    node::grpcurl_is_served,
    events::events_tell_the_life_of_a_pod,
    nri::plugins_hear_and_adjust,
    nri::refusals_leave_nothing,
    nri::hanging_plugins_are_dropped,
    nri::plugins_and_agents_come_back,
    nri::plugins_have_a_say_in_updates,
    nri::much_is_told,
    nri::a_sample_plugin_adjusts_limits,
    stats::containers_are_measured,
    stats::lists_outlive_what_ends_meanwhile,
    stats::pods_are_measured,
    stats::metrics_are_those_of_the_descriptors,
    updates::limits_change_while_it_runs,
    updates::limits_change_before_and_after,
    updates::refused_limits_change_nothing,
    updates::updates_survive_the_agent,
    hostile::images_do_not_reach_out,
    hostile::working_folders_are_the_containers,
    hostile::files_of_the_host_stay_as_they_are,
    hostile::parameters_of_the_host_stay_as_they_are,
    hostile::nothing_is_restored,
    hostile::much_output_is_not_the_containers_memory,
    checkpoints::containers_are_checkpointed,
    checkpoints::what_cannot_be_dumped_goes_on,
}
