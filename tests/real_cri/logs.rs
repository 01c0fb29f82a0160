//! Logs of containers.

use std::path::PathBuf;

use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, SOON, entries};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::wait_until;

pub async fn logs_have_the_format(line: Line) {
    let mut rig = Rig::start(line).await;
    let long = "x".repeat(40_000);
    let image = crate::support::images::ImageBuilder::busybox().file(
        "/long",
        format!("{long}\n").as_bytes(),
        0o644,
    );
    let image = rig.add_image("long", image).await;
    let pod = rig.run(rig.pod_spec("format")).await;
    let script = "echo out; echo err >&2; printf 'a\\r2020-01-01T00:00:00Z stderr F forged\\n'; \
                  echo; printf 'no end'";
    let status = rig.run_to_end(&pod, &Container::script("both", &rig.image, script)).await;
    assert_eq!(
        PathBuf::from(&status.log_path).parent(),
        Some(&*PathBuf::from(&pod.spec.config.log_directory))
    );
    let log = rig.log(&pod, "both");
    let found = entries(&log);
    let of = |stream: &str| -> Vec<(&str, &str)> {
        let mine = found.iter().filter(|entry| entry.stream == stream);
        mine.map(|entry| (entry.tag.as_str(), entry.text.as_str())).collect()
    };
    assert_eq!(of("stderr"), [("F", "err")]);
    let forged = "a\r2020-01-01T00:00:00Z stderr F forged";
    assert_eq!(of("stdout"), [("F", "out"), ("F", forged), ("F", ""), ("P", "no end")]);
    let times: Vec<_> = found.iter().map(|entry| &entry.time).collect();
    assert!(times.is_sorted(), "{times:?}");

    let status =
        rig.run_to_end(&pod, &Container::new("long", &image).command(&["cat", "/long"])).await;
    let found = entries(&std::fs::read_to_string(&status.log_path).expect("the log"));
    let shape: Vec<_> = found.iter().map(|entry| (entry.tag.as_str(), entry.text.len())).collect();
    assert_eq!(shape, [("P", 16384), ("P", 16384), ("F", 40_000 - 2 * 16384)]);
    assert_eq!(found.iter().map(|entry| entry.text.as_str()).collect::<String>(), long);

    // A folder of its own for the log is made; without a path there is no log.
    let mut nested = Container::script("nested", &rig.image, "echo x");
    nested.config.log_path = "a/b/0.log".into();
    let status = rig.run_to_end(&pod, &nested).await;
    assert!(status.log_path.ends_with("/a/b/0.log") && PathBuf::from(&status.log_path).exists());
    let mut silent = Container::script("silent", &rig.image, "head -c 200000 /dev/zero; exit 4");
    silent.config.log_path.clear();
    let status = rig.run_to_end(&pod, &silent).await;
    assert_eq!((status.log_path.as_str(), status.exit_code), ("", 4));
    rig.finish().await;
}

pub async fn logs_are_reopened_without_loss(line: Line) {
    const ROTATIONS: usize = 20;
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("rotated")).await;
    let script = "i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); echo $i; done";
    let id = rig.launch(&pod, &Container::script("c", &rig.image, script)).await;
    let path = PathBuf::from(rig.status(&id).await.log_path);
    let reopen = cri::ReopenContainerLogRequest { container_id: id.clone() };
    for n in 0..ROTATIONS {
        wait_until(SOON, "the log grows", async || path.metadata().is_ok_and(|it| it.len() > 0))
            .await;
        std::fs::rename(&path, path.with_extension(format!("{n:03}"))).expect("a rename");
        rig.runtime().reopen_container_log(reopen.clone()).await.expect("ReopenContainerLog");
        assert!(path.exists(), "the new file is there when the call returns");
    }
    // The command may die with the container that it ends.
    rig.try_exec(&id, &["touch", "/tmp/end"], 20).await.expect("ExecSync");
    rig.ended(&id).await;
    let names =
        (0..ROTATIONS).map(|n| path.with_extension(format!("{n:03}"))).chain([path.clone()]);
    let mut next = 1_u64;
    for name in names {
        for entry in entries(&std::fs::read_to_string(&name).expect("a log")) {
            assert_eq!(entry.text, next.to_string(), "in {}", name.display());
            next += 1;
        }
    }
    assert!(next > ROTATIONS as u64);
    // Of a container that does not run there is nothing to reopen, and no file is made.
    std::fs::remove_file(&path).expect("the log");
    let refused = rig.runtime().reopen_container_log(reopen).await.expect_err("it does not run");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(!path.exists());
    rig.finish().await;
}
