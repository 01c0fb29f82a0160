use serde_json::json;

use super::*;

fn list(extra: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"net","plugins":[
            {{"type":"bridge","bridge":"b0","runtimeConfig":{{"old":1}}}},
            {{"type":"portmap","capabilities":{{"portMappings":true,"dns":false}}}}]{extra}}}"#
    )
}

#[test]
fn a_plugin_gets_the_name_the_version_and_only_declared_capabilities() {
    let network = Network::from_list(list("").as_bytes()).unwrap();
    let runtime = json!({"portMappings": [{"hostPort": 80}], "dns": {"servers": []}, "other": 1});
    let runtime = runtime.as_object().unwrap();
    let request = |index: usize, previous: Option<&Value>| -> Value {
        let plugin: &Plugin = &network.plugins[index];
        serde_json::from_slice(&plugin.request(&network, runtime, previous)).unwrap()
    };
    assert_eq!(
        request(0, None),
        json!({
            "type": "bridge", "bridge": "b0", "runtimeConfig": {"old": 1},
            "name": "net", "cniVersion": "1.0.0",
        })
    );
    let previous = json!({"ips": []});
    assert_eq!(
        request(1, Some(&previous)),
        json!({
            "type": "portmap", "name": "net", "cniVersion": "1.0.0", "prevResult": {"ips": []},
            "runtimeConfig": {"portMappings": [{"hostPort": 80}]},
        })
    );
}

#[test]
fn the_highest_common_version_is_spoken() {
    let of = |extra: &str| Network::from_list(list(extra).as_bytes()).map(|n| n.version);
    assert_eq!(of("").unwrap(), Version(1, 0, 0));
    assert_eq!(of(r#","cniVersions":["0.4.0","1.1.0","9.0.0"]"#).unwrap(), Version(1, 1, 0));
    for known in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        assert_eq!(Version::parse(known).unwrap().to_string(), known);
    }
    for unknown in ["", "1", "1.0", "2.0.0", "1.0.0-rc1", "01.0.0"] {
        assert_eq!(Version::parse(unknown), None, "{unknown}");
    }
}

#[test]
fn a_single_plugin_is_a_list_of_one() {
    let raw = br#"{"cniVersion":"0.3.1","name":"one","type":"ptp","ipam":{"type":"x"}}"#;
    let network = Network::from_single(raw).unwrap();
    assert_eq!((network.name.as_str(), network.plugins.len()), ("one", 1));
    let again = Network::from_list(&network.raw).unwrap();
    assert_eq!(again.plugins, network.plugins);
    assert_eq!(again.version, Version(0, 3, 1));
}

#[test]
fn a_fault_names_its_field() {
    for (raw, part) in [
        (r#"{"cniVersion":"1.0.0","name":"a","plugins":[]}"#, "plugins"),
        (r#"{"cniVersion":"1.0.0","name":"a","plugins":[7]}"#, "plugins[0]"),
        (r#"{"cniVersion":"1.0.0","plugins":[{"type":"x"}]}"#, "name"),
        (r#"{"cniVersion":"1.0.0","name":"../a","plugins":[{"type":"x"}]}"#, "name"),
        (r#"{"cniVersion":"1.0.0","name":"a","plugins":[{}]}"#, "plugins[0].type"),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"../../bin/sh"}]}"#,
            "plugins[0].type",
        ),
        (r#"{"cniVersion":"7.0.0","name":"a","plugins":[{"type":"x"}]}"#, "cniVersion"),
        (r#"{"name":"a","plugins":[{"type":"x"}]}"#, "cniVersion"),
        (
            r#"{"cniVersion":"1.0.0","name":"a","plugins":[{"type":"x","capabilities":[]}]}"#,
            "plugins[0].capabilities",
        ),
    ] {
        let fault = Network::from_list(raw.as_bytes()).unwrap_err().to_string();
        assert!(fault.starts_with(&format!("{part}: ")), "{raw}: {fault}");
    }
    assert!(matches!(Network::from_list(b"[]"), Err(Fault::Json(_))));
}

#[test]
fn a_broken_file_does_not_hide_the_others_and_ours_comes_last() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    let named = |name: &str| list("").replace("\"net\"", &format!("\"{name}\""));
    let names = |max| {
        let loaded = load(dir.path(), &fingerprint(dir.path()), "10-own.conflist", max);
        let names: Vec<String> = loaded.networks.iter().map(|n| n.name.clone()).collect();
        (names, loaded.faults)
    };
    assert_eq!(names(1), (vec![], vec![]));
    write("10-own.conflist", &named("own"));
    assert_eq!(names(1).0, ["own"]);
    write("05-broken.conflist", "{");
    write("20-b.conflist", &named("b"));
    write("30-c.conf", r#"{"cniVersion":"0.3.1","name":"c","type":"ptp"}"#);
    write("40-b.conflist", &named("b"));
    write("notes.txt", "not a configuration");
    let (found, faults) = names(1);
    assert_eq!(found, ["b"]);
    assert!(faults[0].contains("05-broken.conflist"), "{faults:?}");
    let (found, faults) = names(0);
    assert_eq!(found, ["b", "c"]);
    assert!(faults[1].contains("used twice"), "{faults:?}");
}

#[test]
fn the_fingerprint_sees_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.conf");
    let empty = fingerprint(dir.path());
    fs::write(&path, "1").unwrap();
    let first = fingerprint(dir.path());
    assert_ne!(empty, first);
    assert_eq!(first, fingerprint(dir.path()));
    fs::write(&path, "12").unwrap();
    assert_ne!(first, fingerprint(dir.path()));
    assert!(fingerprint(Path::new("/no/such/folder")).is_empty());
}

#[test]
fn a_list_includes_the_plugins_of_its_folder_unless_it_asks_for_its_own_only() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let kinds = || {
        let loaded = load(dir.path(), &fingerprint(dir.path()), "own.conflist", 0);
        let network = loaded.networks.into_iter().next();
        let kinds = network.map(|network| {
            let again = Network::from_list(&network.raw).unwrap();
            assert_eq!(again.plugins, network.plugins, "DEL has the same plugins");
            network.plugins.into_iter().map(|plugin| plugin.kind).collect::<Vec<_>>()
        });
        (kinds.unwrap_or_default(), loaded.faults)
    };
    write("10-net.conflist", &list(""));
    let before = fingerprint(dir.path());
    write("net/20-b.conf", r#"{"type":"tuning"}"#);
    write("net/10-a.conf", r#"{"type":"firewall"}"#);
    write("net/notes.txt", "no plugin");
    write("other/10-a.conf", r#"{"type":"sbr"}"#);
    assert_ne!(before, fingerprint(dir.path()));
    assert_eq!(
        kinds(),
        (["bridge", "portmap", "firewall", "tuning"].map(str::to_owned).to_vec(), vec![])
    );
    write("10-net.conflist", r#"{"cniVersion":"1.1.0","name":"net"}"#);
    assert_eq!(kinds().0, ["firewall", "tuning"]);
    write("net/30-c.conf", "{");
    assert!(kinds().1[0].contains("10-net.conflist"), "{:?}", kinds().1);
    write("10-net.conflist", &list(r#","loadOnlyInlinedPlugins":true"#));
    assert_eq!(kinds().0, ["bridge", "portmap"]);
    write("10-net.conflist", &list(r#","loadOnlyInlinedPlugins":1"#));
    assert!(kinds().1[0].contains("loadOnlyInlinedPlugins: "), "{:?}", kinds().1);
}
