use super::super::proto::{
    CdiDevice, HugepageLimit, LinuxCpu, LinuxDeviceCgroup, LinuxIoPriority, LinuxMemory,
    LinuxNetDevice, LinuxPids, LinuxRdt, LinuxResources, LinuxSeccompArg, LinuxSyscall,
    OptionalBool, OptionalFileMode, OptionalInt, OptionalInt64, OptionalRepeatedString,
    OptionalString, OptionalUInt32, OptionalUInt64,
};
use super::*;

const HOST: Limits = Limits { swap: true, hugepages: true };

fn spec() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": ["run"],
            "env": ["PATH=/bin", "HOME=/root", "ODD"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 9, "soft": 9}],
            "cwd": "/",
        },
        "annotations": {"a": "1", "b": "2"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/shm", "type": "bind", "source": "/shm"},
            {"destination": "/data", "type": "bind", "source": "/old"},
        ],
        "linux": {
            "namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}, {"type": "mount"}],
            "devices": [{"path": "/dev/old", "type": "c", "major": 1, "minor": 2}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 2}},
            "sysctl": {"a.b": "1"},
            "unknown": {"to": "us"},
        },
    })
}

fn applied(adjust: ContainerAdjustment) -> Value {
    apply(spec(), adjust, HOST).unwrap().spec
}

fn linux(change: impl FnOnce(&mut LinuxContainerAdjustment)) -> ContainerAdjustment {
    let mut adjust = ContainerAdjustment::default();
    change(adjust.linux.get_or_insert_default());
    adjust
}

fn limits(limits: LinuxResources) -> ContainerAdjustment {
    linux(|linux| linux.resources = Some(limits))
}

fn error(adjust: ContainerAdjustment) -> String {
    apply(spec(), adjust, HOST).unwrap_err().to_string()
}

#[test]
fn nothing_wanted_changes_nothing() {
    assert_eq!(applied(ContainerAdjustment::default()), spec());
    assert_eq!(applied(linux(|_| {})), spec());
    assert_eq!(applied(limits(LinuxResources::default())), spec());
}

#[test]
fn annotations_env_and_args() {
    let set = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into() };
    let adjust = ContainerAdjustment {
        annotations: [("c", "3"), ("-a", "")].map(|(k, v)| (k.into(), v.into())).into(),
        env: vec![set("HOME", "/srv"), set("NEW", "a=b"), set("-PATH", ""), set("-NONE", "")],
        args: vec!["other".into(), "word".into()],
        ..Default::default()
    };
    let spec = applied(adjust);
    assert_eq!(spec["annotations"], json!({"b": "2", "c": "3"}));
    assert_eq!(spec["process"]["env"], json!(["HOME=/srv", "ODD", "NEW=a=b"]));
    assert_eq!(spec["process"]["args"], json!(["other", "word"]));
    assert_eq!(spec["process"]["cwd"], "/");
}

#[test]
fn bad_texts_are_refused() {
    let env = |key: &str, value: &str| ContainerAdjustment {
        env: vec![KeyValue { key: key.into(), value: value.into() }],
        ..Default::default()
    };
    for (key, value) in [("", "x"), ("A=B", "x"), ("-", "x"), ("A", "x\0y"), ("A\0B", "x")] {
        assert!(error(env(key, value)).starts_with("env"), "{key:?} {value:?}");
    }
    let args = ContainerAdjustment { args: vec!["a\0b".into()], ..Default::default() };
    assert_eq!(error(args), "args: contains a NUL");
    for (kind, hard, soft) in [("NOFILE", 1, 1), ("RLIMIT_x", 1, 1), ("RLIMIT_CPU", 1, 2)] {
        let limit = PosixRlimit { r#type: kind.into(), hard, soft };
        let adjust = ContainerAdjustment { rlimits: vec![limit], ..Default::default() };
        assert!(error(adjust).starts_with("rlimits"), "{kind}");
    }
    for destination in ["", "data", "/a\0b"] {
        let mount = Mount { destination: destination.into(), ..Default::default() };
        let adjust = ContainerAdjustment { mounts: vec![mount], ..Default::default() };
        assert!(error(adjust).starts_with("mounts"), "{destination:?}");
    }
    let score = linux(|l| l.oom_score_adj = Some(OptionalInt { value: 1001 }));
    assert!(error(score).starts_with("linux.oom_score_adj"));
    let class = Some(OptionalString { value: "gold".into() });
    let class = limits(LinuxResources { blockio_class: class, ..Default::default() });
    assert!(error(class).starts_with("linux.resources.blockio_class"));
    let priority = Some(LinuxIoPriority { class: 9, priority: 0 });
    assert!(error(linux(|l| l.io_priority = priority)).contains("io_priority"));
}

#[test]
fn limits_of_the_process_are_replaced_by_kind() {
    let limit = |kind: &str| PosixRlimit { r#type: kind.into(), hard: 5, soft: 4 };
    let rlimits = vec![limit("RLIMIT_NOFILE"), limit("RLIMIT_CORE")];
    let spec = applied(ContainerAdjustment { rlimits, ..Default::default() });
    assert_eq!(
        spec["process"]["rlimits"],
        json!([
            {"type": "RLIMIT_NOFILE", "hard": 5, "soft": 4},
            {"type": "RLIMIT_CORE", "hard": 5, "soft": 4},
        ])
    );
}

#[test]
fn hooks_and_devices_by_name() {
    let hook = Hook {
        path: "/bin/hook".into(),
        args: vec!["hook".into()],
        env: vec![],
        timeout: Some(OptionalInt { value: 3 }),
    };
    let adjust = ContainerAdjustment {
        hooks: Some(Hooks { create_runtime: vec![hook], ..Default::default() }),
        cdi_devices: vec![CdiDevice { name: "vendor.com/class=one".into() }],
        ..Default::default()
    };
    let adjusted = apply(spec(), adjust, HOST).unwrap();
    assert_eq!(
        adjusted.spec["hooks"],
        json!({"createRuntime": [{"path": "/bin/hook", "args": ["hook"], "timeout": 3}]})
    );
    assert_eq!(adjusted.cdi_devices, ["vendor.com/class=one"]);
}

#[test]
fn mounts_replace_are_removed_and_come_after_what_they_are_below() {
    let mount = |destination: &str, source: &str, options: &[&str]| Mount {
        destination: destination.into(),
        source: source.into(),
        r#type: "bind".into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
    };
    let mounts = vec![
        mount("/data/deep/er", "/x", &["ro", "relabel"]),
        mount("/data", "/new", &["rbind", "rslave"]),
        mount("-/dev/shm", "", &[]),
    ];
    let adjust = ContainerAdjustment { mounts, ..Default::default() };
    let Adjusted { spec, relabel, .. } = apply(spec(), adjust, HOST).unwrap();
    assert_eq!(relabel, ["/x"]);
    let list: Vec<_> = spec["mounts"].as_array().unwrap().iter().collect();
    let places: Vec<_> = list.iter().map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(places, ["/proc", "/dev", "/data", "/data/deep/er"]);
    assert_eq!(list[2]["source"], "/new");
    assert_eq!(list[3]["options"], json!(["ro"]));
    assert_eq!(spec["linux"]["rootfsPropagation"], "rslave");
    let shared = vec![mount("/a", "/a", &["rshared"]), mount("/b", "/b", &["rslave"])];
    let spec = applied(ContainerAdjustment { mounts: shared, ..Default::default() });
    assert_eq!(spec["linux"]["rootfsPropagation"], "rshared");
}

#[test]
fn device_nodes_have_rules() {
    let device = |path: &str, kind: &str| LinuxDevice {
        path: path.into(),
        r#type: kind.into(),
        major: 10,
        minor: 229,
        file_mode: Some(OptionalFileMode { value: 0o20666 }),
        uid: Some(OptionalUInt32 { value: 0 }),
        gid: None,
    };
    let devices = vec![device("/dev/fuse", "c"), device("/dev/pipe", "p"), device("-/dev/old", "")];
    let spec = applied(linux(|l| l.devices = devices));
    let node = |path: &str, kind: &str| json!({"path": path, "type": kind, "major": 10, "minor": 229, "fileMode": 0o666, "uid": 0});
    assert_eq!(spec["linux"]["devices"], json!([node("/dev/fuse", "c"), node("/dev/pipe", "p")]));
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ])
    );
}

#[test]
fn namespaces_paths_and_kernel_parameters() {
    let namespace =
        |kind: &str, path: &str| LinuxNamespace { r#type: kind.into(), path: path.into() };
    let spec = applied(linux(|l| {
        l.namespaces = vec![namespace("pid", ""), namespace("-mount", ""), namespace("time", "/t")];
        l.sysctl = [("-a.b", ""), ("c.d", "2")].map(|(k, v)| (k.into(), v.into())).into();
        l.cgroups_path = "/there".into();
        l.oom_score_adj = Some(OptionalInt { value: 7 });
        l.net_devices = [("eth7".to_owned(), LinuxNetDevice { name: "net1".into() })].into();
        l.io_priority = Some(LinuxIoPriority { class: 2, priority: 4 });
        l.scheduler =
            Some(LinuxScheduler { policy: 2, priority: 3, flags: vec![0], ..Default::default() });
        l.memory_policy = Some(LinuxMemoryPolicy { mode: 2, nodes: "0".into(), flags: vec![0] });
    }));
    let linux = &spec["linux"];
    assert_eq!(linux["namespaces"], json!([{"type": "pid"}, {"type": "time", "path": "/t"}]));
    assert_eq!(linux["sysctl"], json!({"c.d": "2"}));
    assert_eq!(linux["cgroupsPath"], "/there");
    assert_eq!(linux["netDevices"], json!({"eth7": {"name": "net1"}}));
    assert_eq!(
        linux["memoryPolicy"],
        json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]})
    );
    assert_eq!(linux["unknown"], json!({"to": "us"}));
    let process = &spec["process"];
    assert_eq!(process["oomScoreAdj"], 7);
    assert_eq!(process["ioPriority"], json!({"class": "IOPRIO_CLASS_BE", "priority": 4}));
    assert_eq!(
        process["scheduler"],
        json!({"policy": "SCHED_FIFO", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    );
}

#[test]
fn a_seccomp_policy_replaces_all() {
    let policy = LinuxSeccomp {
        default_action: "SCMP_ACT_ERRNO".into(),
        default_errno: Some(OptionalUInt32 { value: 1 }),
        architectures: vec!["SCMP_ARCH_X86_64".into()],
        syscalls: vec![LinuxSyscall {
            names: vec!["read".into()],
            action: "SCMP_ACT_ALLOW".into(),
            errno_ret: None,
            args: vec![LinuxSeccompArg {
                index: 1,
                value: 2,
                value_two: 3,
                op: "SCMP_CMP_EQ".into(),
            }],
        }],
        ..Default::default()
    };
    let spec = applied(linux(|l| l.seccomp_policy = Some(policy)));
    assert_eq!(
        spec["linux"]["seccomp"],
        json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 1, "value": 2, "valueTwo": 3, "op": "SCMP_CMP_EQ"}]}],
        })
    );
}

fn every_limit() -> LinuxResources {
    let int = |value| Some(OptionalInt64 { value });
    let unsigned = |value| Some(OptionalUInt64 { value });
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: int(64),
            reservation: int(32),
            swappiness: unsigned(10),
            disable_oom_killer: Some(OptionalBool { value: true }),
            ..Default::default()
        }),
        cpu: Some(LinuxCpu {
            shares: unsigned(5),
            quota: int(-1),
            cpus: "0-1".into(),
            ..Default::default()
        }),
        hugepage_limits: vec![HugepageLimit { page_size: "2MB".into(), limit: 8 }],
        unified: [("memory.high".to_owned(), "9".to_owned())].into(),
        devices: vec![LinuxDeviceCgroup {
            allow: true,
            r#type: "c".into(),
            major: int(1),
            minor: None,
            access: "r".into(),
        }],
        pids: Some(LinuxPids { limit: 11 }),
        ..Default::default()
    }
}

#[test]
fn limits_are_put_over_those_that_are_there() {
    let spec = applied(limits(every_limit()));
    assert_eq!(
        spec["linux"]["resources"],
        json!({
            "memory": {
                "limit": 64, "swap": 64, "reservation": 32, "swappiness": 10,
                "disableOOMKiller": true,
            },
            "cpu": {"shares": 5, "quota": -1, "cpus": "0-1"},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 8}],
            "unified": {"memory.high": "9"},
            "pids": {"limit": 11},
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "access": "r"},
            ],
        })
    );
}

#[test]
fn what_the_host_cannot_limit_is_left_out() {
    let adjusted = apply(spec(), limits(every_limit()), Limits::default()).unwrap();
    let resources = &adjusted.spec["linux"]["resources"];
    assert_eq!(resources["memory"].get("swap"), None);
    assert_eq!(resources["memory"]["limit"], 64);
    assert_eq!(resources.get("hugepageLimits"), None);
}

#[test]
fn resource_classes() {
    let class = |value: &str| {
        let rdt_class = Some(OptionalString { value: value.into() });
        limits(LinuxResources { rdt_class, ..Default::default() })
    };
    assert_eq!(applied(class("gold"))["linux"]["intelRdt"], json!({"closID": "gold"}));
    let mut with_class = spec();
    with_class["linux"]["intelRdt"] = json!({"closID": "x", "other": 1});
    let cleared = apply(with_class.clone(), class(""), HOST).unwrap().spec;
    assert_eq!(cleared["linux"].get("intelRdt"), None);
    let rdt = linux(|l| {
        l.rdt = Some(LinuxRdt {
            clos_id: Some(OptionalString { value: "new".into() }),
            schemata: Some(OptionalRepeatedString { value: vec!["L3:0=f".into()] }),
            enable_monitoring: Some(OptionalBool { value: true }),
            remove: true,
        });
    });
    assert_eq!(
        apply(with_class, rdt, HOST).unwrap().spec["linux"]["intelRdt"],
        json!({"closID": "new", "schemata": ["L3:0=f"], "enableMonitoring": true})
    );
}
