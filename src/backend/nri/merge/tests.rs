use super::super::proto::{
    CdiDevice, Hook, LinuxCpu, LinuxSeccomp, OptionalInt, OptionalString, OptionalUInt64,
};
use super::*;

const ID: &str = "new";

fn creation() -> Creation {
    let container = Container {
        id: ID.to_owned(),
        annotations: map(&[("kept", "1"), ("old", "1")]),
        env: vec!["PATH=/bin".to_owned(), "HOME=/".to_owned()],
        mounts: vec![mount("/proc"), mount("/data")],
        args: vec!["run".to_owned()],
        ..Container::default()
    };
    Creation::new(CreateContainerRequest { pod: None, container: Some(container) })
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn mount(destination: &str) -> Mount {
    Mount { destination: destination.to_owned(), ..Mount::default() }
}

fn variable(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned() }
}

fn shares(value: u64) -> LinuxResources {
    let cpu = LinuxCpu { shares: Some(OptionalUInt64 { value }), ..LinuxCpu::default() };
    LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
}

fn update(id: &str, limits: LinuxResources) -> ContainerUpdate {
    ContainerUpdate {
        container_id: id.to_owned(),
        linux: Some(LinuxContainerUpdate { resources: Some(limits) }),
        ignore_failure: false,
    }
}

/// Merges adjustments by plugins `00-a`, `01-b` and so on.
fn merge(adjustments: Vec<ContainerAdjustment>) -> Result<Creation, MergeError> {
    let mut creation = creation();
    for (index, adjust) in adjustments.into_iter().enumerate() {
        let plugin = format!("0{index}-{}", (b'a' + index as u8) as char);
        creation.add(&plugin, Some(adjust), Vec::new(), Vec::new())?;
    }
    Ok(creation)
}

fn shown(creation: &Creation) -> &Container {
    creation.request.container.as_ref().unwrap()
}

fn conflict(adjustments: Vec<ContainerAdjustment>) -> String {
    merge(adjustments).unwrap_err().to_string()
}

fn with(change: impl FnOnce(&mut ContainerAdjustment)) -> ContainerAdjustment {
    let mut adjust = ContainerAdjustment::default();
    change(&mut adjust);
    adjust
}

fn with_linux(change: impl FnOnce(&mut LinuxContainerAdjustment)) -> ContainerAdjustment {
    with(|adjust| change(adjust.linux.get_or_insert_default()))
}

#[test]
fn the_next_plugin_is_shown_what_the_last_one_wanted() {
    let creation = merge(vec![
        with(|a| a.env = vec![variable("A", "1"), variable("-HOME", "")]),
        with(|a| {
            a.annotations = map(&[("new", "2"), ("-old", "")]);
            a.mounts = vec![mount("-/data"), mount("/srv")];
        }),
        with_linux(|l| l.resources = Some(shares(5))),
    ]);
    let creation = creation.unwrap();
    let container = shown(&creation);
    assert_eq!(container.env, ["PATH=/bin", "A=1"]);
    assert_eq!(container.annotations, map(&[("kept", "1"), ("new", "2")]));
    assert_eq!(container.mounts, [mount("/proc"), mount("/srv")]);
    assert_eq!(container.linux.as_ref().unwrap().resources, Some(shares(5)));
    assert_eq!(creation.adjust.env, [variable("A", "1"), variable("-HOME", "")]);
    assert_eq!(creation.adjust.annotations, map(&[("new", "2"), ("-old", "")]));
    assert_eq!(creation.adjust.mounts, [mount("-/data"), mount("/srv")]);
}

#[test]
fn two_plugins_cannot_set_the_same() {
    let seccomp = || LinuxSeccomp { default_action: "SCMP_ACT_ALLOW".into(), ..Default::default() };
    let limit = || PosixRlimit { r#type: "RLIMIT_NOFILE".into(), hard: 1, soft: 1 };
    let namespace = |kind: &str| LinuxNamespace { r#type: kind.into(), path: String::new() };
    let same: Vec<(&str, ContainerAdjustment)> = vec![
        ("Annotations key", with(|a| a.annotations = map(&[("key", "1")]))),
        ("Mounts /srv", with(|a| a.mounts = vec![mount("/srv")])),
        ("Env A", with(|a| a.env = vec![variable("A", "1")])),
        ("Args", with(|a| a.args = vec!["x".into()])),
        ("Rlimits RLIMIT_NOFILE", with(|a| a.rlimits = vec![limit()])),
        ("CdiDevices v/c=n", with(|a| a.cdi_devices = vec![CdiDevice { name: "v/c=n".into() }])),
        (
            "Devices /dev/x",
            with_linux(|l| {
                l.devices = vec![LinuxDevice { path: "/dev/x".into(), ..Default::default() }];
            }),
        ),
        ("CPUShares", with_linux(|l| l.resources = Some(shares(5)))),
        (
            "CgroupsUnified memory.high",
            with_linux(|l| {
                l.resources = Some(LinuxResources {
                    unified: map(&[("memory.high", "1")]),
                    ..Default::default()
                });
            }),
        ),
        ("CgroupsPath", with_linux(|l| l.cgroups_path = "/a".into())),
        ("OomScoreAdj", with_linux(|l| l.oom_score_adj = Some(OptionalInt { value: 1 }))),
        ("SeccompPolicy", with_linux(|l| l.seccomp_policy = Some(seccomp()))),
        ("Namespace pid", with_linux(|l| l.namespaces = vec![namespace("-pid")])),
        ("Sysctl a.b", with_linux(|l| l.sysctl = map(&[("a.b", "1")]))),
        (
            "RdtClosID",
            with_linux(|l| {
                let clos_id = Some(OptionalString { value: "c".into() });
                l.rdt = Some(LinuxRdt { clos_id, ..Default::default() });
            }),
        ),
    ];
    for (what, adjust) in same {
        merge(vec![adjust.clone()]).unwrap();
        assert_eq!(
            conflict(vec![adjust.clone(), adjust]),
            format!("plugins \"01-b\" and \"00-a\" both tried to set {what}")
        );
    }
}

#[test]
fn who_takes_away_first_overrules() {
    let set = |value: &str| {
        let value = value.to_owned();
        with(|a| {
            a.annotations = map(&[("key", &value)]);
            a.env = vec![variable("A", &value)];
            a.mounts = vec![Mount { source: value.clone(), ..mount("/srv") }];
            a.args = vec![value];
        })
    };
    let mut overrule = set("2");
    overrule.annotations.insert("-key".into(), String::new());
    overrule.env.insert(0, variable("-A", ""));
    overrule.mounts.push(mount("-/srv"));
    overrule.args.insert(0, String::new());
    let creation = merge(vec![set("1"), overrule.clone()]).unwrap();
    let (adjust, container) = (&creation.adjust, shown(&creation));
    assert_eq!(adjust.annotations["key"], "2");
    assert_eq!(adjust.env, [variable("A", "2")]);
    assert_eq!(adjust.mounts, [Mount { source: "2".into(), ..mount("/srv") }]);
    assert_eq!(adjust.args, ["2"]);
    assert_eq!((container.annotations["key"].as_str(), container.args.len()), ("2", 1));
    assert!(container.env.contains(&"A=2".to_owned()));
    // A third plugin must remove the setting first.
    assert!(merge(vec![set("1"), overrule.clone(), set("3")]).is_err());
    assert!(merge(vec![set("1"), overrule.clone(), overrule]).is_ok());
}

#[test]
fn hooks_of_all_are_kept() {
    let hook = |path: &str| {
        with(|a| {
            let hook = Hook { path: path.into(), ..Hook::default() };
            a.hooks = Some(Hooks { prestart: vec![hook], ..Hooks::default() });
        })
    };
    let creation = merge(vec![hook("/a"), hook("/b")]).unwrap();
    let hooks = creation.adjust.hooks.as_ref().unwrap();
    let paths: Vec<_> = hooks.prestart.iter().map(|hook| hook.path.as_str()).collect();
    assert_eq!(paths, ["/a", "/b"]);
    let owners = creation.others.owners.show();
    assert_eq!(owners.owners[ID].simple[&(Field::OciHooks as i32)], "00-a,01-b");
}

#[test]
fn namespaces_are_taken_away_once() {
    let pid = |kind: &str| {
        with_linux(|l| {
            l.namespaces = vec![LinuxNamespace { r#type: kind.into(), path: String::new() }];
        })
    };
    let error = conflict(vec![pid("-pid"), pid("pid")]);
    assert!(error.contains("Namespace pid"), "{error}");
}

#[test]
fn resource_control_is_cleared_and_set() {
    let rdt = |clos: Option<&str>, remove: bool| {
        with_linux(|l| {
            let clos_id = clos.map(|value| OptionalString { value: value.into() });
            l.rdt = Some(LinuxRdt { clos_id, remove, ..LinuxRdt::default() });
        })
    };
    let of = |creation: &Creation| {
        creation.adjust.linux.as_ref().and_then(|linux| linux.rdt.clone()).unwrap()
    };
    let cleared = merge(vec![rdt(Some("a"), false), rdt(None, true)]).unwrap();
    assert_eq!(of(&cleared), LinuxRdt { remove: true, ..LinuxRdt::default() });
    let replaced = merge(vec![rdt(Some("a"), false), rdt(Some("b"), true)]).unwrap();
    assert_eq!(of(&replaced).clos_id, Some(OptionalString { value: "b".into() }));
    assert!(merge(vec![rdt(Some("a"), false), rdt(Some("b"), false)]).is_err());
    assert_eq!(merge(vec![with_linux(|_| {})]).unwrap().adjust.linux.unwrap().rdt, None);
}

#[test]
fn updates_of_several_plugins_are_made_one() {
    let quota = || {
        let cpu = LinuxCpu { cpus: "0".into(), ..LinuxCpu::default() };
        LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }
    };
    let mut updates = Updates::default();
    updates.add("00-a", vec![update("x", shares(5)), update("y", shares(6))], vec![]).unwrap();
    updates.add("01-b", vec![update("x", quota())], vec![]).unwrap();
    let ids: Vec<_> = updates.list.iter().map(|update| update.container_id.as_str()).collect();
    assert_eq!(ids, ["x", "y"]);
    let cpu = updates.take("x").unwrap().cpu.unwrap();
    assert_eq!((cpu.shares, cpu.cpus.as_str()), (Some(OptionalUInt64 { value: 5 }), "0"));
    assert_eq!(updates.list.len(), 1);
    assert_eq!(updates.take("x"), None);

    let error = updates.add("01-b", vec![update("y", shares(7))], vec![]).unwrap_err();
    assert_eq!(error.to_string(), "plugins \"01-b\" and \"00-a\" both tried to set CPUShares");
}

#[test]
fn an_update_that_may_fail_leaves_no_half_of_itself() {
    let mut updates = Updates::default();
    updates.add("00-a", vec![update("x", shares(5))], vec![]).unwrap();
    let mut both = shares(7);
    both.pids = Some(super::super::proto::LinuxPids { limit: 9 });
    let may_fail = ContainerUpdate { ignore_failure: true, ..update("x", both.clone()) };
    updates.add("01-b", vec![may_fail], vec![]).unwrap();
    assert_eq!(updates.list, [update("x", shares(5))]);
    // Fields that the failed request would have claimed are free.
    both.cpu = None;
    updates.add("02-c", vec![update("x", both)], vec![]).unwrap();
}

#[test]
fn the_new_container_is_not_updated() {
    let mut creation = creation();
    let error = creation.add("00-a", None, vec![update(ID, shares(5))], vec![]).unwrap_err();
    assert_eq!(error, MergeError::UpdateOfNew { plugin: "00-a".into() });
    creation.add("00-a", None, vec![update("other", shares(5))], vec![]).unwrap();
    assert_eq!(creation.others.list.len(), 1);
}
