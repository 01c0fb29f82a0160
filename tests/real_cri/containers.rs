//! Containers: processes, limits, streams, and refused requests.

use std::path::PathBuf;

use podbay::proto::runtime::v1 as cri;

use crate::rig::{LivePod, Rig};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::images::ImageBuilder;

pub async fn commands_follow_image_and_config(line: Line) {
    let mut rig = Rig::start(line).await;
    let image = ImageBuilder::busybox()
        .entrypoint(&["/bin/echo", "entry"])
        .cmd(&["cmd"])
        .env("COLOUR=red")
        .env("SHAPE=round")
        .working_dir("/srv/app")
        .label("containerd.io/restart.loguri", "binary:///bin/false")
        .label("io.cri-containerd.kind", "sandbox")
        .label("plain", "yes");
    let image = rig.add_image("rules", image).await;
    let bare = rig.add_image("bare", ImageBuilder::busybox().cmd(&[])).await;
    let pod = rig.run(rig.pod_spec("rules")).await;
    let words = |command: &[&str], args: &[&str], name: &str| {
        Container::new(name, &image).command(command).args(args)
    };
    for (name, command, args, said) in [
        ("image", &[][..], &[][..], "entry cmd"),
        ("args", &[], &["mine"], "entry mine"),
        ("command", &["/bin/echo", "own"], &[], "own"),
        ("both", &["/bin/echo", "own"], &["mine"], "own mine"),
    ] {
        let (output, code) = rig.output(&pod, &words(command, args, name)).await;
        assert_eq!((output.as_str(), code), (said, 0), "{name}");
    }
    let script = "echo $COLOUR $SHAPE $EXTRA; pwd; echo $HOSTNAME";
    let container =
        Container::script("env", &image, script).env("COLOUR", "blue").env("EXTRA", "x=y z");
    assert_eq!(rig.output(&pod, &container).await.0, "blue round x=y z\n/srv/app\nrules");
    let mut container = Container::script("dir", &image, "pwd");
    container.config.working_dir = "/new/place".into();
    let (output, _) = rig.output(&pod, &container).await;
    assert_eq!(output, "/new/place");

    let refused = rig.create(&pod, &Container::new("none", &bare)).await.expect_err("no command");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    // Labels of an image that mean something to containerd do not reach its record.
    let ctr = ctr_info(&rig, &pod).await;
    assert_eq!(ctr["plain"], "yes");
    assert_eq!(ctr["io.cri-containerd.kind"], "container");
    assert!(ctr.get("containerd.io/restart.loguri").is_none(), "{ctr}");
    rig.finish().await;
}

/// Labels of one container of the pod as containerd has them.
async fn ctr_info(rig: &Rig, pod: &LivePod) -> serde_json::Value {
    use containerd_client::services::v1::GetContainerRequest;
    use containerd_client::services::v1::containers_client::ContainersClient;
    let filter = cri::ContainerFilter { pod_sandbox_id: pod.id.clone(), ..Default::default() };
    let id = rig.containers(filter).await[0].id.clone();
    let channel =
        containerd_client::connect(rig.env().containerd.address()).await.expect("containerd");
    let mut request = containerd_client::tonic::Request::new(GetContainerRequest { id });
    let namespace = rig.env().namespace().parse().expect("a namespace");
    request.metadata_mut().insert("containerd-namespace", namespace);
    let answer = ContainersClient::new(channel).get(request).await.expect("the record");
    let labels = answer.into_inner().container.expect("the record").labels;
    serde_json::to_value(labels).expect("JSON")
}

pub async fn limits_are_in_the_cgroup(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("limits")).await;
    let mut container = Container::waiting("limited", &rig.image).memory_limit(64 << 20);
    let resources = container.resources();
    (resources.cpu_period, resources.cpu_quota, resources.cpu_shares) = (100_000, 50_000, 512);
    resources.oom_score_adj = 500;
    let id = rig.launch(&pod, &container).await;
    let pid = rig.pid(&id).await;
    let value = |controller: &str, v1: &str, v2: &str| cgroup_file(pid, controller, v1, v2);
    assert_eq!(value("memory", "memory.limit_in_bytes", "memory.max"), "67108864");
    match cgroup_v2() {
        true => {
            assert_eq!(value("", "", "cpu.max"), "50000 100000");
        }
        false => {
            assert_eq!(value("cpu", "cpu.cfs_quota_us", ""), "50000");
            assert_eq!(value("cpu", "cpu.cfs_period_us", ""), "100000");
            assert_eq!(value("cpu", "cpu.shares", ""), "512");
        }
    }
    let adjusted = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a file");
    assert_eq!(adjusted.trim(), "500");
    // An agent without the right to lower the score gives at most its own.
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("a file");
    let own: i64 = own.trim().parse().expect("a number");
    let least = if may_lower_scores() { -998 } else { own.max(-998) };
    let mut container = Container::waiting("important", &rig.image);
    container.resources().oom_score_adj = -998;
    let important = rig.launch(&pod, &container).await;
    let pause = rig.pod_info(&pod.id).await["pid"].clone();
    for pid in [rig.pid(&important).await.to_string(), pause.to_string()] {
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).expect("a file");
        let score: i64 = score.trim().parse().expect("a number");
        // crun 1.8 sets no score of 0, so that the shim's stays, one above the agent's.
        assert!((least..=least + 1).contains(&score), "{score}, at best {least}");
    }
    let told = rig.status(&id).await.resources.and_then(|it| it.linux).expect("resources");
    assert_eq!(told.memory_limit_in_bytes, 64 << 20);
    assert_eq!((told.cpu_quota, told.cpu_shares), (50_000, 512));
    rig.finish().await;
}

/// Whether this process, and so the agent, has CAP_SYS_RESOURCE.
fn may_lower_scores() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a file");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("a line");
    u64::from_str_radix(effective.trim(), 16).expect("a number") & (1 << 24) != 0
}

pub fn cgroup_v2() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// A file of the cgroup that a process is in.
pub fn cgroup_file(pid: i32, controller: &str, v1: &str, v2: &str) -> String {
    let table = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("its cgroups");
    let (base, file) = if cgroup_v2() { (String::new(), v2) } else { (controller.to_owned(), v1) };
    let found = table.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        names.split(',').any(|name| name == base).then(|| path.trim_start_matches('/').to_owned())
    });
    let path = found.unwrap_or_else(|| panic!("no {base:?} in {table}"));
    let path = PathBuf::from("/sys/fs/cgroup").join(base).join(path).join(file);
    let text = std::fs::read_to_string(&path);
    text.unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

pub async fn terminals_and_stdin(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("streams")).await;
    let script = "test -t 0 && test -t 1 && test -t 2 && echo all $TERM; echo err >&2";
    let (output, code) =
        rig.output(&pod, &Container::script("tty", &rig.image, script).tty()).await;
    assert_eq!((output.as_str(), code), ("all xterm\nerr", 0));
    assert!(!rig.log(&pod, "tty").contains(" stderr "), "a terminal has one stream");
    // Without stdin reading ends at once; with it, it waits.
    let mut reader = Container::script("reader", &rig.image, "cat; echo end");
    assert_eq!(rig.output(&pod, &reader).await, ("end".to_owned(), 0));
    reader.config.stdin = true;
    reader.config.metadata.as_mut().expect("metadata").attempt = 1;
    let id = rig.launch(&pod, &reader).await;
    rig.exec(&id, "pidof cat").await;
    assert_eq!(rig.status(&id).await.state(), cri::ContainerState::ContainerRunning);
    rig.finish().await;
}

pub async fn bad_requests_leave_nothing(line: Line) {
    use tonic::Code;
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("bad")).await;
    let good = || Container::waiting("c", &rig.image);
    let mut no_image = good();
    no_image.config.image = Some(crate::rig::image_spec("127.0.0.1:1/none:1"));
    let mut climbing = good();
    climbing.config.log_path = "../../x.log".into();
    let mut unknown = good();
    unknown.security().run_as_username = "nobody-knows".into();
    let mut group_alone = good();
    group_alone.security().run_as_group = Some(cri::Int64Value { value: 7 });
    let mut big_user = good();
    big_user.security().run_as_user = Some(cri::Int64Value { value: 1 << 32 });
    let privileged = good().privileged();
    let missing = {
        let mut container = good();
        container.config.devices.push(cri::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/there-is-no-such-device".into(),
            permissions: "rwm".into(),
        });
        container
    };
    for (what, container, code, word) in [
        ("image", no_image, Code::NotFound, "127.0.0.1:1/none:1"),
        ("log path", climbing, Code::InvalidArgument, "log_path"),
        ("user", unknown, Code::InvalidArgument, "nobody-knows"),
        ("group", group_alone, Code::InvalidArgument, "run_as_group"),
        ("big user", big_user, Code::InvalidArgument, "run_as_user"),
        ("privileged", privileged, Code::InvalidArgument, "privileged"),
        ("device", missing, Code::InvalidArgument, "devices"),
    ] {
        let refused = rig.create(&pod, &container).await.expect_err(what);
        assert_eq!(refused.code(), code, "{what}: {refused}");
        assert!(refused.message().contains(word), "{what}: {word:?} is not in {refused}");
        assert!(rig.containers(cri::ContainerFilter::default()).await.is_empty(), "{what}");
    }
    // A program that is not there: the container stays and says why.
    let id = rig.create(&pod, &Container::new("nope", &rig.image).command(&["/nope"])).await;
    let id = id.expect("CreateContainer");
    rig.start_created(&id).await.expect_err("no such program");
    let status = rig.status(&id).await;
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
    assert!(status.message.contains("/nope") && status.started_at == 0, "{status:?}");
    assert!(status.finished_at > 0);
    let again = rig.start_created(&id).await.expect_err("it was started once");
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    // A retry of a creation is the same container; another one with its name is refused.
    let first = rig.create(&pod, &good()).await.expect("CreateContainer");
    assert_eq!(rig.create(&pod, &good()).await.expect("a retry"), first);
    let other =
        rig.create(&pod, &good().label("other", "yes")).await.expect_err("the name is taken");
    assert_eq!(other.code(), Code::FailedPrecondition, "{other}");
    let mut handler = pod.spec.run();
    handler.runtime_handler = "kata".into();
    let unknown = rig.runtime().run_pod_sandbox(handler).await.expect_err("an unknown handler");
    assert_eq!(unknown.code(), Code::InvalidArgument, "{unknown}");
    let exec = rig.try_exec(&first, &["true"], 1).await.expect_err("it does not run");
    assert_eq!(exec.code(), Code::FailedPrecondition, "{exec}");
    rig.finish().await;
}
