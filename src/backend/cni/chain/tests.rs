//! ADD and DEL of chains, against plugins that are scripts.

use super::*;
use crate::backend::cni::testing::Plugins;

const LIMIT: Duration = Duration::from_secs(20);

fn network(version: &str) -> Network {
    let list = format!(
        r#"{{"cniVersion":"{version}","name":"n","plugins":[{{"type":"one"}},{{"type":"two"}}]}}"#
    );
    Network::from_list(list.as_bytes()).unwrap()
}

/// Plugins that record their inputs and return their own name.
fn recording() -> (Plugins, Runner) {
    let plugins = Plugins::new();
    for kind in ["one", "two"] {
        let script = format!(
            "echo \"$CNI_COMMAND {kind} $(cat)\" >> {}/log; echo '{{\"by\":\"{kind}\"}}'",
            plugins.dir().display()
        );
        plugins.add(kind, &script);
    }
    let runner = Runner::new(vec![plugins.dir().to_owned()]);
    (plugins, runner)
}

fn link<'a>(network: &'a Network, nothing: &'a Map<String, Value>) -> Link<'a> {
    Link { network, container: "c", netns: None, if_name: "eth0", args: &[], capabilities: nothing }
}

fn log(plugins: &Plugins) -> String {
    std::fs::read_to_string(plugins.dir().join("log")).unwrap()
}

#[test]
fn results_are_chained_and_del_goes_backwards() {
    let (plugins, runner) = recording();
    let (network, nothing) = (network("0.4.0"), Map::new());
    let link = link(&network, &nothing);
    let result = link.add(&runner, LIMIT).unwrap();
    assert_eq!(result, serde_json::json!({"by": "two", "cniVersion": "0.4.0"}));
    assert!(link.del(&runner, LIMIT, Some(&result)).is_empty());
    let log = log(&plugins);
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("ADD one") && !lines[0].contains("prevResult"));
    assert!(lines[1].starts_with("ADD two") && lines[1].contains(r#""by":"one""#));
    assert!(lines[2].starts_with("DEL two") && lines[2].contains(r#""by":"two""#));
    assert!(lines[3].starts_with("DEL one") && lines[3].contains(r#""by":"two""#));
}

#[test]
fn portmap_is_run_for_pods_that_publish_ports() {
    let (plugins, runner) = recording();
    plugins.add("portmap", &format!("echo $CNI_COMMAND >> {}/log", plugins.dir().display()));
    let list = br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"one"},
        {"type":"portmap","capabilities":{"portMappings":true}}]}"#;
    let network = Network::from_list(list).unwrap();
    let calls = |ports: Value| {
        let told = Map::from_iter([("portMappings".to_owned(), ports)]);
        let link = link(&network, &told);
        let result = link.add(&runner, LIMIT).ok();
        assert!(link.del(&runner, LIMIT, result.as_ref()).is_empty());
        let calls = log(&plugins).lines().filter(|line| !line.contains(" one ")).count();
        std::fs::remove_file(plugins.dir().join("log")).unwrap();
        (calls, result.is_some_and(|result| result["by"] == "one"))
    };
    assert_eq!(calls(serde_json::json!([])), (0, true), "the result of the one before it");
    assert_eq!(calls(serde_json::json!([{"hostPort": 80}])).0, 2);
}

#[test]
fn old_versions_are_not_told_the_result_at_del() {
    let (plugins, runner) = recording();
    let (network, nothing) = (network("0.3.1"), Map::new());
    let link = link(&network, &nothing);
    let result = link.add(&runner, LIMIT).unwrap();
    assert!(link.del(&runner, LIMIT, Some(&result)).is_empty());
    assert_eq!(log(&plugins).matches("prevResult").count(), 1, "ADD of the second only");
}

#[test]
fn a_failed_del_does_not_stop_the_others() {
    let (plugins, runner) = recording();
    plugins.add("two", r#"echo '{"code":7,"msg":"broken"}'; exit 1"#);
    let (network, nothing) = (network("1.0.0"), Map::new());
    let failures = link(&network, &nothing).del(&runner, LIMIT, None);
    assert_eq!(failures.len(), 1);
    assert!(log(&plugins).starts_with("DEL one"));
}

#[test]
fn gone_counts_as_done() {
    let (plugins, runner) = recording();
    let (network, nothing) = (network("1.0.0"), Map::new());
    let mut link = link(&network, &nothing);
    plugins.add("two", r#"echo '{"code":1,"msg":"Link not found"}'; exit 1"#);
    plugins.add("one", r#"echo '{"code":1,"msg":"x: no such file or directory"}'; exit 1"#);
    assert!(link.del(&runner, LIMIT, None).is_empty());
    link.netns = Some(Path::new("/n"));
    assert_eq!(link.del(&runner, LIMIT, None).len(), 1, "the namespace is there");
    std::fs::remove_file(plugins.dir().join("one")).unwrap();
    assert!(link.del(&runner, LIMIT, None).is_empty(), "never added");
    assert_eq!(link.del(&runner, LIMIT, Some(&Value::Null)).len(), 1, "added before");
}

#[test]
fn the_budget_of_add_is_shared() {
    let (plugins, runner) = recording();
    plugins.add("one", "sleep 0.3; echo '{}'");
    plugins.add("two", "sleep 100");
    let (network, nothing) = (network("1.0.0"), Map::new());
    let limit = Duration::from_secs(3);
    let failure = link(&network, &nothing).add(&runner, limit).unwrap_err();
    let Failure::TimedOut { kind, after, .. } = failure else { panic!("{failure}") };
    assert_eq!(kind, "two");
    assert!(after <= Duration::from_millis(2700), "{after:?} is more than was left");
}

#[test]
fn status_is_asked_of_versions_that_know_it() {
    let plugins = Plugins::new();
    let runner = Runner::new(vec![plugins.dir().to_owned()]);
    plugins.add("one", r#"echo '{"code":4,"msg":"unknown command"}'; exit 1"#);
    plugins.add("two", r#"echo '{"code":50,"msg":"no daemon"}'; exit 1"#);
    status(&network("1.0.0"), &runner, LIMIT).unwrap();
    let failure = status(&network("1.1.0"), &runner, LIMIT).unwrap_err();
    assert!(failure.to_string().contains("no daemon"), "{failure}");
}
