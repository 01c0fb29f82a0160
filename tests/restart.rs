//! Restarts and faults, with the real binary on both lines of containerd: the agent, containerd, a
//! shim or a pause process is killed at critical moments, and resources are removed externally.
//! What was acknowledged must remain, what was not must be gone, and nothing may be left over.

mod support;

#[path = "restart/agent.rs"]
mod agent;
#[path = "restart/daemon.rs"]
mod daemon;
#[path = "restart/ends.rs"]
mod ends;
#[path = "restart/foreign.rs"]
mod foreign;
#[path = "restart/midway.rs"]
mod midway;
#[path = "restart/rig.rs"]
mod rig;

use support::containerd::Line;
use support::on_both_lines;

on_both_lines! {
    agent::running_pods_are_taken_over,
    agent::kills_at_random_moments_lose_nothing,
    midway::a_creation_that_is_cut_is_undone,
    midway::a_plugin_that_hangs_does_not_hold_the_next_agent,
    midway::a_start_that_is_cut_can_be_tried_again,
    midway::a_teardown_that_is_cut_goes_on,
    midway::a_pull_that_is_cut_leaves_nothing,
    midway::execs_of_a_killed_agent_are_ended,
    daemon::a_killed_containerd_loses_nothing,
    daemon::containerd_dies_at_random_moments,
    daemon::a_hung_containerd_does_not_hang_the_agent,
    ends::a_dead_shim_or_pause_is_told,
    ends::the_agent_ends_when_told,
    ends::more_signals_do_not_cut_the_drain,
    ends::a_hung_plugin_does_not_hold_the_end,
    ends::a_hung_shim_holds_nobody_up,
    ends::a_container_of_a_hung_shim_can_be_removed,
    foreign::what_foreign_hands_take_away_is_not_missed,
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_with_all_its_faults() {
    ends::a_wrong_configuration_is_refused().await;
}
