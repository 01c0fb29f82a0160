//! The CRI service and the rooms behind it on a host of fakes: whole lifecycles, failures at every
//! step, crashes at every step, a daemon that goes down.

#[path = "cri_fakes/attach.rs"]
mod attach;
#[path = "cri_fakes/away.rs"]
mod away;
#[path = "cri_fakes/calls.rs"]
mod calls;
#[path = "cri_fakes/cdi.rs"]
mod cdi;
#[path = "cri_fakes/checkpoints.rs"]
mod checkpoints;
#[path = "cri_fakes/containers.rs"]
mod containers;
#[path = "cri_fakes/crashes.rs"]
mod crashes;
#[path = "cri_fakes/crowds.rs"]
mod crowds;
#[path = "cri_fakes/door.rs"]
mod door;
#[path = "cri_fakes/events.rs"]
mod events;
#[path = "cri_fakes/execs.rs"]
mod execs;
#[path = "cri_fakes/failures.rs"]
mod failures;
#[path = "cri_fakes/full_disk.rs"]
mod full_disk;
#[path = "cri_fakes/hooked_updates.rs"]
mod hooked_updates;
#[path = "cri_fakes/hooks.rs"]
mod hooks;
#[path = "cri_fakes/joins.rs"]
mod joins;
#[path = "cri_fakes/manners.rs"]
mod manners;
#[path = "cri_fakes/metrics.rs"]
mod metrics;
#[path = "support/nri.rs"]
mod plugin;
#[path = "cri_fakes/pods.rs"]
mod pods;
#[path = "cri_fakes/recoveries.rs"]
mod recoveries;
#[path = "cri_fakes/restarts.rs"]
mod restarts;
#[path = "cri_fakes/selinux.rs"]
mod selinux;
#[path = "cri_fakes/sessions.rs"]
mod sessions;
#[path = "cri_fakes/stats.rs"]
mod stats;
#[path = "cri_fakes/strays.rs"]
mod strays;
#[path = "cri_fakes/streamed_lists.rs"]
mod streamed_lists;
#[path = "cri_fakes/streams.rs"]
mod streams;
#[path = "cri_fakes/teardowns.rs"]
mod teardowns;
#[path = "cri_fakes/updates.rs"]
mod updates;
#[path = "cri_fakes/volumes.rs"]
mod volumes;
#[path = "cri_fakes/wishes.rs"]
mod wishes;
#[path = "cri_fakes/world.rs"]
mod world;
