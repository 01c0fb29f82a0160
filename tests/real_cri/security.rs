//! Who a container's processes are and what they may do.

use std::collections::BTreeMap;

use podbay::proto::runtime::v1 as cri;

use crate::rig::{LivePod, Rig};
use crate::support::builders::Container;
use crate::support::containerd::Line;
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
    for (image, wanted) in [(by_user, "1000\n1000\n1000 50"), (numbers, "1234\n77\n77")] {
        let container = Container::script(&wanted[..4], &image, script);
        assert_eq!(rig.output(&pod, &container).await.0, wanted);
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
