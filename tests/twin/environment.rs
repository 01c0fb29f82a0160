//! The view of a process inside a container, for various settings.

use std::collections::BTreeMap;
use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::facts::{entries, without_host_part};
use crate::rig::{LivePod, Rig};
use crate::support::builders::{Container, Pod};
use crate::support::images::ImageBuilder;

scenarios! {
    "environment of a plain container" => plain,
    "environment of a container of an image with settings" => of_image,
    "environment of a container with settings" => with_settings,
    "runtime should support Privileged is true" => privileged,
    "a privileged container beside one that is not" => privileged_beside,
    "runtime should support ReadOnlyRootfs" => readonly_root,
    "runtime should support MaskedPaths and ReadonlyPaths" => masked,
    "runtime should support HostPID, HostIPC and HostNetwork" => host_namespaces,
    "runtime should support PodPID" => pod_pid,
    "runtime should support ContainerPID" => container_pid,
    "runtime should support TargetPID" => target_pid,
    "environment of a terminal" => terminal,
    "environment of execs" => of_exec,
    "runtime should support devices" => devices,
    "runtime should support resource limits" => limits,
    "environment of a privileged container of the host" => privileged_host,
}

/// Prints parts, each under a headline `## name`.
const SCRIPT: &str = "part() { echo \"## $1\"; shift; \"$@\" 2>&1; }
part status grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Umask)' /proc/self/status
part mounts cat /proc/self/mountinfo
part env env
part pwd pwd
part id id
part hostname hostname
part hosts cat /etc/hosts
part resolv cat /etc/resolv.conf
part hostname-file cat /etc/hostname
part dev sh -c 'cd /dev; stat -c \"%n %A %u %g %F %t:%T\" $(ls -a | grep -vE \"^(\\.|\\.\\.|loop|tty[0-9]|vcs|ram|sd|vd|nvme|nbd|dm-|ttyS)\")'
part shm stat -c '%A %u %g' /dev/shm
part limits sh -c 'ulimit -a'
part oom cat /proc/self/oom_score_adj
part cgroup sh -c 'for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max devices/devices.list memory.max cpu.max cpu.weight pids.max; do [ -e /sys/fs/cgroup/$f ] && echo $f $(cat /sys/fs/cgroup/$f); done'
part cgroups sh -c 'ls /sys/fs/cgroup'
part net sh -c 'ls /sys/class/net; cat /proc/net/route | wc -l'
part write sh -c 'touch /x && echo root; touch /tmp/x && echo tmp; touch /dev/shm/x && echo shm; touch /sys/x; echo 1 >/proc/sys/kernel/sysrq && echo sysrq; mkdir /sys/fs/cgroup/x'
part proc sh -c 'ls -ld /proc/kcore /proc/keys /proc/timer_list /proc/scsi /sys/firmware | cut -c1-11; cat /proc/1/comm'
part fds sh -c 'ls -l /proc/self/fd | sed \"s/.* //;/\\/proc/d;s/\\[[0-9]*\\]//\"'
part session sh -c 'cut -d\" \" -f5-8 /proc/self/stat | wc -w; cat /proc/sys/net/ipv4/ip_unprivileged_port_start'
part end true
";

/// Runs the script to its end in a container and takes what it said apart.
async fn look(rig: &Rig, pod: &LivePod, mut spec: Container) -> Value {
    spec = spec.command(&["/bin/sh", "-c", SCRIPT]);
    let id = match rig.create(pod, &spec).await {
        Ok(id) => id,
        Err(e) => return json!({"create": format!("{:?}", e.code())}),
    };
    if let Err(e) = rig.start_created(&id).await {
        return json!({"start": format!("{:?}", e.code())});
    }
    let status = rig.ended(&id).await;
    let log = std::fs::read_to_string(&status.log_path).expect("the log");
    let lines: Vec<_> = entries(&log).into_iter().map(|(_, _, text)| text).collect();
    parts(&lines.join("\n"), &id)
}

fn parts(said: &str, id: &str) -> Value {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in said.lines() {
        match line.strip_prefix("## ") {
            Some(headline) => name = headline.to_owned(),
            None => found.entry(name.clone()).or_default().push(without_host_part(line)),
        }
    }
    let part = |(name, mut lines): (String, Vec<String>)| {
        match name.as_str() {
            "mounts" => {
                let table: Map<_, _> = lines.iter().filter_map(|line| mount(line)).collect();
                return (name, Value::from(table));
            }
            "env" | "dev" => lines.sort(),
            // The plugin's unset score is its shim's, which is one above containerd's.
            "oom" if lines == ["1"] => lines = vec!["0".to_owned()],
            // Links of the host differ from moment to moment.
            "net" => lines.retain(|line| ["lo", "eth0"].contains(&line.as_str())),
            _ => {}
        }
        let lines: Vec<_> =
            lines.iter().map(|line| line.replace(&id[..12], "<short id>")).collect();
        (name, Value::from(lines))
    };
    found.into_iter().map(part).collect::<Map<_, _>>().into()
}

/// A line of mountinfo as mount point and what counts: options, propagation, type, and the
/// options of file systems that are the container's own.
fn mount(line: &str) -> Option<(String, Value)> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<_> = left.split(' ').collect();
    let right: Vec<_> = right.split(' ').collect();
    let propagation: Vec<_> =
        (left.get(6..)?.iter()).map(|field| field.split(':').next().unwrap_or_default()).collect();
    let own =
        ["tmpfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2"].contains(&right[0]);
    let options = if own { right.get(2).copied().unwrap_or_default() } else { "" };
    // Numbers that belong to one mount.
    let options: Vec<_> = options.split(',').filter(|word| !word.starts_with("inode")).collect();
    let facts = format!("{} {} {} {}", left[5], propagation.join(","), right[0], options.join(","));
    Some((left[4].to_owned(), facts.into()))
}

async fn plain(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-plain")).await;
    look(&rig, &pod, Container::new("c", &rig.image)).await
}

async fn of_image(rig: Arc<Rig>) -> Value {
    let image = ImageBuilder::busybox()
        .user("worker")
        .working_dir("/not/there/yet")
        .env("FROM_IMAGE=1")
        .env("BOTH=image")
        .env("PATH=/bin:/opt")
        .volume("/vol")
        .label("for", "environment");
    let image = rig.registry.push(&image.build(), "environment", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let pod = rig.run(rig.pod_spec("env-image")).await;
    let spec = Container::new("c", &image).env("BOTH", "config").env("EMPTY", "");
    look(&rig, &pod, spec).await
}

async fn with_settings(rig: Arc<Rig>) -> Value {
    let spec = rig.pod_spec("env-settings");
    let pod = rig.run(spec.dns(&["10.10.10.10"], &["a.b", "c"], &["ndots:5"])).await;
    let mut spec = Container::new("c", &rig.image).env("A", "1").env("A", "2").env("B", "x=y z");
    spec.config.working_dir = "/some/where".into();
    spec.security().no_new_privs = true;
    spec.security().run_as_user = Some(cri::Int64Value { value: 1000 });
    spec.security().run_as_group = Some(cri::Int64Value { value: 2000 });
    spec.security().supplemental_groups = vec![3000, 4000];
    spec.resources().oom_score_adj = 900;
    look(&rig, &pod, spec).await
}

async fn privileged(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-privileged").privileged()).await;
    let whole = look(&rig, &pod, Container::new("c", &rig.image).privileged()).await;
    let plain = look(&rig, &pod, Container::new("plain", &rig.image)).await;
    let mut spec = Container::new("readonly", &rig.image).privileged();
    spec.security().readonly_rootfs = true;
    let readonly = look(&rig, &pod, spec).await;
    json!({"privileged": whole, "plain in a privileged pod": plain, "read-only": readonly})
}

/// What the first container mounts read-only is not so for the second.
async fn privileged_beside(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-beside").privileged()).await;
    rig.launch_waiting(&pod, "plain").await;
    let id = rig.launch(&pod, &Container::waiting("c", &rig.image).privileged()).await;
    let said = rig.exec(&id, "touch /sys/x 2>&1 || true; cat /proc/self/mountinfo").await;
    let (touch, table) = said.split_once('\n').expect("lines");
    let sys = table.lines().filter_map(mount).find(|(at, _)| at == "/sys");
    json!({"touch": touch, "sys": sys.map(|(_, facts)| facts)})
}

async fn privileged_host(rig: Arc<Rig>) -> Value {
    let mut spec = rig.pod_spec("env-privileged-host").privileged().host_network();
    spec.config.hostname.clear();
    let options = spec.namespaces();
    options.pid = cri::NamespaceMode::Node.into();
    options.ipc = cri::NamespaceMode::Node.into();
    let options = options.clone();
    let pod = rig.run(spec).await;
    let mut spec = Container::new("c", &rig.image).privileged();
    *spec.namespaces() = options;
    look(&rig, &pod, spec).await
}

async fn readonly_root(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-readonly")).await;
    let host = rig.env().file("readonly-data");
    std::fs::create_dir_all(&host).expect("a folder");
    let mut spec =
        Container::new("c", &rig.image).mount(&host.display().to_string(), "/data", false);
    spec.security().readonly_rootfs = true;
    look(&rig, &pod, spec).await
}

async fn masked(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-masked")).await;
    let mut spec = Container::new("c", &rig.image);
    let owned = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
    spec.security().masked_paths = owned(&[
        "/proc/acpi",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ]);
    spec.security().readonly_paths = owned(&[
        "/proc/asound",
        "/proc/bus",
        "/proc/fs",
        "/proc/irq",
        "/proc/sys",
        "/proc/sysrq-trigger",
    ]);
    look(&rig, &pod, spec).await
}

/// A pod and a container with these modes of pid, ipc and network.
async fn namespaced(
    rig: &Rig,
    name: &str,
    change: impl Fn(&mut cri::NamespaceOption),
) -> (LivePod, Container) {
    let mut spec: Pod = rig.pod_spec(name);
    // As the kubelet does for pods of the host's network; the plugin refuses them otherwise.
    spec.config.hostname.clear();
    change(spec.namespaces());
    let pod = rig.run(spec).await;
    let mut container = Container::new("c", &rig.image);
    change(container.namespaces());
    (pod, container)
}

/// Which namespaces of a container's process are the host's or the pod's.
async fn shared(rig: &Rig, id: &str) -> Value {
    let script = "for n in pid ipc net uts mnt cgroup user time; do echo $n $(readlink /proc/self/ns/$n); done; \
                  echo first $(tr '\\0' ' ' </proc/1/cmdline | cut -c1-4) of $(ls -d /proc/[0-9]* | wc -l)";
    let said = rig.exec(id, script).await;
    let facts = said.lines().map(|line| {
        let Some((kind, name)) = line.split_once(' ').filter(|(_, name)| name.contains(":["))
        else {
            return line.to_owned();
        };
        let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
        format!("{kind} {}", if host.to_string_lossy() == name { "host" } else { "own" })
    });
    facts.filter(|line| !line.starts_with("first")).collect()
}

async fn host_namespaces(rig: Arc<Rig>) -> Value {
    const NODE: i32 = cri::NamespaceMode::Node as i32;
    let mut found = Map::new();
    for (name, change) in [
        ("host-pid", (|it| it.pid = NODE) as fn(&mut cri::NamespaceOption)),
        ("host-ipc", |it| it.ipc = NODE),
        ("host-net", |it| it.network = NODE),
    ] {
        let (pod, container) = namespaced(&rig, name, change).await;
        let looked = look(&rig, &pod, container.clone()).await;
        let mut waiting = Container::waiting("w", &rig.image);
        change(waiting.namespaces());
        let id = rig.launch(&pod, &waiting).await;
        let own = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
        let text = looked.to_string();
        let looked: Value =
            serde_json::from_str(&text.replace(own.trim(), "<host>")).expect("JSON");
        found.insert(name.into(), json!({"looked": looked, "namespaces": shared(&rig, &id).await}));
    }
    found.into()
}

async fn pids(rig: &Rig, name: &str, mode: cri::NamespaceMode) -> Value {
    let (pod, mut container) = namespaced(rig, name, |it| it.pid = mode.into()).await;
    let first = rig
        .launch(
            &pod,
            &Container {
                config: cri::ContainerConfig {
                    command: vec!["sleep".into(), "77777".into()],
                    ..container.config.clone()
                },
            },
        )
        .await;
    container.config.metadata.as_mut().expect("metadata").name = "second".into();
    let second = container.command(&["sleep", "88888"]);
    let second = rig.launch(&pod, &second).await;
    let sees = rig.exec(&second, "ps -o args | grep -oE 'sleep (77777|88888)' | sort -u").await;
    let one = rig.exec(&second, "cat /proc/1/cmdline | tr '\\0' ' '").await;
    let one = if one.contains("sleep 864000") || one.contains("pause") {
        "the pod's"
    } else {
        "a container's"
    };
    json!({"sees": sees, "process 1": one, "namespaces": shared(rig, &first).await})
}

async fn pod_pid(rig: Arc<Rig>) -> Value {
    pids(&rig, "pod-pid", cri::NamespaceMode::Pod).await
}

async fn container_pid(rig: Arc<Rig>) -> Value {
    pids(&rig, "container-pid", cri::NamespaceMode::Container).await
}

async fn target_pid(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("target-pid")).await;
    let target = rig.launch_waiting(&pod, "target").await;
    let aim = |name: &str, at: &str| {
        let mut spec = Container::waiting(name, &rig.image);
        spec.namespaces().pid = cri::NamespaceMode::Target.into();
        spec.namespaces().target_id = at.into();
        spec
    };
    let debug = rig.launch(&pod, &aim("debug", &target)).await;
    let sees = rig.exec(&debug, "ps -o args | grep -c 'sleep 86400$'").await;
    let created =
        rig.create(&pod, &Container::waiting("created", &rig.image)).await.expect("created");
    let other = rig.run(rig.pod_spec("target-pid-other")).await;
    let foreign = rig.launch_waiting(&other, "foreign").await;
    let mut codes = Map::new();
    for (name, at) in
        [("unknown", "nosuch"), ("empty", ""), ("not-started", &created), ("foreign", &foreign)]
    {
        codes.insert(name.into(), crate::facts::code(&rig.create(&pod, &aim(name, at)).await));
    }
    json!({"sees": sees, "codes": codes})
}

async fn terminal(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-terminal")).await;
    let spec = Container::script(
        "c",
        &rig.image,
        "tty; stty -a | head -n 1; echo err >&2; env | sort; ls -l /dev/console | cut -c1-10",
    );
    let status = rig.run_to_end(&pod, &spec.tty()).await;
    let log = std::fs::read_to_string(&status.log_path).expect("the log");
    json!({"said": entries(&log), "code": status.exit_code})
}

async fn of_exec(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-exec")).await;
    let mut spec = Container::waiting("c", &rig.image).env("A", "1");
    spec.config.working_dir = "/tmp".into();
    spec.security().no_new_privs = true;
    spec.security().run_as_user = Some(cri::Int64Value { value: 1000 });
    spec.security().supplemental_groups = vec![3000];
    let id = rig.launch(&pod, &spec).await;
    let done = rig.try_exec(&id, &["sh", "-c", SCRIPT], 20).await.expect("ExecSync");
    parts(&crate::rig::lossy(&done.stdout), &id)
}

async fn devices(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-devices")).await;
    let mut spec = Container::new("c", &rig.image);
    for (host, container, permissions) in [
        ("/dev/null", "/dev/mine", "rw"),
        ("/dev/zero", "/dev/deep/zero", "r"),
        ("/dev/full", "/dev/full2", "rwm"),
    ] {
        spec.config.devices.push(cri::Device {
            container_path: container.into(),
            host_path: host.into(),
            permissions: permissions.into(),
        });
    }
    look(&rig, &pod, spec).await
}

async fn limits(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("env-limits")).await;
    let mut spec = Container::new("c", &rig.image).memory_limit(48 << 20);
    let limits = spec.resources();
    (limits.cpu_period, limits.cpu_quota, limits.cpu_shares) = (50_000, 20_000, 333);
    limits.cpuset_cpus = "0".into();
    limits.oom_score_adj = 500;
    look(&rig, &pod, spec).await
}
