//! Users, groups, capabilities, seccomp, no_new_privs.

use std::sync::Arc;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Map, Value, json};

use crate::compare::scenarios;
use crate::rig::{LivePod, Rig};
use crate::support::builders::Container;
use crate::support::images::ImageBuilder;

scenarios! {
    "runtime should support RunAsUser" => users,
    "runtime should support RunAsUserName" => user_names,
    "runtime should support RunAsGroup" => groups,
    "runtime should support SupplementalGroups" => supplemental_groups,
    "groups of users of images" => image_users,
    "runtime should support adding and dropping capability" => capabilities,
    "runtime should support seccomp default, unconfined, localhost and nil" => seccomp,
    "should allow privilege escalation when false, not when true" => no_new_privileges,
    "a sandbox with a security context" => sandbox_context,
    "apparmor and selinux where the host has none" => absent_modules,
}

type Security = cri::LinuxContainerSecurityContext;

const SCRIPT: &str = "id; grep -E '^(Uid|Gid|Groups|Cap|NoNew|Seccomp:)' /proc/self/status; env | grep HOME; \
                      id -un 2>&1; echo cwd $(pwd)";

/// How a container with these settings begins, what it says, and how that goes in an exec.
async fn said(
    rig: &Rig,
    pod: &LivePod,
    name: &str,
    image: &str,
    script: &str,
    change: impl FnOnce(&mut Security),
) -> Value {
    let script = format!("trap 'exit 0' TERM; ({script}); echo over; sleep 86400 & wait");
    let mut spec = Container::script(name, image, &script);
    change(spec.security());
    let id = match rig.create(pod, &spec).await {
        Ok(id) => id,
        Err(e) => return json!({"create": format!("{:?}", e.code())}),
    };
    if let Err(e) = rig.start_created(&id).await {
        return json!({"start": format!("{:?}", e.code())});
    }
    crate::support::wait_until(crate::rig::SOON, "the script is over", async || {
        rig.log(pod, name).contains(" over\n")
    })
    .await;
    let log = rig.log(pod, name);
    let mut lines: Vec<_> = crate::facts::entries(&log)
        .into_iter()
        .map(|(stream, _, text)| format!("{stream} {text}"))
        .collect();
    lines.sort();
    let exec = rig
        .try_exec(&id, &["sh", "-c", "id; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status"], 20)
        .await;
    let exec =
        exec.map_or_else(|e| format!("{:?}", e.code()), |done| crate::rig::lossy(&done.stdout));
    let user = rig.status(&id).await.user.map(|it| crate::facts::told("ContainerUser", &it));
    rig.stop(&id, 5).await;
    json!({"said": lines, "exec": exec, "user": user})
}

fn number(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

async fn users(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("users")).await;
    let mut found = Map::new();
    for (name, uid) in
        [("root", 0), ("known", 1000), ("unknown", 4242), ("negative", -1), ("huge", 1 << 33)]
    {
        let change = |it: &mut Security| it.run_as_user = number(uid);
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, SCRIPT, change).await);
    }
    found.into()
}

async fn user_names(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("user-names")).await;
    let mut found = Map::new();
    for (name, user) in [
        ("root", "root"),
        ("known", "worker"),
        ("unknown", "nosuchuser"),
        ("digits", "1000"),
        ("group", "worker:staff"),
    ] {
        let change = |it: &mut Security| it.run_as_username = user.into();
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, SCRIPT, change).await);
    }
    let both = |it: &mut Security| {
        it.run_as_username = "worker".into();
        it.run_as_user = number(7);
    };
    found.insert("both".into(), said(&rig, &pod, "both", &rig.image, SCRIPT, both).await);
    found.into()
}

async fn groups(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("groups")).await;
    let run = async |name: &str, change: &dyn Fn(&mut Security)| {
        said(&rig, &pod, name, &rig.image, SCRIPT, change).await
    };
    json!({
        "with a user": run("user", &|it| (it.run_as_user, it.run_as_group) = (number(1000), number(1234))).await,
        "with a name": run("name", &|it| {
            it.run_as_username = "worker".into();
            it.run_as_group = number(1234);
        }).await,
        "alone": run("alone", &|it| it.run_as_group = number(1234)).await,
    })
}

async fn supplemental_groups(rig: Arc<Rig>) -> Value {
    use cri::SupplementalGroupsPolicy::{Merge, Strict};
    let pod = rig.run(rig.pod_spec("supplemental")).await;
    let mut found = Map::new();
    for (name, uid, extra, policy) in [
        ("merge", 1000, vec![1234, 5678], Merge as i32),
        ("strict", 1000, vec![1234, 5678], Strict as i32),
        ("strict-none", 1000, vec![], Strict as i32),
        ("root-merge", 0, vec![50], Merge as i32),
        ("twice", 1000, vec![50, 50, 1234], Merge as i32),
        ("unknown-policy", 1000, vec![], 7),
    ] {
        let change = |it: &mut Security| {
            it.run_as_user = number(uid);
            it.supplemental_groups = extra;
            it.supplemental_groups_policy = policy;
        };
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, SCRIPT, change).await);
    }
    found.into()
}

async fn image_users(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("image-users")).await;
    let mut found = Map::new();
    for (name, user) in [
        ("name", "worker"),
        ("uid", "1000"),
        ("uid-gid", "1234:77"),
        ("name-group", "worker:staff"),
        ("unknown-name", "nosuch"),
        ("unknown-group", "worker:nosuch"),
        ("none", ""),
    ] {
        let bundle = ImageBuilder::busybox().user(user).label("user", name).build();
        let image = rig.registry.push(&bundle, &format!("user-{name}"), "1").await;
        rig.pull(&image).await.expect("PullImage");
        let plain = said(&rig, &pod, name, &image, SCRIPT, |_| {}).await;
        let strict = |it: &mut Security| {
            it.supplemental_groups = vec![3000];
            it.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
        };
        let strict = said(&rig, &pod, &format!("{name}-strict"), &image, SCRIPT, strict).await;
        found.insert(name.into(), json!({"plain": plain, "strict": strict}));
    }
    found.into()
}

async fn capabilities(rig: Arc<Rig>) -> Value {
    let pod = rig.run(rig.pod_spec("capabilities")).await;
    let mut found = Map::new();
    for (name, add, drop, uid) in [
        ("add", &["NET_ADMIN"][..], &[][..], 0),
        ("drop", &[], &["CHOWN"], 0),
        ("add-all", &["ALL"], &[], 0),
        ("drop-all", &[], &["ALL"], 0),
        ("drop-all-add", &["NET_BIND_SERVICE"], &["ALL"], 0),
        ("add-all-drop", &["ALL"], &["SYS_ADMIN"], 0),
        ("both-all", &["ALL"], &["ALL"], 0),
        ("same", &["NET_RAW"], &["NET_RAW"], 0),
        ("prefix", &["CAP_NET_ADMIN"], &["CAP_CHOWN"], 0),
        ("lower", &["net_admin", "all"], &["chown"], 0),
        ("as-user", &["NET_ADMIN"], &["CHOWN"], 1000),
    ] {
        let change = |it: &mut Security| {
            let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            it.run_as_user = number(uid);
            it.capabilities = Some(cri::Capability {
                add_capabilities: owned(add),
                drop_capabilities: owned(drop),
                add_ambient_capabilities: Vec::new(),
            });
        };
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, SCRIPT, change).await);
    }
    found.into()
}

async fn seccomp(rig: Arc<Rig>) -> Value {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let pod = rig.run(rig.pod_spec("seccomp").privileged()).await;
    let file = rig.env().file("profile.json");
    let rule = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["sethostname", "chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO"}],
    });
    std::fs::write(&file, rule.to_string()).expect("a profile");
    let file = file.display().to_string();
    let script = format!(
        "{SCRIPT}; chmod 700 /tmp; hostname x; unshare -U true; mount -t tmpfs x /mnt; ls -ld /tmp | cut -c1-10"
    );
    let mut found = Map::new();
    for (name, profile, privileged) in [
        ("nil", None, false),
        ("default", Some((RuntimeDefault, "")), false),
        ("unconfined", Some((Unconfined, "")), false),
        ("localhost", Some((Localhost, file.as_str())), false),
        ("missing", Some((Localhost, "/no/such/file")), false),
        ("relative", Some((Localhost, "file")), false),
        ("unnamed", Some((Localhost, "")), false),
        ("privileged", Some((RuntimeDefault, "")), true),
        ("privileged-localhost", Some((Localhost, file.as_str())), true),
    ] {
        let change = |it: &mut Security| {
            it.privileged = privileged;
            it.seccomp = profile.map(|(kind, path)| cri::SecurityProfile {
                profile_type: kind.into(),
                localhost_ref: path.into(),
            });
        };
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, &script, change).await);
    }
    let with_admin = |it: &mut Security| {
        it.seccomp = Some(cri::SecurityProfile {
            profile_type: RuntimeDefault.into(),
            ..Default::default()
        });
        let add_capabilities = vec!["SYS_ADMIN".into()];
        it.capabilities = Some(cri::Capability { add_capabilities, ..Default::default() });
    };
    found.insert(
        "default with SYS_ADMIN".into(),
        said(&rig, &pod, "admin", &rig.image, &script, with_admin).await,
    );
    found.into()
}

/// The suite's program is setuid root and tells its effective user.
async fn no_new_privileges(rig: Arc<Rig>) -> Value {
    let busybox = std::fs::read("/bin/busybox").expect("busybox");
    let bundle = ImageBuilder::busybox().file("/bin/setuid-busybox", &busybox, 0o4755).build();
    let image = rig.registry.push(&bundle, "setuid", "1").await;
    rig.pull(&image).await.expect("PullImage");
    let pod = rig.run(rig.pod_spec("no-new-privs")).await;
    let script =
        "/bin/setuid-busybox id; /bin/setuid-busybox sh -c 'cat /proc/self/status | grep Cap'";
    let mut found = Map::new();
    for (name, on) in [("on", true), ("off", false)] {
        let change = |it: &mut Security| {
            it.run_as_user = number(1000);
            it.no_new_privs = on;
        };
        found.insert(name.into(), said(&rig, &pod, name, &image, script, change).await);
    }
    found.into()
}

async fn sandbox_context(rig: Arc<Rig>) -> Value {
    let mut spec = rig.pod_spec("context");
    spec.security().run_as_user = number(1000);
    spec.security().run_as_group = number(2000);
    spec.security().supplemental_groups = vec![3000];
    spec.security().readonly_rootfs = true;
    spec.security().seccomp = Some(cri::SecurityProfile::default());
    let pod = rig.run(spec).await;
    said(&rig, &pod, "c", &rig.image, SCRIPT, |_| {}).await
}

async fn absent_modules(rig: Arc<Rig>) -> Value {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let pod = rig.run(rig.pod_spec("modules")).await;
    let mut found = Map::new();
    for (name, kind, path) in [
        ("default", RuntimeDefault, ""),
        ("unconfined", Unconfined, ""),
        ("localhost", Localhost, "no-such-profile"),
    ] {
        let change = |it: &mut Security| {
            let localhost_ref = path.to_owned();
            it.apparmor = Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref });
        };
        found.insert(name.into(), said(&rig, &pod, name, &rig.image, SCRIPT, change).await);
    }
    let selinux = |it: &mut Security| {
        it.selinux_options =
            Some(cri::SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() });
    };
    found.insert("selinux".into(), said(&rig, &pod, "selinux", &rig.image, SCRIPT, selinux).await);
    found.into()
}
