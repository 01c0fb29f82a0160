//! The end of a shim, of a pause process, and of the agent itself.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use podbay::proto::runtime::v1 as cri;

use crate::rig::{ContainerState, PodSandboxState, Rig, signal, write_program};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::process::processes_with;
use crate::support::wait_until;

/// How long a death below may stay unseen.
const SEEN: Duration = Duration::from_secs(10);

pub async fn a_dead_shim_or_pause_is_told(line: Line) {
    let rig = Rig::start(line).await;
    let mut runtime = rig.agent.runtime();
    let events = runtime.get_container_events(cri::GetEventsRequest::default()).await;
    let mut events = events.expect("events").into_inner();
    for (name, kills_shim) in [("pause", false), ("shim", true)] {
        let pod = rig.pod(name);
        let id = rig.run(&pod).await.expect("run");
        let main = rig.started(&pod, &id, &rig.waiting("main")).await;
        let victim = match kills_shim {
            true => rig.shim_of(&id).expect("a shim"),
            false => rig.pid(&id).await,
        };
        signal(victim, Signal::SIGKILL);
        wait_until(SEEN, "its pod is not ready", async || {
            rig.pod_status(&id).await.state() == PodSandboxState::SandboxNotready
        })
        .await;
        if kills_shim {
            wait_until(SEEN, "its container has exited", async || {
                rig.status(&main).await.state() == ContainerState::ContainerExited
            })
            .await;
        }
        let stopped = async {
            while let Ok(Some(event)) = events.message().await {
                if event.container_id == id
                    && event.container_event_type()
                        == cri::ContainerEventType::ContainerStoppedEvent
                {
                    return;
                }
            }
            panic!("the events ended");
        };
        tokio::time::timeout(SEEN, stopped).await.expect("an event of the pod's end");
        assert!(rig.create(&pod, &id, &rig.waiting("late")).await.is_err(), "the pod is dead");
        rig.stop(&id).await.expect("stop");
        let status = rig.status(&main).await;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert!([137, 255].contains(&status.exit_code), "{name}: {}", status.exit_code);
        assert!(!["", "Completed"].contains(&status.reason.as_str()), "{}", status.reason);
        rig.remove(&id).await.expect("remove");
    }
    drop(events);
    rig.clear().await;
}

pub async fn the_agent_ends_when_told(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.pod("stays");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    let before = (rig.pid(&id).await, rig.pid(&main).await);

    let (status, words) = rig.agent.second().await;
    let status = status.expect("a second agent on the same root ends by itself");
    assert_eq!(status.code(), Some(1), "{words}");
    let root = rig.agent.env.root().display().to_string();
    assert!(words.contains("podbay: ") && words.contains(&root), "{words}");
    assert!(rig.runtime_is_ready().await, "the first one is not disturbed");

    // Work is under way while it is told to end: a stop that takes its time, and creations.
    let stubborn = rig.script("stubborn", "trap '' TERM; while :; do sleep 1; done");
    let stubborn = rig.started(&pod, &id, &stubborn).await;
    let mut clients = tokio::task::JoinSet::new();
    let mut runtime = rig.agent.runtime();
    let request = cri::StopContainerRequest { container_id: stubborn, timeout: 60 };
    clients.spawn(async move { runtime.stop_container(request).await.map(drop) });
    for number in 0..4 {
        let (mut runtime, pod) = (rig.agent.runtime(), rig.pod(&format!("work-{number}")));
        clients.spawn(async move { runtime.run_pod_sandbox(pod.run()).await.map(drop) });
    }
    rig.agent.stop().await;
    clients.join_all().await;
    for pid in [before.0, before.1] {
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "a container ended");
    }
    rig.agent.restart().await;
    assert_eq!((rig.pid(&id).await, rig.pid(&main).await), before);
    assert_eq!(rig.exec(&main, "echo hello").await.expect("exec"), "hello\n");
    rig.clear().await;
}

/// Who stops a service may tell it more than once, in one way or another.
pub async fn more_signals_do_not_cut_the_drain(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.pod("drain");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    let slow = "trap 'echo told; sleep 2; exit 7' TERM; echo up; while :; do sleep 0.1; done";
    let slow = rig.started(&pod, &id, &rig.script("slow", slow)).await;
    let log = rig.log_of("drain", "slow");
    let said = |word: &str| std::fs::read_to_string(&log).unwrap_or_default().contains(word);
    wait_until(SEEN, "the container is up", async || said("up")).await;
    let before = (rig.pid(&id).await, rig.pid(&main).await);

    let mut runtime = rig.agent.runtime();
    let request = cri::StopContainerRequest { container_id: slow.clone(), timeout: 60 };
    let mut clients = tokio::task::JoinSet::new();
    clients.spawn(async move { runtime.stop_container(request).await.map(drop) });
    wait_until(SEEN, "the container is told to end", async || said("told")).await;
    let agent = rig.agent.pid();
    signal(agent, Signal::SIGTERM);
    wait_until(SEEN, "the agent drains", async || {
        rig.agent.log().contains("stopping; containers keep running")
    })
    .await;
    for again in [Signal::SIGTERM, Signal::SIGINT] {
        signal(agent, again);
    }
    // One more, and it ends in time and with success.
    rig.agent.stop().await;
    for stopped in clients.join_all().await {
        stopped.expect("the call under way is answered");
    }
    rig.agent.restart().await;
    assert_eq!((rig.pid(&id).await, rig.pid(&main).await), before);
    assert_eq!(rig.ended(&slow).await.0, 7);
    assert_eq!(rig.exec(&main, "echo hello").await.expect("exec"), "hello\n");
    rig.clear().await;
}

/// Whatever hangs below, an agent that is told to end does so, and its successor undoes the rest.
pub async fn a_hung_plugin_does_not_hold_the_end(line: Line) {
    let env = TestEnv::start(line).await;
    let hang = env.file("hang");
    let bridge = env.cni_bin_dir().join("bridge");
    let sleep = format!("sleep 600.{:05}", rand::random::<u16>());
    let script =
        format!("if [ -e {} ]; then {sleep}; fi\nexec {}", hang.display(), bridge.display());
    write_program(&env.extra_bin_dir().join("bridge"), &script);
    let mut rig = Rig::start_in(env).await;
    let stays = rig.pod("stays");
    let id = rig.run(&stays).await.expect("run");
    let main = rig.started(&stays, &id, &rig.waiting("main")).await;
    let going = rig.pod("going");
    let other = rig.run(&going).await.expect("run");
    let before = (rig.pid(&id).await, rig.pid(&main).await);

    std::fs::write(&hang, "").expect("a file");
    let mut clients = tokio::task::JoinSet::new();
    let (mut runtime, pod) = (rig.agent.runtime(), rig.pod("new"));
    clients.spawn(async move { runtime.run_pod_sandbox(pod.run()).await.map(drop) });
    let mut runtime = rig.agent.runtime();
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: other.clone() };
    clients.spawn(async move { runtime.stop_pod_sandbox(request).await.map(drop) });
    wait_until(SEEN, "an ADD and a DEL hang", async || {
        processes_with(&[sleep.as_str()]).len() >= 2
    })
    .await;
    rig.agent.stop().await;
    for answer in clients.join_all().await {
        answer.expect_err("it was not done");
    }
    std::fs::remove_file(&hang).expect("the file");
    rig.agent.restart().await;
    assert_eq!((rig.pid(&id).await, rig.pid(&main).await), before);
    wait_until(SEEN, "no plugin hangs any more", async || {
        processes_with(&[sleep.as_str()]).is_empty()
    })
    .await;
    rig.stop(&other).await.expect("stop");
    rig.run(&rig.pod("new")).await.expect("the same request again");
    rig.clear().await;
}

/// Needs no containerd: nothing of it is reached.
pub async fn a_wrong_configuration_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("podbay.toml");
    let text = "root = \"relative\"\n[network]\ndefault_bridge = \"far too long for it\"\n\
                [logs]\nmax_line = 1\n[no_such_table]\nx = 1\n";
    std::fs::write(&file, text).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
    let output = command.args(["agent", "--config"]).arg(&file).output().expect("it runs");
    let words = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{words}");
    for fault in ["root", "default_bridge", "max_line", "no_such_table"] {
        assert!(words.contains(fault), "{fault} is missing in:\n{words}");
    }
}

/// One shim that gives no answer costs its own pod, and only until it answers again.
pub async fn a_hung_shim_holds_nobody_up(line: Line) {
    let mut rig = Rig::start(line).await;
    let mut mains = Vec::new();
    for name in ["one", "hangs", "three"] {
        let pod = rig.pod(name);
        let id = rig.run(&pod).await.expect("run");
        let counts = rig.script("main", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.1; done");
        mains.push((rig.started(&pod, &id, &counts).await, id));
    }
    let (victim, its_pod) = mains.remove(1);
    // containerd asks the shims of these one after another when it lists all tasks.
    for number in 0..4 {
        let more = rig.waiting(&format!("more-{number}"));
        rig.started(&rig.pod("hangs"), &its_pod, &more).await;
    }
    let before = (rig.status(&victim).await, rig.pid(&victim).await);
    let shim = rig.shim_of(&its_pod).expect("a shim");
    signal(shim, Signal::SIGSTOP);
    rig.agent.restart().await;
    for (main, pod) in &mains {
        assert_eq!(rig.status(main).await.state(), ContainerState::ContainerRunning);
        assert_eq!(rig.pod_status(pod).await.state(), PodSandboxState::SandboxReady);
        assert_eq!(rig.exec(main, "echo hello").await.expect("exec"), "hello\n");
    }
    // Its process runs, and a kubelet would kill a container in an unknown state.
    assert_eq!((rig.status(&victim).await, rig.pid(&victim).await), before);
    signal(shim, Signal::SIGCONT);
    assert_eq!((rig.status(&victim).await, rig.pid(&victim).await), before, "nobody touched it");
    assert_eq!(rig.pod_status(&its_pod).await.state(), PodSandboxState::SandboxReady);
    assert_eq!(rig.exec(&victim, "echo hello").await.expect("exec"), "hello\n");
    for name in ["one", "hangs", "three"] {
        let log = rig.log_of(name, "main");
        let length = || std::fs::metadata(&log).map_or(0, |it| it.len());
        let before = length();
        wait_until(SEEN, "its log goes on", async || length() > before).await;
    }
    rig.clear().await;
}

/// A container whose shim hangs can be removed, which ends the pod: nothing of it works any more.
pub async fn a_container_of_a_hung_shim_can_be_removed(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.pod("hangs");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    let (process, shim) = (rig.pid(&main).await, rig.shim_of(&id).expect("a shim"));
    signal(shim, Signal::SIGSTOP);
    rig.remove_container(&main).await.expect("remove");
    assert!(rig.containers().await.is_empty());
    assert_eq!(rig.pod_status(&id).await.state(), PodSandboxState::SandboxNotready);
    assert_eq!(rig.shim_of(&id), None);
    // Whoever has to reap it may not have done so yet.
    let command = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    assert!(command.is_empty(), "its process lives");
    rig.clear().await;
}
