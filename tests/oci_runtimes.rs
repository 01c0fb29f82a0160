//! Runs the specs built by `oci` on real OCI runtimes, as root: they must be accepted, and the
//! processes must have exactly the requested properties. runc 1.1, runc 1.5 and crun 1.8 represent
//! the versions on today's hosts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use podbay::backend::{CgroupVersion, HandlerFeatures, HostFacts, RuntimeHandler};
use podbay::ids::{ContainerId, PodId};
use podbay::model::container::{ContainerConfig, Mount};
use podbay::model::image::ImageConfig;
use podbay::model::pod::PodConfig;
use podbay::model::resources::Resources;
use podbay::model::security::SecurityProfile;
use podbay::oci::user::ResolvedUser;
use podbay::oci::{
    ContainerInput, PauseInput, PodNamespaces, Settings, SharedFiles, apply_to_spec,
    container_spec, exec_process, pause_spec, spec_json,
};
use serde_json::Value;

#[path = "support/parts.rs"]
mod parts;

use parts::parts;

/// Names of the capabilities by number.
const CAPABILITIES: &str = "\
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP \
    LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
    SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE \
    SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP \
    MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF \
    CHECKPOINT_RESTORE";

#[test]
fn runc_1_1() {
    a_whole_pod("/usr/sbin/runc".into());
}

#[test]
fn runc_1_5() {
    a_whole_pod(parts().join("runc"));
}

#[test]
fn crun_1_8() {
    offer_hugetlb_to_crun();
    a_whole_pod("/usr/bin/crun".into());
}

/// Pause, a container in its namespaces, a privileged one, an exec and an update.
fn a_whole_pod(program: PathBuf) {
    let host = Host::new(program);
    let mut pod = host.pod();
    pod.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    pod.sysctls.insert("kernel.shmmax".to_owned(), "1048576".to_owned());
    let pause = host.start_pause(&pod);
    pause_has_nothing(&host, &pause);
    container_has_what_it_asked_for(&host, &pod, &pause);

    pod.security.privileged = true;
    privileged_has_what_the_agent_has(&host, &pod, &pause);
}

fn pause_has_nothing(host: &Host, pause: &Running) {
    let status = pause.status();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status[set], "0000000000000000", "{set}");
    }
    assert_eq!(status["Uid"], "65535\t65535\t65535\t65535");
    assert_eq!(status["Gid"], "65535\t65535\t65535\t65535");
    assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"));
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", pause.pid)).unwrap();
    assert_eq!(score.trim(), host.facts.oom_score_adj.max(-998).to_string());
    let least = if host.facts.cgroup == CgroupVersion::V2 { "1" } else { "2" };
    assert_eq!(host.cgroup_file("cpu", &pause.id, "cpu.shares", "cpu.weight"), least);

    let show =
        "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax; hostname;
        echo 9 > /proc/sys/kernel/shmmax; echo written=$?";
    let seen = pause.exec(show);
    assert_eq!(seen.lines().take(3).collect::<Vec<_>>(), ["0", "1048576", "web"], "{seen}");
    assert!(seen.contains("written=1") && seen.contains("Read-only"), "{seen}");
}

fn container_has_what_it_asked_for(host: &Host, pod: &PodConfig, pause: &Running) {
    let mut config = ContainerConfig::default();
    config.metadata.name = "main".to_owned();
    config.command = words(&["/bin/sh", "-c", "sleep 1000"]);
    config.working_dir = "/made/new".to_owned();
    config.envs = vec![("A".to_owned(), "1\n2".to_owned())];
    config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    config.security.capabilities.add = words(&["NET_ADMIN"]);
    config.security.capabilities.drop = words(&["MKNOD"]);
    config.security.masked_paths = words(&["/proc/version", "/sys/firmware"]);
    config.security.readonly_paths = words(&["/proc/sys"]);
    config.resources = Resources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit: 64 << 20,
        oom_score_adj: 500,
        ..Resources::default()
    };
    let data = host.folder("data");
    fs::write(data.join("file"), "of the host").unwrap();
    let mounts = [Mount {
        container_path: "/data".to_owned(),
        host_path: data.display().to_string(),
        readonly: true,
        ..Mount::default()
    }];
    let user = ResolvedUser { uid: 1000, gid: 100, additional_gids: vec![100, 2000], home: None };
    let main = host.start_container(pod, pause, Asked { config, mounts: &mounts, user });

    let status = main.status();
    assert_eq!(status["Uid"], "1000\t1000\t1000\t1000");
    assert_eq!(status["Gid"], "100\t100\t100\t100");
    assert_eq!(status["Groups"].split_whitespace().collect::<Vec<_>>(), ["100", "2000"]);
    assert_eq!(status["Seccomp"], "2");
    assert_eq!((status["CapInh"].as_str(), status["CapAmb"].as_str()), (ZERO, ZERO));
    // 14 by default, one added, one dropped.
    let bounding = u64::from_str_radix(&status["CapBnd"], 16).unwrap();
    assert_eq!(bounding, 0xa804_25fb & !(1 << 27) | (1 << 12), "{bounding:x}");
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", main.pid)).unwrap();
    assert_eq!(score.trim(), host.facts.oom_score_adj.max(500).to_string());
    for name in ["net", "ipc", "uts", "pid"] {
        assert_eq!(main.namespace(name), pause.namespace(name), "{name}");
    }
    assert_ne!(main.namespace("mnt"), pause.namespace("mnt"));

    let limit = |main: &Running| {
        host.cgroup_file("memory", &main.id, "memory.limit_in_bytes", "memory.max")
    };
    assert_eq!(limit(&main), (64 << 20).to_string());
    assert_eq!(host.cgroup_file("cpu", &main.id, "cpu.cfs_quota_us", "cpu.max"), "50000");

    let seen = main.exec(
        "grep -E '^(CapInh|CapAmb|Seccomp|Uid)' /proc/self/status; id -G; pwd; hostname;
         echo \"A=$A\"; cat /data/file /etc/hosts; touch /data/x; echo touched=$?;
         unshare -m true; echo unshared=$?; wc -c < /proc/version; touch /dev/shm/x && echo shm=ok",
    );
    for expected in [
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "Seccomp:\t2",
        "Uid:\t1000\t1000\t1000\t1000",
        "100 2000",
        "/made/new",
        "web",
        "A=1\n2",
        "of the host",
        "hosts of the pod",
        "touched=1",
        "unshared=1",
        "\n0\n",
        "shm=ok",
    ] {
        assert!(seen.contains(expected), "{expected:?} in {seen}");
    }

    let mut spec = main.spec.clone();
    let wanted = Resources { memory_limit: 96 << 20, ..Resources::default() };
    let in_force = apply_to_spec(&mut spec, &wanted, &host.facts, &host.settings).unwrap();
    main.update(&in_force);
    assert_eq!(limit(&main), (96 << 20).to_string());
    assert_eq!(host.cgroup_file("cpu", &main.id, "cpu.cfs_quota_us", "cpu.max"), "50000");
    assert!(main.exec("echo x > /dev/null && echo fine").contains("fine"), "devices are kept");
}

fn privileged_has_what_the_agent_has(host: &Host, pod: &PodConfig, pause: &Running) {
    let mut config = ContainerConfig {
        command: words(&["/bin/sh", "-c", "sleep 1000"]),
        ..ContainerConfig::default()
    };
    config.security.privileged = true;
    config.security.seccomp = Some(SecurityProfile::RuntimeDefault);
    let user = ResolvedUser { additional_gids: vec![0], ..ResolvedUser::default() };
    let main = host.start_container(pod, pause, Asked { config, mounts: &[], user });
    let status = main.status();
    let own = fields(&fs::read_to_string("/proc/self/status").unwrap());
    assert_eq!(status["CapBnd"], own["CapBnd"]);
    assert_eq!(status["CapEff"], own["CapBnd"]);
    assert_eq!(status["CapInh"], ZERO);
    assert_eq!(status["Seccomp"], "0");
    let seen =
        main.exec("mount -t tmpfs none /data && echo mounted; mknod /data/m c 1 1 && echo made");
    assert!(seen.contains("mounted") && seen.contains("made"), "{seen}");
}

const ZERO: &str = "0000000000000000";

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&word| word.to_owned()).collect()
}

fn fields(status: &str) -> BTreeMap<String, String> {
    status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.to_owned(), value.trim().to_owned()))
        .collect()
}

/// What varies between the containers of a test.
struct Asked<'a> {
    config: ContainerConfig,
    mounts: &'a [Mount],
    user: ResolvedUser,
}

/// One runtime with a folder and a cgroup of its own.
struct Host {
    program: PathBuf,
    folder: tempfile::TempDir,
    cgroup: String,
    facts: HostFacts,
    settings: Settings,
}

impl Host {
    fn new(program: PathBuf) -> Self {
        assert!(program.exists(), "{} is needed for this test", program.display());
        let own = fields(&fs::read_to_string("/proc/self/status").unwrap());
        assert!(own["Uid"].starts_with("0\t"), "this test needs root");
        let bounding = u64::from_str_radix(&own["CapBnd"], 16).unwrap();
        let held =
            CAPABILITIES.split(' ').enumerate().filter(|(bit, _)| bounding & (1 << bit) != 0);
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = release.split('.').map(|part| part.parse().unwrap_or(0));
        let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let swap = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
        let facts = HostFacts {
            kernel: (numbers.next().unwrap(), numbers.next().unwrap()),
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64".to_owned(),
                "aarch64" => "arm64".to_owned(),
                other => other.to_owned(),
            },
            cgroup: if v2 { CgroupVersion::V2 } else { CgroupVersion::V1 },
            swap_accounting: v2 || Path::new(swap).exists(),
            capabilities: held.map(|(_, name)| format!("CAP_{name}")).collect(),
            oom_score_adj: fs::read_to_string("/proc/self/oom_score_adj")
                .unwrap()
                .trim()
                .parse()
                .unwrap(),
            seccomp: true,
            ..HostFacts::default()
        };
        let folder = tempfile::tempdir().unwrap();
        let name = folder.path().file_name().unwrap().to_string_lossy().into_owned();
        let cgroup = format!("/podbay-oci-test{}", name.replace('.', "-"));
        Self { program, folder, cgroup, facts, settings: Settings::default() }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn pod(&self) -> PodConfig {
        let mut pod = PodConfig::default();
        pod.metadata.name = "web".to_owned();
        pod.cgroup_parent = self.cgroup.clone();
        pod
    }

    /// A root with nothing but a static busybox.
    fn rootfs(&self, bundle: &Path) {
        for folder in ["bin", "proc", "dev", "sys", "etc", "data"] {
            fs::create_dir_all(bundle.join("rootfs").join(folder)).unwrap();
        }
        let busybox = bundle.join("rootfs/bin/busybox");
        fs::copy("/bin/busybox", &busybox).unwrap();
        for name in [
            "sh", "cat", "echo", "sleep", "id", "pwd", "hostname", "touch", "grep", "wc",
            "unshare", "mount", "mknod",
        ] {
            std::os::unix::fs::symlink("busybox", bundle.join("rootfs/bin").join(name)).unwrap();
        }
    }

    fn start_pause(&self, pod: &PodConfig) -> Running {
        let id = PodId::random();
        let netns = PathBuf::from("/new");
        let spec = pause_spec(&PauseInput {
            id: &id,
            pod,
            netns: Some(&netns),
            userns: None,
            args: words(&["/bin/sleep", "1000"]),
            image_name: "pause",
            hostname: "web",
            selinux_level: None,
            seccomp_profile: None,
            handler: &RuntimeHandler::default(),
            facts: &self.facts,
            settings: &self.settings,
        });
        let mut spec = spec_json(&spec.unwrap());
        // The runtime makes the network namespace, in place of the agent.
        for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            namespace.as_object_mut().unwrap().remove("path");
        }
        self.start(id.as_str(), spec)
    }

    fn start_container(&self, pod: &PodConfig, pause: &Running, asked: Asked<'_>) -> Running {
        let (id, pod_id) = (ContainerId::random(), PodId::random());
        let shared = self.folder("shared");
        for name in ["hostname", "hosts", "resolv.conf"] {
            fs::write(shared.join(name), format!("{name} of the pod\n")).unwrap();
        }
        let shm = self.folder("shm");
        fs::set_permissions(&shm, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
        let spec = container_spec(&ContainerInput {
            id: &id,
            pod_id: &pod_id,
            pod,
            config: &asked.config,
            image: &ImageConfig::default(),
            image_name: "busybox",
            user: &asked.user,
            namespaces: &PodNamespaces {
                pause_pid: pause.pid,
                netns: Some(format!("/proc/{}/ns/net", pause.pid).into()),
                userns: None,
                target_pid: None,
            },
            files: &SharedFiles {
                hostname: shared.join("hostname"),
                hosts: shared.join("hosts"),
                resolv_conf: shared.join("resolv.conf"),
                shm: Some(shm),
            },
            mounts: asked.mounts,
            volumes: &[],
            devices: &[],
            seccomp_profile: None,
            hostname: "web",
            handler: &RuntimeHandler::default(),
            selinux_level: None,
            facts: &self.facts,
            features: &HandlerFeatures::default(),
            settings: &self.settings,
        });
        self.start(id.as_str(), spec_json(&spec.unwrap()))
    }

    fn start(&self, id: &str, spec: Value) -> Running {
        let bundle = self.folder(id);
        self.rootfs(&bundle);
        fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
        let mut running = Running {
            program: self.program.clone(),
            state: self.folder("state"),
            bundle: bundle.clone(),
            id: id.to_owned(),
            pid: 0,
            spec,
        };
        let said = bundle.join("said");
        let file = File::create(&said).unwrap();
        let mut create = running.command(&["create", "--bundle"]);
        let status = create
            .arg(&bundle)
            .arg(id)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .status()
            .unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&said).unwrap());
        running.run(&["start", id]);
        let state: Value = serde_json::from_slice(&running.run(&["state", id]).stdout).unwrap();
        running.pid = u32::try_from(state["pid"].as_u64().unwrap()).unwrap();
        // The process is the runtime's own until it has executed the program.
        let stat = format!("/proc/{}/comm", running.pid);
        wait_until("the program runs", || {
            fs::read_to_string(&stat).is_ok_and(|name| ["sleep", "sh"].contains(&name.trim()))
        });
        running
    }

    /// First word of a cgroup file, of v1 or v2.
    fn cgroup_file(&self, controller: &str, id: &str, v1: &str, v2: &str) -> String {
        let below = format!("{}/{id}", self.cgroup);
        let path = match self.facts.cgroup {
            CgroupVersion::V1 => format!("/sys/fs/cgroup/{controller}{below}/{v1}"),
            CgroupVersion::V2 => format!("/sys/fs/cgroup{below}/{v2}"),
        };
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        text.split_whitespace().next().unwrap_or_default().to_owned()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The runtime removes the cgroups of containers; the pod's own is ours, in each hierarchy.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.cgroup[1..]));
        }
        let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.cgroup[1..]));
    }
}

/// A container that runs, deleted when the test has ended.
struct Running {
    program: PathBuf,
    state: PathBuf,
    bundle: PathBuf,
    id: String,
    pid: u32,
    spec: Value,
}

impl Running {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).stdin(Stdio::null()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {args:?}: {error}", self.program.display());
        output
    }

    fn status(&self) -> BTreeMap<String, String> {
        fields(&fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap())
    }

    fn namespace(&self, name: &str) -> PathBuf {
        fs::read_link(format!("/proc/{}/ns/{name}", self.pid)).unwrap()
    }

    /// Both streams of a script, run by the process that [`exec_process`] makes.
    fn exec(&self, script: &str) -> String {
        let process = exec_process(&self.spec, &words(&["/bin/sh", "-c", script]), false).unwrap();
        let file = self.bundle.join("process.json");
        fs::write(&file, process.to_string()).unwrap();
        let mut command = self.command(&["exec", "--process"]);
        let output = command.arg(&file).arg(&self.id).stdin(Stdio::null()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }

    fn update(&self, resources: &Value) {
        let file = self.bundle.join("resources.json");
        fs::write(&file, resources.to_string()).unwrap();
        self.run(&["update", "--resources", file.to_str().unwrap(), &self.id]);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "--force", &self.id]).output();
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "timed out: {what}");
        std::thread::yield_now();
    }
}

/// On a hybrid host crun refuses to work while a controller is left to the unified hierarchy.
fn offer_hugetlb_to_crun() {
    let folder = Path::new("/sys/fs/cgroup/hugetlb");
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    if hybrid && !mounts.contains(" /sys/fs/cgroup/hugetlb ") {
        let _ = fs::create_dir(folder);
        let mount = Command::new("mount")
            .args(["-t", "cgroup", "-o", "hugetlb", "cgroup"])
            .arg(folder)
            .output()
            .unwrap();
        let again = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(
            again.contains(" /sys/fs/cgroup/hugetlb "),
            "{}",
            String::from_utf8_lossy(&mount.stderr)
        );
    }
}
