//! Output: tables, objects, descriptions, events, usage.

use podbay::proto::podbay::v1::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::agent::{Agent, PATIENCE, pod};

async fn with_pods() -> Agent {
    let agent = Agent::start().await;
    agent.state(|state| {
        state.pods = vec![
            pod("default", "db", Phase::Pending, false),
            pod("default", "web", Phase::Running, true),
            pod("other", "web", Phase::Running, true),
        ];
    });
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_pods_over_all_pages() {
    let agent = with_pods().await;
    let table = agent.run(&["get", "pods"]).await.good();
    assert_eq!(
        table,
        "NAME   READY   STATUS              RESTARTS   AGE\n\
         db     0/1     ContainerCreating   0          3h\n\
         web    1/1     Running             0          3h\n"
    );
    let all = agent.run(&["get", "po", "-A", "-o", "wide", "--show-labels"]).await.good();
    insta::assert_snapshot!(all);
    let one = agent.run(&["get", "pod/web", "-n", "other", "--no-headers"]).await.good();
    assert_eq!(one, "web   1/1   Running   0     3h\n");
    let selected = agent
        .run(&[
            "get",
            "pods",
            "-l",
            "app in (a,b)",
            "--field-selector",
            "status.phase=Failed",
            "-n",
            "empty",
        ])
        .await;
    assert_eq!(selected.err, "No resources found in empty namespace.\n");
    let asked = agent.asked();
    assert!(asked.contains("labels: \"app in (a,b)\", fields: \"status.phase=Failed\""), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_every_format() {
    let agent = with_pods().await;
    let run = async |args: &[&str]| agent.run(args).await.good();
    assert_eq!(run(&["get", "pods", "-o", "name"]).await, "pod/db\npod/web\n");
    let names =
        run(&["get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}"]).await;
    assert_eq!(names, "db\nweb\n");
    assert_eq!(run(&["get", "pod", "web", "-o", "jsonpath={.status.phase}"]).await, "Running");
    let columns =
        run(&["get", "pods", "-o", "custom-columns=N:.metadata.name,P:.status.phase"]).await;
    assert_eq!(columns, "N     P\ndb    Pending\nweb   Running\n");
    let json: serde_json::Value =
        serde_json::from_str(&run(&["get", "pods", "-o", "json"]).await).expect("json");
    assert_eq!((&json["kind"], json["items"].as_array().map(Vec::len)), (&"List".into(), Some(2)));
    let json: serde_json::Value =
        serde_json::from_str(&run(&["get", "pod", "web", "-o", "json"]).await).expect("json");
    assert_eq!(json["kind"], "Pod");
    let yaml = run(&["get", "pod", "web", "-o", "yaml"]).await;
    assert!(yaml.starts_with("apiVersion: v1\nkind: Pod\n"), "{yaml}");
    let node = run(&["get", "node", "-o", "wide"]).await;
    assert!(
        node.starts_with("NAME   STATUS   ROLES    AGE") && node.contains("containerd://2.4.2"),
        "{node}"
    );
    assert_eq!(run(&["node", "-o", "name"]).await, "node/host\n");
    assert!(run(&["describe", "node"]).await.contains("Kernel Version:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_makes_no_sense() {
    let agent = with_pods().await;
    let done = agent.run(&["get", "pod", "gone", "web"]).await;
    assert!(done.out.contains("web    1/1"), "the other one is shown: {done:?}");
    assert_eq!(done.bad(3), "error: pod default/gone is not found\n");
    assert_eq!(agent.run(&["get", "pod", "gone", "--ignore-not-found"]).await.good(), "");
    for args in [
        &["get", "deployments"][..],
        &["get", "pods", "-o", "xml"],
        &["get", "pods", "-o", "jsonpath={.a"],
        &["get", "pod", "web", "-A"],
        &["get", "pod", "web", "-l", "a=b"],
        &["get", "pod", "a", "b", "-w"],
        &["get"],
        &["describe", "events"],
        &["frobnicate"],
        &["explain", "pods"],
    ] {
        assert!(agent.run(args).await.bad(2).starts_with("error: "), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_from_the_list() {
    let agent = with_pods().await;
    agent.state(|state| state.watch_on = true);
    let mut child = agent.command(&["get", "pods", "-w"]).spawn().expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time");
        line.expect("read").expect("a line")
    };
    let start = [next().await, next().await, next().await];
    assert!(start[0].starts_with("NAME") && start[2].starts_with("web "), "{start:?}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !agent.asked().starts_with("Watch") {
        assert!(tokio::time::Instant::now() < deadline, "no watch: {}", agent.asked());
        tokio::task::yield_now().await;
    }
    assert!(agent.asked().contains("after: Some(Revision { epoch: \"e\", number: 7 })"));
    agent.fake.tell(WatchEventType::Modified, pod("default", "db", Phase::Running, true));
    assert_eq!(next().await, "db     1/1     Running             0          3h");
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_and_events() {
    let agent = with_pods().await;
    let at = |ago: i64| {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        Some(prost_types::Timestamp { seconds: now - ago, nanos: 0 })
    };
    agent.state(|state| {
        state.events = vec![Event {
            number: 31,
            namespace: "default".to_owned(),
            name: "web".to_owned(),
            r#type: EventType::Warning.into(),
            reason: "BackOff".to_owned(),
            message: "back-off\u{1b}[2J".to_owned(),
            first: at(4 * 3600 + 5),
            last: at(3 * 3600 + 5),
            count: 5,
            ..Event::default()
        }];
    });
    let events = agent.run(&["events", "web"]).await.good();
    assert_eq!(agent.run(&["events", "--for", "pod/web"]).await.good(), events);
    assert_eq!(
        events,
        "LAST SEEN            TYPE      REASON    OBJECT    MESSAGE\n\
         3h (x5 over 4h)      Warning   BackOff   pod/web   back-off^[[2J\n"
            .replace("            TYPE", "         TYPE")
            .replace("4h)      ", "4h)   ")
    );
    let json = agent.run(&["events", "-o", "jsonpath={.items[*].metadata.name}"]).await.good();
    assert_eq!(json, "web.1f");
    let watched = agent.run(&["get", "events", "-w", "-o", "name"]).await.good();
    assert_eq!(watched, "event/web.1f\n");
    assert!(agent.asked().contains("follow: true"));
    let page = agent.run(&["describe", "pod", "web"]).await.good();
    assert!(page.starts_with("Name:") && page.contains("3h (x5 over 4h)"), "{page}");
    assert!(agent.asked().contains("fields: \"involvedObject.uid=uid-web\""), "{}", agent.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn use_of_pods_and_node() {
    let agent = with_pods().await;
    let usage = |cpu, memory| {
        Some(Usage {
            cpu_nano_cores: Some(cpu),
            memory_working_set_bytes: memory,
            memory_available_bytes: Some(1 << 30),
            ..Usage::default()
        })
    };
    let one = |name: &str, cpu| PodStats {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        usage: usage(cpu, 3 << 20),
        containers: vec![ContainerStats { name: "app".to_owned(), ..ContainerStats::default() }],
        ..PodStats::default()
    };
    agent.state(|state| {
        state.stats = StatsResponse {
            pods: vec![one("a", 1), one("b", 250_000_000)],
            node: Some(NodeStats { name: "host".to_owned(), usage: usage(1_500_000_000, 1 << 30) }),
        };
    });
    let pods = agent.run(&["top", "pods", "--sort-by", "cpu"]).await.good();
    assert_eq!(
        pods,
        "NAME   CPU(cores)   MEMORY(bytes)\nb      250m         3Mi\na      1m           3Mi\n"
    );
    let containers = agent.run(&["top", "pod", "--containers", "--no-headers"]).await.good();
    assert_eq!(
        containers,
        "a     app   <unknown>   <unknown>\nb     app   <unknown>   <unknown>\n"
    );
    let json = agent.run(&["top", "pod", "-o", "jsonpath={.items[*].usage.cpu}"]).await.good();
    assert_eq!(json, "1n 250000000n");
    let node = agent.run(&["top", "node"]).await.good();
    assert_eq!(
        node,
        "NAME   CPU(cores)   CPU(%)   MEMORY(bytes)   MEMORY(%)\n\
         host   1500m        37%      1024Mi          25%\n"
    );
    let asked = agent.state(|state| state.asked.join("\n"));
    assert!(
        asked.contains("Stats StatsRequest { selector: Some(Selector { namespace: \"default\"")
    );
    let all = agent.run(&["top", "nodes", "host", "--show-capacity", "--no-headers"]).await.good();
    assert_eq!(all, "host   1500m   18%   1024Mi   <unknown>\n");
    agent.run(&["top", "node", "other"]).await.bad(3);
    let sum = agent.run(&["top", "pod", "--sum", "--sort-by=cpu"]).await.good();
    assert!(sum.ends_with("       ________     ________\n       251m         6Mi\n"), "{sum}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_waits_for_and_a_restart() {
    let agent = with_pods().await;
    agent.state(|state| {
        state.waits = vec![Wait {
            step: "pull the image".to_owned(),
            last_error: "no route".to_owned(),
            ..Wait::default()
        }];
    });
    let told = agent.run(&["explain", "pod", "db"]).await.good();
    assert_eq!(
        told,
        "pod default/db is ContainerCreating\n  the pod: pull the image\n    last error: no route\n"
    );
    assert_eq!(agent.run(&["explain", "db"]).await.good(), told);
    let json = agent.run(&["explain", "pod/db", "-o", "jsonpath={.waits[0].step}"]).await.good();
    assert_eq!(json, "pull the image");
    assert_eq!(agent.run(&["restart", "web"]).await.good(), "container app of pod/web restarts\n");
    assert!(agent.asked().contains("container: \"app\""));
    agent.run(&["restart", "gone"]).await.bad(3);
    let mut web = pod("default", "web", Phase::Running, true);
    let mut object: serde_json::Value = serde_json::from_str(&web.object).expect("an object");
    object["spec"]["initContainers"] = serde_json::json!([{"name": "setup"}]);
    object["status"]["initContainerStatuses"] =
        serde_json::json!([{"name": "setup", "state": {"terminated": {"exitCode": 0}}}]);
    web.object = object.to_string();
    agent.state(|state| state.pods = vec![web]);
    let told = agent.run(&["restart", "web", "-c", "setup"]).await.bad(1);
    assert!(told.contains("init container setup has ended"), "{told}");
    assert!(agent.asked().starts_with("Get "), "{}", agent.asked());
}
