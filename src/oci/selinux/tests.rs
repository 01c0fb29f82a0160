use super::super::fixture::Fixture;
use super::*;

fn labelled() -> Fixture {
    let mut f = Fixture::new();
    f.settings.selinux = true;
    f.facts.selinux = Some(SelinuxContexts {
        process: "system_u:system_r:container_t:s0".to_owned(),
        file: "system_u:object_r:container_file_t:s0".to_owned(),
    });
    f
}

fn of(f: &Fixture, level: Option<&str>) -> Option<(String, String)> {
    container_labels(&f.pod, &f.config, level, &f.facts, &f.settings)
        .unwrap()
        .map(|labels| (labels.process, labels.files))
}

fn options(user: &str, role: &str, kind: &str, level: &str) -> SelinuxOptions {
    SelinuxOptions {
        user: user.to_owned(),
        role: role.to_owned(),
        kind: kind.to_owned(),
        level: level.to_owned(),
    }
}

#[test]
fn labels_need_the_setting_the_host_and_no_privilege() {
    assert!(of(&labelled(), None).is_some());
    let mut f = labelled();
    f.settings.selinux = false;
    assert_eq!(of(&f, None), None);
    let mut f = labelled();
    f.facts.selinux = None;
    assert_eq!(of(&f, None), None);
    assert_eq!(of(&labelled().privileged(), None), None);
}

#[test]
fn parts_come_from_container_pod_and_policy() {
    let pair = |process: &str, files: &str| Some((process.to_owned(), files.to_owned()));
    let mut f = labelled();
    assert_eq!(
        of(&f, Some("s0:c1,c2")),
        pair(
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0:c1,c2"
        )
    );
    f.pod.security.selinux = Some(options("u", "r", "t", ""));
    assert_eq!(
        of(&f, Some("s0:c1,c2")),
        pair("u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2")
    );
    f.config.security.selinux = Some(options("", "", "spc_t", "s0:c9"));
    assert_eq!(
        of(&f, Some("s0:c1,c2")),
        pair("system_u:system_r:spc_t:s0:c9", "system_u:object_r:container_file_t:s0:c9")
    );
}

#[test]
fn no_part_reaches_into_another() {
    for (bad, field) in [
        (options("a:b", "", "", ""), "user"),
        (options("", "r r", "", ""), "role"),
        (options("", "", "t\n", ""), "type"),
        (options("", "", "", "s0\""), "level"),
    ] {
        let mut f = labelled();
        f.config.security.selinux = Some(bad);
        let refused = container_labels(&f.pod, &f.config, None, &f.facts, &f.settings);
        let end = format!("selinux_options.{field}");
        assert!(
            matches!(&refused, Err(Error::Invalid { field, .. }) if field.ends_with(&end)),
            "{refused:?}"
        );
    }
}

#[test]
fn the_hosts_own_folders_keep_their_labels() {
    for path in ["/", "/etc", "/usr", "/var/lib"] {
        assert!(check_relabel(path, || "field".to_owned()).is_err(), "{path}");
    }
    assert!(check_relabel("/srv/data", || unreachable!()).is_ok());
}

#[test]
fn a_spec_has_its_labels() {
    use super::super::{container_spec, pause_spec, spec_json};
    let f = labelled();
    let spec = spec_json(&container_spec(&f.input()).unwrap());
    assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
    assert_eq!(spec["linux"]["mountLabel"], "system_u:object_r:container_file_t:s0:c1,c2");
    let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
    assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
    let spec = spec_json(&container_spec(&labelled().privileged().input()).unwrap());
    assert!(spec["process"].get("selinuxLabel").is_none());
}
