use super::super::mountinfo;
use super::*;

const STATUS: &str = "Name:\tx\nCapPrm:\t0\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n";

fn recorded(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

#[test]
fn a_unified_host_with_systemd() {
    let root = recorded(&[
        ("proc/self/status", STATUS),
        ("proc/self/cgroup", "0::/system.slice/podbay.service\n"),
        ("proc/self/oom_score_adj", "-999\n"),
        (
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max cpu time              unlimited            unlimited            seconds   \n\
             Max open files            1024                 524288               files     \n",
        ),
        ("proc/sys/kernel/random/boot_id", "abc-def\n"),
        ("proc/sys/kernel/seccomp/actions_avail", "kill_process\n"),
        ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids\n"),
        ("sys/fs/cgroup/system.slice/podbay.service/memory.swap.max", "max\n"),
        ("sys/module/apparmor/parameters/enabled", "Y\n"),
        ("sys/kernel/security/apparmor/profiles", ""),
        ("run/systemd/system/x", ""),
    ]);
    let point = root.path().join("sys/fs/cgroup");
    let table =
        format!("30 23 0:26 / {} rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", point.display());
    let facts = detect(root.path(), &mountinfo::parse(table.as_bytes())).unwrap();
    assert_eq!(facts.cgroup, CgroupVersion::V2);
    assert_eq!(facts.controllers, ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]);
    assert!(facts.swap_accounting && facts.seccomp && facts.apparmor && facts.systemd);
    assert_eq!(facts.selinux, None);
    assert_eq!(facts.rlimits["nofile"], 524_288);
    assert_eq!(facts.rlimits["cpu"], u64::MAX);
    assert_eq!(facts.oom_score_adj, -999);
    assert_eq!(facts.boot_id, "abc-def");
    assert_eq!(facts.capabilities.len(), 40);
    assert!(!facts.may_lower_oom_score(), "bit 24 is missing");
}

#[test]
fn a_hybrid_host_has_the_mounted_v1_controllers() {
    let root = recorded(&[
        ("proc/self/status", STATUS),
        (
            "proc/cgroups",
            "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t2\t1\nmemory\t3\t4\t1\n\
             hugetlb\t0\t1\t1\nrdma\t0\t1\t0\n",
        ),
    ]);
    let memory = root.path().join("sys/fs/cgroup/memory");
    fs::create_dir_all(&memory).unwrap();
    fs::write(memory.join("memory.memsw.limit_in_bytes"), "1").unwrap();
    let table = format!(
        "1 0 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
         2 0 0:2 / {} rw - cgroup cgroup rw,memory\n\
         3 0 0:3 / {} rw - cgroup2 cgroup2 rw\n",
        memory.display(),
        root.path().join("sys/fs/cgroup/unified").display()
    );
    let facts = detect(root.path(), &mountinfo::parse(table.as_bytes())).unwrap();
    assert_eq!(facts.cgroup, CgroupVersion::V1);
    assert_eq!(facts.controllers, ["cpu", "memory"]);
    assert!(facts.swap_accounting);
    assert!(!facts.apparmor && !facts.systemd && !facts.seccomp);
}

#[test]
fn this_host_can_be_looked_at() {
    let facts = detect(Path::new("/"), &mountinfo::read().unwrap()).unwrap();
    assert!(facts.kernel.0 >= 4);
    assert_eq!(facts.boot_id.len(), 36);
    assert!(!facts.controllers.is_empty());
}

#[test]
fn a_filtered_agent_does_not_ask_for_x32() {
    for (mode, unfiltered) in [("0", true), ("2", false), ("20", false)] {
        assert_eq!(
            is_unfiltered(&STATUS.replace("Seccomp:\t0", &format!("Seccomp:\t{mode}"))),
            unfiltered
        );
    }
    assert!(!is_unfiltered("Name:\tx\n"), "unknown");
    let root = recorded(&[("proc/self/status", &STATUS.replace("Seccomp:\t0", "Seccomp:\t2"))]);
    assert!(detect(root.path(), &[]).unwrap().x32);
}

#[test]
fn names_of_kernels_and_machines() {
    assert_eq!(kernel_version("6.18.44-fc-v595"), Some((6, 18)));
    assert_eq!(kernel_version("5.4+"), Some((5, 4)));
    assert_eq!(kernel_version("odd"), None);
    assert_eq!((go_arch("x86_64"), go_arch("riscv64")), ("amd64", "riscv64"));
}
