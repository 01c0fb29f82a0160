//! The containerd adapter with real daemons of both lines, one per test. Needs root, and fails
//! rather than skips when a daemon is missing.

#[path = "support/containerd.rs"]
mod containerd;
#[path = "real_backend/daemon.rs"]
mod daemon;
#[path = "real_backend/image.rs"]
mod image;
#[path = "real_backend/images.rs"]
mod images;
#[path = "support/parts.rs"]
mod parts;
#[path = "real_backend/processes.rs"]
mod processes;
#[path = "real_backend/records.rs"]
mod records;
#[path = "real_backend/rig.rs"]
mod rig;
#[path = "real_backend/room.rs"]
mod room;

use containerd::Line;
use parts::parts;
use rig::Rig;

macro_rules! on_both_lines {
    ($($room:ident::$name:ident,)*) => {
        $(mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v1() {
                $room::$name(&mut Rig::start(Line::V1)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v2() {
                $room::$name(&mut Rig::start(Line::V2)).await;
            }
        })*
    };
}

on_both_lines! {
    images::a_blob_is_written_and_read,
    images::slow_readers_hold_up_no_writer,
    images::a_dropped_write_is_resumed,
    images::wrong_blobs_leave_nothing,
    images::an_ingest_has_one_writer,
    images::layers_are_unpacked_and_checked,
    images::names_come_move_and_go,
    images::leases_and_names_hold_content,
    images::usage_is_summed,
    room::a_layer_larger_than_the_disk_is_ended,
    records::a_record_lives,
    records::a_root_outlives_the_collector,
    processes::a_process_runs_to_its_end,
    processes::a_process_is_killed,
    processes::many_waits_hold_up_nothing,
    processes::an_unstarted_task_is_deleted,
    processes::execs_have_output_and_codes,
    processes::stdin_ends_and_terminals_are_resized,
    processes::limits_change_and_processes_are_listed,
    processes::bad_requests_are_told_apart,
    daemon::it_says_what_it_can,
    daemon::events_hurry,
    daemon::memory_limits_are_reported,
    daemon::a_wait_survives_a_killed_daemon,
    daemon::a_dead_shim_is_cleaned_up,
}
