//! Users and privileges of a container's processes.

use std::collections::BTreeMap;

use podbay::proto::runtime::v1 as cri;

use crate::rig::{LivePod, Rig};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;

type Security = cri::LinuxContainerSecurityContext;

/// Runs a script under this security context; returns what it said.
async fn said(
    rig: &Rig,
    pod: &LivePod,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut Security),
) -> String {
    let mut container = Container::script(name, &rig.image, script);
    change(container.security());
    rig.output(pod, &container).await.0
}

pub async fn users_and_groups(line: Line) {
    use cri::SupplementalGroupsPolicy::{Merge, Strict};
    let mut rig = Rig::start(line).await;
    let by_user = rig.add_image("user", ImageBuilder::busybox().user("worker")).await;
    let numbers = rig.add_image("numbers", ImageBuilder::busybox().user("1234:77")).await;
    let pod = rig.run(rig.pod_spec("users")).await;
    let script = "id -u; id -g; id -G";
    let number = |value| Some(cri::Int64Value { value });
    let found = said(&rig, &pod, "root", script, |_| {}).await;
    assert_eq!(found, "0\n0\n0");
    let found = said(&rig, &pod, "uid", script, |it| it.run_as_user = number(1000)).await;
    assert_eq!(found, "1000\n1000\n1000 50", "uid 1000 is worker, who is in staff");
    let found = said(&rig, &pod, "unknown", script, |it| it.run_as_user = number(4242)).await;
    assert_eq!(found, "4242\n0\n0");
    let name = |it: &mut Security| it.run_as_username = "worker".into();
    assert_eq!(said(&rig, &pod, "name", script, name).await, "1000\n1000\n1000 50");
    let merge = |it: &mut Security| {
        (it.run_as_user, it.run_as_group) = (number(1000), number(3000));
        it.supplemental_groups = vec![4000];
        it.supplemental_groups_policy = Merge.into();
    };
    assert_eq!(said(&rig, &pod, "merge", script, merge).await, "1000\n3000\n3000 50 4000");
    let strict = |it: &mut Security| {
        merge(it);
        it.supplemental_groups_policy = Strict.into();
    };
    assert_eq!(said(&rig, &pod, "strict", script, strict).await, "1000\n3000\n3000 4000");
    let by_user_image = by_user.clone();
    for (image, wanted) in [(by_user, "1000\n1000\n1000 50"), (numbers, "1234\n77\n77")] {
        let container = Container::script(&wanted[..4], &image, script);
        assert_eq!(rig.output(&pod, &container).await.0, wanted);
    }
    // An image that is known already has its user still.
    for attempt in 1..=5 {
        let container = Container::script(&format!("again-{attempt}"), &by_user_image, "id -u");
        assert_eq!(rig.output(&pod, &container).await.0, "1000", "attempt {attempt}");
    }
    // Exec is the same user, with the same environment.
    let mut container = Container::waiting("exec", &rig.image).env("COLOUR", "red");
    strict(container.security());
    let id = rig.launch(&pod, &container).await;
    assert_eq!(
        rig.exec(&id, "id -u; id -g; id -G; echo $COLOUR").await,
        "1000\n3000\n3000 4000\nred"
    );
    let user = rig.status(&id).await.user.and_then(|user| user.linux).expect("a user");
    assert_eq!((user.uid, user.gid), (1000, 3000));
    rig.finish().await;
}

/// Fields of /proc/<pid>/status.
fn fields(text: &str) -> BTreeMap<String, String> {
    let field = |line: &str| {
        let (key, value) = line.split_once(':')?;
        Some((key.to_owned(), value.trim().to_owned()))
    };
    text.lines().filter_map(field).collect()
}

fn capabilities(text: &str, set: &str) -> u64 {
    u64::from_str_radix(&fields(text)[set], 16).expect("a hexadecimal number")
}

/// What containers have by default: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID,
/// SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, SETFCAP.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;

pub async fn privileges(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("plain")).await;
    let script = "cat /proc/self/status";
    let plain = said(&rig, &pod, "plain", script, |_| {}).await;
    assert_eq!(capabilities(&plain, "CapEff"), DEFAULT_CAPABILITIES);
    assert_eq!(fields(&plain)["NoNewPrivs"], "0");
    let set = |add: &'static [&str], drop: &'static [&str]| {
        move |it: &mut Security| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            it.capabilities = Some(cri::Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                add_ambient_capabilities: Vec::new(),
            });
        }
    };
    for (name, add, drop, wanted) in [
        ("add", &["NET_ADMIN"][..], &[][..], DEFAULT_CAPABILITIES | NET_ADMIN),
        ("drop", &[], &["net_raw"], DEFAULT_CAPABILITIES & !NET_RAW),
        ("all-but", &["NET_ADMIN"], &["ALL"], NET_ADMIN),
    ] {
        let found = said(&rig, &pod, name, script, set(add, drop)).await;
        assert_eq!(capabilities(&found, "CapEff"), wanted, "{name}");
    }
    let locked = said(&rig, &pod, "locked", script, |it| it.no_new_privs = true).await;
    assert_eq!(fields(&locked)["NoNewPrivs"], "1");
    let id = rig.launch_waiting(&pod, "exec").await;
    for text in [plain, rig.exec(&id, script).await] {
        assert_eq!((capabilities(&text, "CapInh"), capabilities(&text, "CapAmb")), (0, 0));
        assert_eq!(capabilities(&text, "CapBnd"), DEFAULT_CAPABILITIES);
    }

    let pod = rig.run(rig.pod_spec("privileged").privileged()).await;
    let container = Container::waiting("privileged", &rig.image).privileged();
    let id = rig.launch(&pod, &container).await;
    let found = rig.exec(&id, script).await;
    let own = std::fs::read_to_string("/proc/self/status").expect("our status");
    assert_eq!(capabilities(&found, "CapEff"), capabilities(&own, "CapBnd"));
    assert_ne!(capabilities(&found, "CapEff") & SYS_ADMIN, 0);
    assert_eq!(fields(&found)["Seccomp"], "0");
    let sys = rig.exec(&id, "grep ' /sys ' /proc/mounts").await;
    assert!(sys.contains(" rw,"), "{sys}");
    rig.exec(&id, "test -c /dev/loop-control || test -c /dev/kmsg").await;
    rig.finish().await;
}

pub async fn seccomp_profiles(line: Line) {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("seccomp")).await;
    let profile = |kind: cri::security_profile::ProfileType, path: &str| {
        let profile =
            cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() };
        move |it: &mut Security| it.seccomp = Some(profile)
    };
    let script = "grep Seccomp: /proc/self/status; mkdir /tmp/x && echo made";
    let found = said(&rig, &pod, "unset", script, |_| {}).await;
    assert_eq!(found, "Seccomp:\t0\nmade");
    let found = said(&rig, &pod, "default", script, profile(RuntimeDefault, "")).await;
    assert_eq!(found, "Seccomp:\t2\nmade");
    let found = said(&rig, &pod, "unconfined", script, profile(Unconfined, "")).await;
    assert_eq!(found, "Seccomp:\t0\nmade");
    let unshare = "unshare -U true 2>/dev/null && echo yes || echo no";
    assert_eq!(said(&rig, &pod, "unshare", unshare, profile(RuntimeDefault, "")).await, "no");

    let file = rig.env().file("profile.json");
    let rule = serde_json::json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    std::fs::write(&file, rule.to_string()).expect("a profile");
    let own = profile(Localhost, &file.display().to_string());
    let found = said(&rig, &pod, "own", script, own).await;
    assert!(found.contains("Seccomp:\t2") && !found.contains("made"), "{found}");

    let broken = rig.env().file("broken.json");
    std::fs::write(&broken, "{").expect("a profile");
    for path in ["", "relative.json", "/there/is/no/such.json", &broken.display().to_string()] {
        let mut container = Container::waiting("refused", &rig.image);
        profile(Localhost, path)(container.security());
        let refused = rig.create(&pod, &container).await.expect_err(path);
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{path:?}: {refused}");
        assert!(refused.message().contains("seccomp"), "{path:?}: {refused}");
    }
    rig.finish().await;
}

pub async fn paths_are_masked(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("masked")).await;
    let mounted = "grep -c ' /proc/sys ' /proc/mounts";
    let script = format!(
        "wc -c </proc/keys; ls /proc/scsi 2>/dev/null | wc -l; ls /sys/firmware | wc -l; {mounted}; \
         touch /proc/sys/net/ipv4/ip_forward 2>/dev/null || echo readonly"
    );
    let masks = |it: &mut Security| {
        it.masked_paths = ["/proc/keys", "/proc/scsi", "/sys/firmware", "/proc/no-such-file"]
            .map(str::to_owned)
            .to_vec();
        it.readonly_paths = vec!["/proc/sys".into()];
    };
    let found = said(&rig, &pod, "masked", &script, masks).await;
    assert_eq!(found, "0\n0\n0\n1\nreadonly");
    let open = said(&rig, &pod, "open", mounted, |_| {}).await;
    assert_eq!(open, "0", "an empty list masks nothing");
    // A read-only root leaves the rest as it is.
    let script = "touch /x 2>/dev/null && echo root; touch /dev/shm/x && echo shm; touch /data/x && echo data; \
                  (echo >>/etc/hosts) 2>/dev/null && echo hosts";
    let data = rig.env().file("data");
    let mut container = Container::script("readonly", &rig.image, script).mount(
        &data.display().to_string(),
        "/data",
        false,
    );
    container.security().readonly_rootfs = true;
    assert_eq!(rig.output(&pod, &container).await.0, "shm\ndata");
    rig.finish().await;
}

/// The fields that older kubelets send in place of typed profiles.
#[allow(deprecated)]
pub async fn profiles_in_the_old_fields(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("old")).await;
    let script = "grep Seccomp: /proc/self/status";
    for (path, wanted) in [("runtime/default", "2"), ("unconfined", "0"), ("docker/default", "2")] {
        let name = path.replace('/', "-");
        let found =
            said(&rig, &pod, &name, script, |it| it.seccomp_profile_path = path.into()).await;
        assert_eq!(found, format!("Seccomp:\t{wanted}"), "{path}");
    }
    let apparmor = std::path::Path::new("/sys/kernel/security/apparmor").exists();
    assert!(!apparmor, "this test is for hosts without AppArmor");
    for profile in ["runtime/default", "unconfined"] {
        let name = format!("apparmor-{}", profile.replace('/', "-"));
        let found =
            said(&rig, &pod, &name, script, |it| it.apparmor_profile = profile.into()).await;
        assert_eq!(found, "Seccomp:\t0", "ignored where there is none");
    }
    let mut container = Container::waiting("refused", &rig.image);
    container.security().apparmor_profile = "localhost/mine".into();
    let refused = rig.create(&pod, &container).await.expect_err("no AppArmor");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("apparmor"), "{refused}");
    rig.finish().await;
}

/// What operators may set for all containers.
pub async fn operators_limit_and_own(line: Line) {
    let mut env = TestEnv::start(line).await;
    env.add_config(
        "[oci]\nrlimits = [\"nofile=2000\", \"msgqueue=1000:2000\", \"core=0\"]\n\
         device_ownership_from_security_context = true",
    );
    let rig = Rig::start_in(env).await;
    let pod = rig.run(rig.pod_spec("limits")).await;
    let mut container = Container::waiting("c", &rig.image);
    container.security().run_as_user = Some(cri::Int64Value { value: 1234 });
    container.config.devices.push(cri::Device {
        container_path: "/dev/mine".into(),
        host_path: "/dev/null".into(),
        permissions: "rw".into(),
    });
    let id = rig.launch(&pod, &container).await;
    // Not a soft limit of open files: in runc 1.1 the Go runtime may set it anew.
    let found = rig.exec(&id, "ulimit -n; ulimit -c; stat -c %u /dev/mine").await;
    assert_eq!(found, "2000\n0\n1234");
    let found = rig.exec(&id, "grep msgqueue /proc/self/limits").await;
    assert_eq!(found.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["1000", "2000"]);
    rig.finish().await;
}

/// Read-only with all that is mounted below, or not at all.
pub async fn read_only_is_recursive_or_refused(line: Line) {
    let mut env = TestEnv::start(line).await;
    env.add_config("[runtimes.handlers.crun]\nbinary = \"crun\"");
    let rig = Rig::start_in(env).await;
    let told = rig.runtime().status(cri::StatusRequest::default()).await.expect("Status");
    let handlers = told.into_inner().runtime_handlers;
    let announced = |name: &str| {
        let handler = handlers.iter().find(|handler| handler.name == name).expect("a handler");
        handler.features.expect("features").recursive_read_only_mounts
    };
    assert!(announced("runc"), "both runc 1.1 and 1.5 can");
    let volume = rig.env().file("volume");
    std::fs::create_dir_all(volume.join("below")).expect("a folder");
    let below = volume.join("below").display().to_string();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "none", &below]).status();
    assert!(mounted.expect("mount").success());
    let mount = |recursive: bool| cri::Mount {
        container_path: "/v".into(),
        host_path: volume.display().to_string(),
        readonly: true,
        recursive_read_only: recursive,
        ..Default::default()
    };
    let pod = rig.run(rig.pod_spec("rro")).await;
    let script = "touch /v/x 2>/dev/null && echo top; touch /v/below/x 2>/dev/null && echo below";
    for (recursive, wanted) in [(false, "below"), (true, "")] {
        let mut container =
            Container::script(if recursive { "rro" } else { "ro" }, &rig.image, script);
        container.config.mounts.push(mount(recursive));
        assert_eq!(rig.output(&pod, &container).await.0, wanted, "recursive: {recursive}");
    }
    // crun 1.8 tells no features: what it cannot promise is refused.
    assert!(!announced("crun"));
    let request =
        cri::RunPodSandboxRequest { runtime_handler: "crun".into(), ..rig.pod_spec("crun").run() };
    let id = rig.runtime().run_pod_sandbox(request).await.expect("a pod").into_inner();
    let crun = LivePod { spec: rig.pod_spec("crun"), id: id.pod_sandbox_id };
    let mut container = Container::waiting("refused", &rig.image);
    container.config.mounts.push(mount(true));
    let refused = rig.create(&crun, &container).await.expect_err("no recursive mounts");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    assert!(refused.message().starts_with("RROUnsupported: "), "{refused}");
    rig.remove_pod(&crun.id).await;
    let unmounted = std::process::Command::new("umount").arg(&below).status();
    assert!(unmounted.expect("umount").success());
    rig.finish().await;
}

/// What the agent keeps and where it listens is closed to all but root.
pub async fn nothing_of_ours_is_open(line: Line) {
    use std::os::unix::fs::MetadataExt;
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("host").host_network()).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let mode = |path: &std::path::Path| {
        std::fs::symlink_metadata(path).expect("something of ours").mode() & 0o7777
    };
    let root = rig.env().root();
    assert_eq!(mode(&root), 0o700);
    assert_eq!(mode(&root.join("state.redb")), 0o600);
    let mut folders = 0;
    for entry in std::fs::read_dir(rig.env().state()).expect("the state folder") {
        let path = entry.expect("an entry").path();
        assert_eq!(mode(&path) & 0o007, 0, "{}", path.display());
        folders += u32::from(path.is_dir());
    }
    assert!(folders >= 2, "pods and containers are there");
    assert_eq!(mode(&rig.env().socket()) & 0o007, 0);
    // A pod in the host's network reaches every socket without a path.
    let sockets = rig.exec(&id, "cat /proc/net/unix").await;
    let ours = |line: &&str| line.contains('@') && line.contains("podbay");
    assert_eq!(sockets.lines().find(ours), None);
    rig.finish().await;
}
