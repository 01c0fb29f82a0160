//! Whole pods on fakes: the engine's decisions, from the manifest to the complete removal of a pod.

#[path = "pod_fakes/controller.rs"]
mod controller;
#[path = "pod_fakes/ends.rs"]
mod ends;
#[path = "pod_fakes/ephemeral.rs"]
mod ephemeral;
#[allow(dead_code)]
#[path = "../examples/controller.rs"]
mod example;
#[path = "pod_fakes/keep.rs"]
mod keep;
#[path = "pod_fakes/life.rs"]
mod life;
#[path = "pod_fakes/objects.rs"]
mod objects;
#[path = "pod_fakes/preempt.rs"]
mod preempt;
#[path = "pod_fakes/resize.rs"]
mod resize;
#[path = "pod_fakes/restarts.rs"]
mod restarts;
#[path = "pod_fakes/rig.rs"]
mod rig;
#[path = "pod_fakes/shutdown.rs"]
mod shutdown;
#[path = "pod_fakes/statics.rs"]
mod statics;
#[path = "pod_fakes/strays.rs"]
mod strays;
#[path = "pod_fakes/told.rs"]
mod told;
#[path = "pod_fakes/watches.rs"]
mod watches;
#[allow(dead_code)]
#[path = "cri_fakes/world.rs"]
mod world;
