//! ExecSync.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use podbay::proto::runtime::v1 as cri;

use crate::rig::{LivePod, Rig, SOON, lossy};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::{eventually, wait_until};
use crate::websocket::Session;

pub async fn exec_gives_output_and_code(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("exec")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let done = rig.try_exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 3"], 10).await;
    let done = done.expect("ExecSync");
    assert_eq!((lossy(&done.stdout).as_str(), lossy(&done.stderr).as_str()), ("out\n", "err\n"));
    assert_eq!(done.exit_code, 3);
    let quiet = rig.try_exec(&id[..12], &["true"], 0).await.expect("a short id");
    assert_eq!((quiet.stdout.len(), quiet.stderr.len(), quiet.exit_code), (0, 0, 0));
    let missing = rig.try_exec(&id, &["/no/such/program"], 10).await.expect_err("no program");
    assert!(missing.message().contains("/no/such/program"), "{missing}");
    let none = rig.try_exec(&id, &[], 10).await.expect_err("no command");
    assert_eq!(none.code(), tonic::Code::InvalidArgument, "{none}");
    let unknown = rig.try_exec("0123", &["true"], 10).await.expect_err("no container");
    assert_eq!(unknown.code(), tonic::Code::NotFound, "{unknown}");
    // Probes come in crowds.
    let crowd = (0..10).map(|n| {
        let (rig, id) = (&rig, &id);
        async move { rig.exec(id, &format!("echo {n}")).await }
    });
    let heard = futures::future::join_all(crowd).await;
    assert_eq!(heard, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    rig.finish().await;
}

pub async fn exec_is_bounded(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("bounded")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let begun = Instant::now();
    let late = rig.try_exec(&id, &["sleep", "4242"], 1).await.expect_err("it takes too long");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    wait_until(SOON, "the late command is gone", async || {
        !rig.exec(&id, "ps -o args").await.contains("sleep 4242")
    })
    .await;
    // So is all that a late command has started, whether it still has its parent or not.
    let family = "sleep 4243 & (sleep 4243 &); sleep 4243";
    let late = rig.try_exec(&id, &["sh", "-c", family], 1).await.expect_err("it takes too long");
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    wait_until(SOON, "its children are gone", async || {
        !rig.exec(&id, "ps -o args").await.lines().any(|line| line == "sleep 4243")
    })
    .await;
    // An answer has to fit into a message of 16 MiB, whatever a command says.
    const MESSAGE: usize = 16 << 20;
    const ROOM: usize = 128 << 10;
    let one = "head -c 20971520 /dev/zero; echo said >&2";
    let one = rig.try_exec(&id, &["sh", "-c", one], 60).await.expect("much output");
    assert!((MESSAGE - ROOM..MESSAGE).contains(&one.stdout.len()), "{}", one.stdout.len());
    assert_eq!((lossy(&one.stderr).as_str(), one.exit_code), ("said\n", 0));
    let both = "head -c 20971520 /dev/zero; head -c 20971520 /dev/zero >&2";
    let both = rig.try_exec(&id, &["sh", "-c", both], 60).await.expect("much output");
    let total = both.stdout.len() + both.stderr.len();
    assert!((MESSAGE - ROOM..MESSAGE).contains(&total), "{total}");
    assert_eq!(both.stdout.len(), both.stderr.len());
    // A child that keeps the streams does not keep the answer.
    let begun = Instant::now();
    let done = rig.try_exec(&id, &["sh", "-c", "echo started; sleep 60 &"], 30).await;
    assert_eq!(lossy(&done.expect("ExecSync").stdout), "started\n");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    rig.finish().await;
}

/// A runtime that takes longer than the command may run: the call ends in time, and as the
/// runtime gets ready the shim must not wait for anybody to read. It would for half a minute.
pub async fn a_slow_start_given_up_holds_up_nothing(line: Line) {
    let mut env = TestEnv::start(line).await;
    let slow = env.file("slow-runc");
    let wait = "for word; do [ \"$word\" = exec ] && sleep 3 && break; done";
    fs::write(&slow, format!("#!/bin/sh\n{wait}\nexec /usr/sbin/runc \"$@\"\n")).expect("a script");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("its mode");
    env.add_config(&format!("[runtimes.handlers.slow]\nbinary = {:?}", slow.display().to_string()));
    let rig = Rig::start_in(env).await;
    let spec = rig.pod_spec("slow");
    let request = cri::RunPodSandboxRequest { runtime_handler: "slow".into(), ..spec.run() };
    let answer = rig.runtime().run_pod_sandbox(request).await.expect("RunPodSandbox");
    let pod = LivePod { spec, id: answer.into_inner().pod_sandbox_id };
    let id = rig.launch(&pod, &Container::waiting("c", &rig.image)).await;
    for _ in 0..2 {
        let late = rig.try_exec(&id, &["true"], 1).await.expect_err("it takes too long");
        assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late}");
    }
    let done = rig.try_exec(&id, &["echo", "here"], 20).await.expect("the shim is free");
    assert_eq!(lossy(&done.stdout), "here\n");
    rig.finish().await;
}

/// The open descriptors of a process by what they are, without the numbers in it, and the number of
/// its threads. The statistics of what runs keep files of cgroups open, which come with the time.
fn held(pid: u32) -> (BTreeMap<String, usize>, usize) {
    let names = |folder: &str| fs::read_dir(format!("/proc/{pid}/{folder}")).expect(folder);
    let mut kinds = BTreeMap::new();
    for entry in names("fd").flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if target.starts_with("/sys/fs/cgroup") {
            continue;
        }
        let target = target.to_string_lossy().replace(|c: char| c.is_ascii_hexdigit(), "");
        *kinds.entry(target).or_default() += 1;
    }
    (kinds, names("task").count())
}

pub async fn sessions_leave_no_descriptors_and_threads(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("many")).await;
    let mut spec = Container::script("c", &rig.image, "while read x; do echo $x; done").tty();
    spec.config.stdin = true;
    let id = rig.launch(&pod, &spec).await;
    let protocol = "v4.channel.k8s.io";
    let session = async |number: usize| {
        if number.is_multiple_of(4) {
            drop(Session::open(&rig.attach_url(&id, true, true).await, protocol).await);
            return;
        }
        // It fails, is not there, or its client leaves.
        let script = ["exit 3", "exec /no/such/program", "sleep 4242"][number % 4 - 1];
        let mut session = Session::open(&rig.exec_url(&id, script, true).await, protocol).await;
        if script != "sleep 4242" {
            assert_ne!(session.code().await, "0");
        }
    };
    let pid = rig.agent.pid();
    // What is kept from the first sessions on is there.
    futures::future::join_all((0..8).map(&session)).await;
    let calm = async || {
        wait_until(SOON, "nobody sleeps", async || {
            !rig.exec(&id, "ps -o args").await.contains("sleep 4242")
        })
        .await;
    };
    calm().await;
    let before = held(pid);
    for number in 0..200 {
        session(number).await;
    }
    calm().await;
    let mut now = before.clone();
    let freed = eventually(SOON, async || {
        now = held(pid);
        let no_more = |(kind, count): (&String, &usize)| before.0.get(kind) >= Some(count);
        (now.0.iter().all(no_more) && now.1 <= before.1).then_some(())
    });
    assert!(freed.await.is_some(), "before {before:?}\nnow {now:?}");
    rig.finish().await;
}
