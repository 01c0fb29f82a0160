//! The agent is killed in the middle of a step, while a CNI plugin or the OCI runtime is made to
//! wait.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use podbay::proto::runtime::v1 as cri;
use tonic::Status;

use crate::rig::{ContainerState, PodSandboxState, Rig, SOON, at_once, write_program};
use crate::support::builders::Pod;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::gate::Gate;
use crate::support::images::ImageBuilder;
use crate::support::process::processes_with;
use crate::support::registry::Registry;
use crate::support::{eventually, parts, wait_until};

/// How long a held step takes. The new agent is up before it goes on.
const HELD_SECONDS: u32 = 3;

/// How long the next agent may take to answer, whatever hangs.
const UP: Duration = Duration::from_secs(10);

/// Steps that can be held, by a word each: CNI's `ADD` and `DEL`, runc's `create` and `start`.
struct Holds {
    dir: PathBuf,
}

impl Holds {
    /// Puts programs in front of the bridge plugin and of runc that wait when they are told to.
    fn prepare(env: &mut TestEnv) -> Self {
        let dir = env.file("holds");
        std::fs::create_dir(&dir).expect("a folder");
        // A hold works once: who finds its file takes it away, and tells that it waits.
        let wait = format!(
            "if mv {at}/hold.$word {at}/waits.$word 2>/dev/null; then sleep {HELD_SECONDS}; \
             rm {at}/waits.$word; fi",
            at = dir.display()
        );
        let ipam = env.cni_bin_dir().join("host-local");
        let plugin = format!("word=address-$CNI_COMMAND\n{wait}\nexec {}", ipam.display());
        write_program(&env.extra_bin_dir().join("host-local"), &plugin);
        let bridge = env.cni_bin_dir().join("bridge");
        let plugin = format!("word=$CNI_COMMAND\n{wait}\nexec {} \"$@\"", bridge.display());
        write_program(&env.extra_bin_dir().join("bridge"), &plugin);
        let find = "for arg; do case $arg in create|start) word=$arg; break;; esac; done";
        let runc = format!("word=none\n{find}\n{wait}\nexec {} \"$@\"", runc(env.line).display());
        let program = env.file("slow-runc");
        write_program(&program, &runc);
        env.add_config(&format!("[runtimes.handlers.runc]\nbinary = {program:?}"));
        Self { dir }
    }

    /// Does `work` with this step held, and kills the agent meanwhile.
    async fn kill_in(&self, word: &str, work: impl Future<Output = Result<(), Status>>, pid: u32) {
        std::fs::write(self.dir.join(format!("hold.{word}")), "").expect("a hold");
        let waits = self.dir.join(format!("waits.{word}"));
        let (result, ()) = tokio::join!(work, async {
            wait_until(SOON, "the held step is reached", async || waits.exists()).await;
            crate::rig::signal(pid, nix::sys::signal::Signal::SIGKILL);
        });
        assert!(result.is_err(), "it was answered although the agent was killed");
    }

    /// Waits until what the killed agent has started is through its held step, or was killed in it.
    async fn over(&self) {
        let limit = Duration::from_secs(u64::from(HELD_SECONDS) + 1);
        let names = || std::fs::read_dir(&self.dir).expect("the holds");
        eventually(limit, async || names().next().is_none().then_some(())).await;
        for name in names() {
            std::fs::remove_file(name.expect("a name").path()).expect("remove a hold");
        }
    }
}

fn runc(line: Line) -> PathBuf {
    match line {
        Line::V1 => "/usr/sbin/runc".into(),
        Line::V2 => parts().join("runc"),
    }
}

async fn start(line: Line) -> (Rig, Holds) {
    let mut env = TestEnv::start(line).await;
    let holds = Holds::prepare(&mut env);
    (Rig::start_in(env).await, holds)
}

pub async fn a_creation_that_is_cut_is_undone(line: Line) {
    let (mut rig, holds) = start(line).await;
    let pod = rig.pod("cut");
    for word in ["ADD", "address-ADD", "create", "start"] {
        let pid = rig.agent.pid();
        let work = async { rig.run(&pod).await.map(drop) };
        holds.kill_in(word, work, pid).await;
        rig.agent.restart().await;
        // Until a shim that is busy below lets go, the pod is listed as not ready.
        wait_until(SOON, "the creation is undone", async || rig.pods().await.is_empty()).await;
        // What the killed agent started still went on below, and may leave nothing either.
        holds.over().await;
        rig.agent.assert_clean().await;
    }
    let id = rig.run(&pod).await.expect("the same request again");
    let container = rig.waiting("main");
    let first = rig.create(&pod, &id, &container).await.expect("create");
    rig.agent.restart().await;
    let second = rig.create(&pod, &id, &container).await.expect("the same request again");
    assert_eq!(first, second, "an acknowledged container is found again");
    rig.clear().await;
}

pub async fn a_plugin_that_hangs_does_not_hold_the_next_agent(line: Line) {
    let env = TestEnv::start(line).await;
    let (hang, hangs) = (env.file("hang"), env.file("hangs"));
    // The child of the plugin is known by its own number of seconds.
    let sleep = format!("sleep 600.{:05}", rand::random::<u16>());
    let script = format!(
        "if [ \"$CNI_COMMAND\" = ADD ] && mv {} {} 2>/dev/null; then {sleep}; fi\nexec {} \"$@\"",
        hang.display(),
        hangs.display(),
        env.cni_bin_dir().join("bridge").display()
    );
    let plugin = env.extra_bin_dir().join("bridge");
    write_program(&plugin, &script);
    let plugin = plugin.display().to_string();
    let mut rig = Rig::start_in(env).await;
    std::fs::write(&hang, "").expect("a hold");
    let pid = rig.agent.pid();
    let pod = rig.pod("cut");
    let at_work = |words: &str| !processes_with(&[words]).is_empty();
    let (result, ()) = tokio::join!(rig.run(&pod), async {
        wait_until(SOON, "the plugin hangs", async || at_work(&sleep)).await;
        crate::rig::signal(pid, nix::sys::signal::Signal::SIGKILL);
    });
    assert!(result.is_err(), "it was answered although the agent was killed");
    assert!(at_work(&plugin), "the plugin outlives its agent");

    let began = Instant::now();
    rig.agent.restart().await;
    let request = at_once(cri::StatusRequest::default());
    rig.agent.runtime().status(request).await.expect("a status");
    assert!(began.elapsed() < UP, "the next agent was held for {:?}", began.elapsed());
    wait_until(SOON, "the plugin has ended with its child", async || {
        !at_work(&plugin) && !at_work(&sleep)
    })
    .await;
    wait_until(SOON, "the creation is undone", async || rig.pods().await.is_empty()).await;
    rig.agent.assert_clean().await;
    rig.run(&pod).await.expect("the same request again");
    rig.clear().await;
}

pub async fn a_start_that_is_cut_can_be_tried_again(line: Line) {
    let (mut rig, holds) = start(line).await;
    let pod = rig.pod("cut");
    let id = rig.run(&pod).await.expect("run");
    for (place, word) in ["create", "start"].into_iter().enumerate() {
        let name = format!("main-{place}");
        let prints = "trap 'exit 0' TERM; while :; do echo tick; sleep 0.1 & wait $!; done";
        let first = rig.create(&pod, &id, &rig.script(&name, prints)).await.expect("create");
        let pid = rig.agent.pid();
        holds.kill_in(word, rig.begin(&first), pid).await;
        rig.agent.restart().await;
        holds.over().await;
        wait_until(SOON, "its shim answers again", async || {
            rig.status(&first).await.state() != ContainerState::ContainerUnknown
        })
        .await;
        let container = started_again(&rig, &pod, &id, first.clone()).await;
        assert_eq!(
            rig.status(&container).await.state(),
            ContainerState::ContainerRunning,
            "{word}"
        );
        assert_eq!(rig.exec(&container, "echo hello").await.expect("exec"), "hello\n");
        if container == first {
            let log = rig.log_of("cut", &name);
            let length = || std::fs::metadata(&log).map_or(0, |it| it.len());
            let before = length();
            wait_until(SOON, "its output is logged", async || length() > before).await;
        }
        rig.stop_container(&container, 5).await.expect("stop");
        assert_eq!(rig.ended(&container).await.0, 0);
    }
    assert_eq!(rig.pod_status(&id).await.state(), PodSandboxState::SandboxReady);
    rig.clear().await;
}

/// The same request again. An old containerd may still be clearing the cut one away; then the
/// container has failed to start, and the next attempt works.
async fn started_again(rig: &Rig, pod: &Pod, pod_id: &str, id: String) -> String {
    if rig.status(&id).await.state() == ContainerState::ContainerRunning
        || rig.begin(&id).await.is_ok()
    {
        return id;
    }
    let (code, reason) = rig.ended(&id).await;
    assert_eq!((code, reason.as_str()), (128, "StartError"));
    rig.remove_container(&id).await.expect("remove");
    rig.started(pod, pod_id, &rig.waiting("second").attempt(1)).await
}

pub async fn a_teardown_that_is_cut_goes_on(line: Line) {
    let (mut rig, holds) = start(line).await;
    for removes in [false, true] {
        let pod = rig.pod("cut");
        let id = rig.run(&pod).await.expect("run");
        let main = rig.started(&pod, &id, &rig.waiting("main")).await;
        let pid = rig.agent.pid();
        let work = async {
            match removes {
                false => rig.stop(&id).await,
                true => rig.remove(&id).await,
            }
        };
        holds.kill_in("DEL", work, pid).await;
        rig.agent.restart().await;
        let status = rig.pod_status(&id).await;
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        assert_eq!(rig.ended(&main).await.0, 137);
        rig.stop(&id).await.expect("the same request again");
        rig.remove(&id).await.expect("remove");
        rig.remove(&id).await.expect("remove again");
        holds.over().await;
        rig.agent.assert_clean().await;
    }
    rig.clear().await;
}

pub async fn a_pull_that_is_cut_leaves_nothing(line: Line) {
    let mut rig = Rig::start(line).await;
    let registry = Registry::start().await;
    // Larger than what passes the gate, and than what a socket holds.
    let mut noise = vec![0; 8 << 20];
    rand::fill(&mut noise[..]);
    let image = ImageBuilder::busybox().file("noise", &noise, 0o644).build();
    registry.push(&image, "large", "1").await;
    let gate = Gate::with_limit(&registry, 1 << 20).await;
    let name = format!("{}/large:1", gate.host());
    let pull = async |rig: &Rig| {
        let spec = cri::ImageSpec { image: name.clone(), ..Default::default() };
        let request = cri::PullImageRequest { image: Some(spec), ..Default::default() };
        rig.agent.images().pull_image(request).await
    };
    let pid = rig.agent.pid();
    let (result, ()) = tokio::join!(pull(&rig), async {
        tokio::time::timeout(SOON, gate.waits()).await.expect("the pull is under way");
        crate::rig::signal(pid, nix::sys::signal::Signal::SIGKILL);
    });
    assert!(result.is_err(), "it was answered although the agent was killed");
    rig.agent.restart().await;
    rig.agent.assert_clean().await;
    gate.open();
    assert_eq!(pull(&rig).await.expect("the same pull again").into_inner().image_ref, image.id);
    let spec = cri::ImageSpec { image: name.clone(), ..Default::default() };
    let remove = cri::RemoveImageRequest { image: Some(spec) };
    rig.agent.images().remove_image(remove).await.expect("remove");
    rig.clear().await;
}

pub async fn execs_of_a_killed_agent_are_ended(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.pod("execs");
    let id = rig.run(&pod).await.expect("run");
    let main = rig.started(&pod, &id, &rig.waiting("main")).await;
    let sleeps = async |rig: &Rig| {
        let list = rig.exec(&main, "ps -o args").await.expect("ps");
        list.lines().filter(|line| *line == "sleep 4244").count()
    };
    let exec = rig.exec(&main, "sleep 4244 & (sleep 4244 &); sleep 4244");
    // Cancel-safe: the call ends with the agent.
    tokio::select! {
        ended = exec => panic!("it does not end by itself: {ended:?}"),
        () = wait_until(SOON, "the exec runs", async || sleeps(&rig).await == 3) => {}
    }
    rig.agent.kill9();
    rig.agent.restart().await;
    wait_until(SOON, "the exec has ended", async || sleeps(&rig).await == 0).await;
    let folder = rig.agent.env.state().join("containers").join(&main);
    wait_until(SOON, "its FIFOs are gone", async || {
        let names = std::fs::read_dir(&folder).expect("the container's folder").flatten();
        !names.into_iter().any(|it| it.file_name().to_string_lossy().starts_with("exec-"))
    })
    .await;
    assert_eq!(rig.status(&main).await.state(), ContainerState::ContainerRunning);
    rig.clear().await;
}
