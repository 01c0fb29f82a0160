//! Exits of containers: exit codes, stop signals, grace periods, out of memory.

use std::time::{Duration, Instant};

use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;
use crate::support::wait_until;

pub async fn exits_are_told_exactly(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("exits")).await;
    for (name, script, code, reason) in [
        ("zero", "exit 0", 0, "Completed"),
        ("seven", "exit 7", 7, "Error"),
        ("most", "exit 255", 255, "Error"),
        ("signal", "kill -ABRT $$", 134, "Error"),
    ] {
        // As PID 1 it would be immune to its own signal.
        let script = format!("sh -c '{script}'; exit $?");
        let status = rig.run_to_end(&pod, &Container::script(name, &rig.image, &script)).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (code, reason), "{name}");
        assert!(status.created_at > 0 && status.started_at >= status.created_at, "{status:?}");
        assert!(status.finished_at >= status.started_at, "{status:?}");
        assert_eq!(status.image_id, status.image_ref_or_id(), "{status:?}");
        rig.stop(&status.id, 5).await;
        rig.remove(&status.id).await;
        rig.remove(&status.id).await;
    }
    let id = rig.create(&pod, &Container::waiting("times", &rig.image)).await.expect("a container");
    let status = rig.status(&id).await;
    assert_eq!(status.state(), cri::ContainerState::ContainerCreated);
    assert_eq!((status.started_at, status.finished_at), (0, 0));
    rig.start_created(&id).await.expect("StartContainer");
    let status = rig.status(&id).await;
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    assert!(status.started_at > 0 && status.finished_at == 0);
    // Removal kills what runs.
    rig.remove(&id).await;
    let gone = rig.try_status(&id).await.expect_err("it is removed");
    assert_eq!(gone.code(), tonic::Code::NotFound, "{gone}");
    rig.stop("0123456789abcdef", 1).await;
    rig.finish().await;
}

/// The image id that the CRI wants in `image_id`.
trait ImageRef {
    fn image_ref_or_id(&self) -> String;
}

impl ImageRef for cri::ContainerStatus {
    fn image_ref_or_id(&self) -> String {
        assert!(!self.image_ref.is_empty() && self.image.is_some());
        self.image_id.clone()
    }
}

pub async fn stops_are_graceful(line: Line) {
    let mut rig = Rig::start(line).await;
    let image = rig.add_image("signal", ImageBuilder::busybox().stop_signal("SIGUSR1")).await;
    let pod = rig.run(rig.pod_spec("stops")).await;
    let traps = "trap 'exit 15' TERM; trap 'exit 10' USR1; trap 'exit 12' USR2; \
                 echo ready; while true; do sleep 1 & wait; done";
    let mut of_config = Container::script("config", &image, traps);
    of_config.config.stop_signal = cri::Signal::Sigusr2.into();
    for (container, code, signal) in [
        (Container::script("term", &rig.image, traps), 15, cri::Signal::Sigterm),
        (Container::script("image", &image, traps), 10, cri::Signal::Sigusr1),
        (of_config, 12, cri::Signal::Sigusr2),
    ] {
        let name = container.config.metadata.as_ref().expect("metadata").name.clone();
        let id = rig.launch(&pod, &container).await;
        assert_eq!(rig.status(&id).await.stop_signal(), signal, "{name}");
        ready(&rig, &pod, &name).await;
        rig.stop(&id, 20).await;
        assert_eq!(rig.status(&id).await.exit_code, code, "{name}");
    }
    // What does not listen is killed when its grace is over, or at once when there is none.
    let deaf = "trap '' TERM; echo ready; while true; do sleep 1; done";
    for (name, grace) in [("deaf", 2), ("now", 0)] {
        let id = rig.launch(&pod, &Container::script(name, &rig.image, deaf)).await;
        ready(&rig, &pod, name).await;
        let begun = Instant::now();
        rig.stop(&id, grace).await;
        let took = begun.elapsed();
        let least = Duration::from_secs(grace.unsigned_abs());
        assert!(took >= least && took < least + Duration::from_secs(15), "{name}: {took:?}");
        assert_eq!(rig.status(&id).await.exit_code, 137, "{name}");
        rig.stop(&id, grace).await;
    }
    // A second stop with less patience does not wait for the first.
    let id = rig.launch(&pod, &Container::script("twice", &rig.image, deaf)).await;
    ready(&rig, &pod, "twice").await;
    let begun = Instant::now();
    tokio::join!(rig.stop(&id, 120), rig.stop(&id, 1));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    rig.finish().await;
}

async fn ready(rig: &Rig, pod: &crate::rig::LivePod, name: &str) {
    wait_until(SOON, "its traps are set", async || rig.log(pod, name).contains("ready")).await;
}

pub async fn memory_hogs_are_oom_killed(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("hogs")).await;
    let hog = Container::new("hog", &rig.image)
        .command(&["/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=256M"])
        .memory_limit(32 << 20);
    let status = rig.run_to_end(&pod, &hog).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"), "{status:?}");
    // A container that is killed for another reason is no hog.
    let id =
        rig.launch(&pod, &Container::waiting("killed", &rig.image).memory_limit(64 << 20)).await;
    rig.stop(&id, 0).await;
    let status = rig.status(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "Error"));
    rig.finish().await;
}
