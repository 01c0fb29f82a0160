use std::collections::BTreeSet;

use serde_json::json;

use super::super::fixture::Fixture;
use super::*;

fn caps(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn default_for(capabilities: &[&str], facts: &HostFacts) -> LinuxSeccomp {
    filter(&Request {
        profile: Some(&SecurityProfile::RuntimeDefault),
        privileged: false,
        content: None,
        capabilities: &caps(capabilities),
        facts,
    })
    .unwrap()
    .unwrap()
}

/// The calls allowed regardless of their arguments.
fn allowed(filter: &LinuxSeccomp) -> BTreeSet<&str> {
    filter
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.args().is_none() && rule.action() == Action::ScmpActAllow)
        .flat_map(|rule| rule.names().iter().map(String::as_str))
        .collect()
}

fn rules<'a>(filter: &'a LinuxSeccomp, name: &str) -> Vec<&'a LinuxSyscall> {
    filter
        .syscalls()
        .iter()
        .flatten()
        .filter(|rule| rule.names().iter().any(|other| other == name))
        .collect()
}

#[test]
fn no_name_is_listed_twice() {
    let mut seen = BTreeSet::new();
    for name in table::ALWAYS.concat() {
        assert!(seen.insert(name), "{name}");
    }
    assert_eq!(seen.len(), 363);
}

#[test]
fn everything_else_fails_with_eperm() {
    let filter = default_for(&[], &Fixture::new().facts);
    assert_eq!(filter.default_action(), Action::ScmpActErrno);
    assert_eq!(filter.default_errno_ret(), None);
    let allowed = allowed(&filter);
    for refused in [
        "mount",
        "umount2",
        "setns",
        "unshare",
        "bpf",
        "keyctl",
        "add_key",
        "request_key",
        "io_uring_setup",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "pivot_root",
        "clone",
        "clone3",
        "socket",
        "personality",
        "userfaultfd",
        "open_by_handle_at",
        "settimeofday",
        "chroot",
        "syslog",
        "perf_event_open",
        "nfsservctl",
        "acct",
        "iopl",
    ] {
        assert!(!allowed.contains(refused), "{refused}");
    }
    assert!(allowed.contains("ptrace"));
}

#[test]
fn capabilities_open_their_calls() {
    let facts = Fixture::new().facts;
    for (capability, name) in [
        ("CAP_SYS_CHROOT", "chroot"),
        ("CAP_SYS_ADMIN", "mount"),
        ("CAP_SYS_ADMIN", "clone3"),
        ("CAP_SYS_MODULE", "init_module"),
        ("CAP_SYS_TIME", "clock_settime"),
        ("CAP_SYSLOG", "syslog"),
        ("CAP_BPF", "bpf"),
    ] {
        assert!(allowed(&default_for(&[capability], &facts)).contains(name), "{capability}");
        assert!(!allowed(&default_for(&["CAP_CHOWN"], &facts)).contains(name), "{name}");
    }
}

#[test]
fn tracing_needs_a_kernel_that_filters_after_the_tracer() {
    let mut facts = Fixture::new().facts;
    for (kernel, there) in [((4, 7), false), ((4, 8), true), ((5, 0), true), ((3, 19), false)] {
        facts.kernel = kernel;
        assert_eq!(allowed(&default_for(&[], &facts)).contains("ptrace"), there, "{kernel:?}");
    }
}

#[test]
fn processes_without_admin_make_no_namespaces() {
    let mut facts = Fixture::new().facts;
    let filter = default_for(&[], &facts);
    assert_eq!(
        serde_json::to_value(rules(&filter, "clone")).unwrap(),
        json!([{
            "names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x7e02_0000u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
        }])
    );
    assert_eq!(
        serde_json::to_value(rules(&filter, "clone3")).unwrap(),
        json!([{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}])
    );
    facts.arch = "s390x".to_owned();
    let s390x = default_for(&[], &facts);
    assert_eq!(rules(&s390x, "clone")[0].args().as_ref().unwrap()[0].index(), 1);
    assert_eq!(rules(&default_for(&["CAP_SYS_ADMIN"], &facts), "clone3").len(), 1);
}

#[test]
fn sockets_of_the_hypervisor_and_the_kernels_cryptography_are_refused() {
    let filter = default_for(&[], &Fixture::new().facts);
    let mut equal = Vec::new();
    let mut below = Vec::new();
    for rule in rules(&filter, "socket") {
        let argument = rule.args().as_ref().unwrap()[0];
        assert_eq!(argument.index(), 0);
        match argument.op() {
            oci_spec::runtime::LinuxSeccompOperator::ScmpCmpEq => equal.push(argument.value()),
            oci_spec::runtime::LinuxSeccompOperator::ScmpCmpLt => below.push(argument.value()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(below, [38]);
    for (family, fine) in [(1, true), (2, true), (10, true), (16, true), (38, false), (40, false)] {
        let passes = family < below[0] || equal.contains(&family);
        assert_eq!(passes, fine, "{family}");
    }
}

#[test]
fn personalities_that_weaken_protections_are_refused() {
    let filter = default_for(&[], &Fixture::new().facts);
    let values: Vec<u64> = rules(&filter, "personality")
        .iter()
        .map(|rule| rule.args().as_ref().unwrap()[0].value())
        .collect();
    assert_eq!(values, [0, 8, 0x20000, 0x20008, 0xffff_ffff]);
}

#[test]
fn architectures_include_those_the_cpu_also_runs() {
    let mut facts = Fixture::new().facts;
    for (arch, count, own) in [
        ("amd64", 3, "arch_prctl"),
        ("arm64", 2, "cacheflush"),
        ("s390x", 2, "s390_runtime_instr"),
        ("riscv64", 1, "riscv_flush_icache"),
        ("ppc64le", 0, "swapcontext"),
    ] {
        facts.arch = arch.to_owned();
        let filter = default_for(&[], &facts);
        assert_eq!(filter.architectures().as_ref().unwrap().len(), count, "{arch}");
        assert!(allowed(&filter).contains(own), "{arch}");
    }
    let facts = HostFacts { x32: false, ..Fixture::new().facts };
    let two = default_for(&[], &facts).architectures().clone().unwrap();
    assert_eq!(two, [Arch::ScmpArchX86_64, Arch::ScmpArchX86]);
}

fn filter_of(
    profile: Option<SecurityProfile>,
    privileged: bool,
    content: Option<&Value>,
) -> Result<Option<LinuxSeccomp>, Error> {
    filter(&Request {
        profile: profile.as_ref(),
        privileged,
        content,
        capabilities: &BTreeSet::new(),
        facts: &Fixture::new().facts,
    })
}

#[test]
fn no_profile_and_privileged_have_no_filter() {
    let localhost = SecurityProfile::Localhost("/p.json".to_owned());
    for (profile, privileged) in [
        (None, false),
        (Some(SecurityProfile::Unconfined), false),
        (Some(SecurityProfile::RuntimeDefault), true),
        (Some(localhost), true),
    ] {
        assert_eq!(filter_of(profile.clone(), privileged, None), Ok(None), "{profile:?}");
    }
}

#[test]
fn a_host_that_cannot_filter_is_an_error_and_not_less_confinement() {
    let mut facts = Fixture::new().facts;
    facts.seccomp = false;
    let result = filter(&Request {
        profile: Some(&SecurityProfile::RuntimeDefault),
        privileged: false,
        content: None,
        capabilities: &BTreeSet::new(),
        facts: &facts,
    });
    assert!(matches!(result, Err(Error::Invalid { field, .. }) if field == FIELD));
}

#[test]
fn localhost_profiles_are_read_as_they_stand() {
    let good = json!({
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG"],
        "syscalls": [{
            "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {},
            "excludes": null
        }]
    });
    let profile = || Some(SecurityProfile::Localhost("/etc/seccomp/p.json".to_owned()));
    let parsed = filter_of(profile(), false, Some(&good)).unwrap().unwrap();
    assert_eq!(parsed.default_errno_ret(), Some(1));
    assert_eq!(allowed(&parsed), BTreeSet::from(["read"]));
    let error = filter_of(profile(), false, None).unwrap_err();
    assert!(error.to_string().contains("was not read"), "{error}");
}

/// A rule in Docker's format for one call, with these conditions.
fn conditional(name: &str, includes: Value, excludes: Value) -> Value {
    json!({
        "names": [name], "action": "SCMP_ACT_ALLOW", "comment": "", "includes": includes,
        "excludes": excludes,
    })
}

#[test]
fn conditions_of_docker_are_weighed() {
    let content = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X32"]},
        ],
        "something": {"new": 1},
        "syscalls": [
            {"name": "one", "action": "SCMP_ACT_ALLOW", "args": []},
            conditional("always", json!({}), json!({"caps": [], "arches": null})),
            conditional("both-caps", json!({"caps": ["CAP_KILL", "CAP_CHOWN"]}), json!(null)),
            conditional("one-cap", json!({"caps": ["CAP_KILL", "CAP_BPF"]}), json!({})),
            conditional("no-cap", json!({}), json!({"caps": ["CAP_BPF", "CAP_KILL"]})),
            conditional("without", json!({}), json!({"caps": ["CAP_BPF"]})),
            conditional("amd64", json!({"arches": ["amd64", "x32"]}), json!({})),
            conditional("s390x", json!({"arches": ["s390x"]}), json!({})),
            conditional("not-amd64", json!({}), json!({"arches": ["amd64"]})),
            conditional("new", json!({"minKernel": "6.1"}), json!({})),
            conditional("newer", json!({"minKernel": "6.2"}), json!({})),
            conditional("old", json!({}), json!({"minKernel": "5.0"})),
            conditional("older", json!({}), json!({"minKernel": "7"})),
            conditional("all", json!({"caps": ["CAP_KILL"], "arches": ["arm64"]}), json!({})),
        ],
    });
    let mut facts = Fixture::new().facts;
    (facts.arch, facts.kernel) = ("amd64".to_owned(), (6, 1));
    let parsed = filter(&Request {
        profile: Some(&SecurityProfile::Localhost("/p.json".to_owned())),
        privileged: false,
        content: Some(&content),
        capabilities: &caps(&["CAP_KILL", "CAP_CHOWN"]),
        facts: &facts,
    });
    let parsed = parsed.unwrap().unwrap();
    let names = parsed.syscalls().iter().flatten().flat_map(|rule| rule.names().clone());
    let wanted = ["one", "always", "both-caps", "without", "amd64", "new", "older"];
    assert_eq!(names.collect::<Vec<_>>(), wanted);
    let arches = serde_json::to_value(parsed.architectures()).unwrap();
    assert_eq!(arches, json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]));
}

#[test]
fn malformed_profiles_are_refused() {
    for bad in [
        json!(null),
        json!([]),
        json!("SCMP_ACT_ALLOW"),
        json!({}),
        json!({"defaultAction": "ALLOW"}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["x86_64"]}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": {}}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW"}]}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"]}]}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "archMap": "SCMP_ARCH_X86_64"}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{
            "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": "CAP_SYS_ADMIN"}
        }]}),
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{
            "names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "new"}
        }]}),
    ] {
        let profile = SecurityProfile::Localhost("/p.json".to_owned());
        let error = filter_of(Some(profile), false, Some(&bad)).unwrap_err();
        assert!(
            matches!(error, Error::Invalid { ref field, .. }
                if *field == format!("{FIELD}.localhost_ref")),
            "{bad}: {error}"
        );
    }
}

#[test]
fn the_profile_path_is_checked_before_it_is_read() {
    let path = |text: &str, privileged| {
        let profile = SecurityProfile::Localhost(text.to_owned());
        localhost_path(Some(&profile), privileged).map(|path| path.map(Path::to_owned))
    };
    assert_eq!(path("/etc/p.json", false), Ok(Some("/etc/p.json".into())));
    assert_eq!(path("", true), Ok(None));
    for bad in ["", "p.json", "../x", "/etc/../x", "/a\nb", "/a\0"] {
        assert!(path(bad, false).is_err(), "{bad:?}");
    }
    assert_eq!(localhost_path(Some(&SecurityProfile::RuntimeDefault), false), Ok(None));
}
