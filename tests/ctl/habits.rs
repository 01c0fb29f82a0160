//! kubectl's spellings of options.

use podbay::proto::podbay::v1::*;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::agent::{Agent, PATIENCE, pod};

const MANIFEST: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n";

/// The pod `web`, its object changed.
fn web(change: impl FnOnce(&mut Value)) -> Pod {
    let mut web = pod("default", "web", Phase::Running, true);
    let mut object: Value = serde_json::from_str(&web.object).expect("an object");
    change(&mut object);
    web.object = object.to_string();
    web
}

async fn with(pods: Vec<Pod>) -> Agent {
    let agent = Agent::start().await;
    agent.state(|state| state.pods = pods);
    std::fs::write(agent.dir.path().join("web.yaml"), MANIFEST).expect("manifest");
    agent
}

fn asked(agent: &Agent, call: &str) -> Vec<String> {
    agent.state(|state| state.asked.iter().filter(|it| it.starts_with(call)).cloned().collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn get_takes_several_kinds_and_orders_and_picks() {
    let db = pod("default", "db", Phase::Running, true);
    let agent =
        with(vec![db, web(|it| it["metadata"]["labels"]["x.io/tier"] = "front".into())]).await;
    let run = async |args: &[&str]| agent.run(args).await.good();
    let both = run(&["get", "po,no"]).await;
    assert!(both.contains("pod/db ") && both.contains("\n\nNAME"), "{both}");
    assert!(both.contains("node/host   Ready    <none>"), "{both}");
    let mixed = run(&["get", "pod/web", "node/host", "-o", "name"]).await;
    assert_eq!(mixed, "pod/web\nnode/host\n");
    let all = run(&["get", "all", "-o", "name", "--chunk-size=500"]).await;
    assert_eq!(all, "pod/db\npod/web\n");
    assert_eq!(run(&["get", "-f", "web.yaml", "-o", "name"]).await, "pod/web\n");
    let sorted = ["get", "pods", "--sort-by=.metadata.labels.app", "-o", "name"];
    assert_eq!(run(&sorted).await, "pod/db\npod/web\n");
    let columns = run(&["get", "pods", "-L", "x.io/tier", "--no-headers"]).await;
    assert!(columns.ends_with("3h    front\n"), "{columns}");
    let names = ["get", "pods", "-o", "custom-columns=:metadata.name", "--no-headers"];
    assert_eq!(run(&names).await, "db\nweb\n");
    let label = ["get", "pod", "web", "-o", "jsonpath={.metadata.labels['x\\.io/tier']}"];
    assert_eq!(run(&label).await, "front");
    let nodes: Value =
        serde_json::from_str(&run(&["get", "nodes", "-o", "json"]).await).expect("json");
    assert_eq!((&nodes["kind"], &nodes["items"][0]["kind"]), (&json!("List"), &json!("Node")));
    assert_eq!(
        agent.run(&["get", "node", "other"]).await.bad(3),
        "error: node other is not found\n"
    );
    let unknown = agent.run(&["get", "deployments"]).await.bad(2);
    let said = "error: the server doesn't have a resource type \"deployments\"";
    assert!(unknown.starts_with(said), "{unknown}");
    for args in [
        &["get", "nodes", "-w"][..],
        &["get", "nodes", "-l", "a=b"],
        &["get", "pods", "--sort-by=.nothing"],
        &["get", "po,no", "-w"],
    ] {
        agent.run(args).await.bad(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_chosen_and_ordered() {
    let agent = with(vec![web(|_| {})]).await;
    let event = |number, kind: EventType, reason: &str, last| Event {
        number,
        namespace: "default".to_owned(),
        name: "web".to_owned(),
        r#type: kind.into(),
        reason: reason.to_owned(),
        last: Some(prost_types::Timestamp { seconds: last, nanos: 0 }),
        ..Event::default()
    };
    agent.state(|state| {
        state.events = vec![
            event(1, EventType::Normal, "Started", 200),
            event(2, EventType::Warning, "BackOff", 100),
        ];
    });
    let reasons = async |args: &[&str]| {
        let format = ["-o", "jsonpath={.items[*].reason}"];
        agent.run(&[args, &format].concat()).await.good()
    };
    assert_eq!(reasons(&["events", "--types=Warning"]).await, "BackOff");
    assert_eq!(reasons(&["get", "events", "--sort-by=.lastTimestamp"]).await, "BackOff Started");
    let fields = "--field-selector=involvedObject.name=web,type!=Normal,metadata.name=web";
    assert_eq!(reasons(&["get", "ev", fields]).await, "BackOff");
    assert!(agent.asked().contains("fields: \"metadata.name=web\""), "{}", agent.asked());
    let bare = agent.run(&["events", "--no-headers", "--types", "Normal"]).await.good();
    assert!(bare.contains("Started") && !bare.contains("REASON"), "{bare}");
    agent.run(&["events", "--types=Odd"]).await.bad(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_ends_with_the_condition() {
    let ready = |status: &'static str| {
        web(|it| it["status"]["conditions"] = json!([{"type": "Ready", "status": status}]))
    };
    let agent = with(vec![ready("True")]).await;
    let met = "pod/web condition met\n";
    for args in [
        &["wait", "--for=condition=Ready", "pod/web"][..],
        &["wait", "--for=condition=ready", "pods", "--all"],
        &["wait", "--for=jsonpath={.status.phase}=Running", "pod", "web"],
        &["wait", "--for", "phase=Running", "-f", "web.yaml"],
    ] {
        assert_eq!(agent.run(args).await.good(), met, "{args:?}");
    }
    agent.state(|state| (state.pods, state.watch_on) = (vec![ready("False")], true));
    let late = ["wait", "--for=condition=Ready", "pod/web", "--timeout=1s"];
    let told = agent.run(&late).await.bad(5);
    assert_eq!(told, "error: timed out waiting for the condition on pods/web\n");
    assert_eq!(agent.run(&["wait", "--for=condition=Ready=False", "pod/web"]).await.good(), met);
    agent.run(&["wait", "--for=condition=Ready", "pod/gone"]).await.bad(3);
    assert_eq!(agent.run(&["wait", "--for=delete", "pod/gone"]).await.good(), "");
    agent.state(|state| state.asked.clear());
    let waiting = agent.command(&["wait", "--for=delete", "pod/web"]).spawn().expect("spawn");
    agent.until_watched().await;
    agent.fake.tell(WatchEventType::Deleted, ready("False"));
    let done = tokio::time::timeout(PATIENCE, waiting.wait_with_output()).await.expect("in time");
    assert_eq!(String::from_utf8_lossy(&done.expect("wait").stdout), met);
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_with_force_deletes_and_creates() {
    let agent = with(vec![web(|_| {})]).await;
    agent.state(|state| state.watch_on = true);
    let args = ["replace", "--force", "--grace-period=3", "-f", "web.yaml"];
    let replacing = agent.command(&args).spawn().expect("spawn");
    agent.until_watched().await;
    agent.fake.tell(WatchEventType::Deleted, web(|_| {}));
    let done = tokio::time::timeout(PATIENCE, replacing.wait_with_output()).await.expect("in time");
    let done = done.expect("wait");
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(out, "pod \"web\" deleted\npod/web replaced\n", "{done:?}");
    assert!(asked(&agent, "Delete")[0].contains("seconds: 3"), "{:?}", asked(&agent, "Delete"));
    let applied = asked(&agent, "Apply");
    assert!(
        applied[0].contains("(Replace, true") && applied[1].contains("(Apply, false"),
        "{applied:?}"
    );
    // A manifest made from an earlier pod is taken.
    let mut details = ErrorDetails::new();
    details.set_error_info("PRECONDITION_FAILED", "podbay.v1", std::collections::HashMap::new());
    let stale = Status::with_error_details(Code::FailedPrecondition, "stale", details);
    agent.state(|state| {
        state.asked.clear();
        state.refusals.insert("Apply as dry run", stale);
    });
    let replacing = agent.command(&args).spawn().expect("spawn");
    agent.until_watched().await;
    agent.fake.tell(WatchEventType::Deleted, web(|_| {}));
    let done = tokio::time::timeout(PATIENCE, replacing.wait_with_output()).await.expect("in time");
    assert!(done.expect("wait").status.success());
    // What the agent would not take deletes nothing.
    agent.state(|state| {
        state.asked.clear();
        state.refusals.insert("Apply", Status::invalid_argument("no"));
    });
    agent.run(&args).await.bad(1);
    assert_eq!(asked(&agent, "Delete"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn switches_of_kubectl_that_change_little() {
    let agent = with(vec![web(|_| {})]).await;
    let apply =
        async |more: &[&str]| agent.run(&[&["apply", "-f", "web.yaml"], more].concat()).await;
    assert_eq!(
        apply(&["--server-side", "--force-conflicts"]).await.good(),
        "pod/web serverside-applied\n"
    );
    for strict in
        [&["--validate"][..], &["--validate=true"], &["--validate=strict"], &["--overwrite=true"]]
    {
        apply(strict).await.good();
        assert!(agent.asked().contains("\"default\", false"), "{}", agent.asked());
    }
    agent.state(|state| state.warnings = vec!["odd".to_owned()]);
    let warned = apply(&["--validate=warn"]).await;
    assert_eq!((warned.code, warned.err.as_str()), (0, "warning: odd\n"));
    assert!(agent.asked().contains("\"default\", true"), "{}", agent.asked());
    apply(&["--validate=false"]).await.good();
    apply(&["--validate=maybe"]).await.bad(2);
    let kustomize = agent.run(&["apply", "-k", "."]).await.bad(2);
    assert!(kustomize.contains("kubectl kustomize . | podbay apply -f -"), "{kustomize}");
    let mut details = ErrorDetails::new();
    details.set_error_info("FIELD_IMMUTABLE", "podbay.v1", std::collections::HashMap::new());
    let status = Status::with_error_details(Code::FailedPrecondition, "no", details);
    agent.state(|state| state.refusals.insert("Apply", status));
    agent.state(|state| state.asked.clear());
    apply(&["--force"]).await.bad(1);
    let asked = asked(&agent, "Apply");
    assert!(asked[0].contains("(Apply,") && asked[1].contains("(Replace,"), "{asked:?}");
    assert!(asked[0].ends_with("false)") && asked[1].ends_with("true)"), "{asked:?}");
    let named =
        agent.run(&["delete", "pod/web", "-o", "name", "--cascade=foreground", "--wait=false"]);
    assert_eq!(named.await.good(), "pod/web\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_come_from_addresses_too() {
    let agent = with(vec![web(|_| {})]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = format!("http://{}/web.yaml", listener.local_addr().expect("address"));
    let mut server = tokio::task::JoinSet::new();
    server.spawn(async move {
        for answer in ["200 OK", "404 Not Found"] {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await.expect("read");
            let length = MANIFEST.len();
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: {length}\r\n\r\n{MANIFEST}");
            stream.write_all(answer.as_bytes()).await.expect("write");
        }
    });
    agent.run(&["apply", "-f", &address]).await.good();
    assert_eq!(agent.state(|state| state.manifests.pop()).as_deref(), Some(MANIFEST));
    let fault = agent.run(&["apply", "-f", &address]).await.bad(1);
    assert!(fault.contains("the server returned 404"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_several() {
    let two = |name: &str| {
        let mut pod = pod("default", name, Phase::Running, true);
        let mut object: Value = serde_json::from_str(&pod.object).expect("an object");
        object["spec"]["containers"] = json!([{"name": "app"}, {"name": "side"}]);
        pod.object = object.to_string();
        pod
    };
    let agent = with(vec![two("a"), two("b")]).await;
    agent.state(|state| state.log = b"one\ntwo\n".to_vec());
    let one = agent.run(&["logs", "a"]).await;
    assert_eq!(one.out, "one\ntwo\n");
    assert_eq!(one.err, "Defaulted container \"app\" out of: app, side\n");
    assert!(agent.asked().contains("tail_lines: None"), "{}", agent.asked());
    let all = agent.run(&["logs", "a", "--all-containers"]).await.good();
    assert_eq!(all, "one\ntwo\none\ntwo\n", "no prefix unless it is wanted");
    let prefixed = agent.run(&["logs", "a", "--all-containers", "--prefix"]).await.good();
    assert!(
        prefixed.starts_with("[pod/a/app] one\n[pod/a/app] two\n[pod/a/side] one\n"),
        "{prefixed}"
    );
    let chosen = agent.run(&["logs", "-l", "app", "-c", "side", "--prefix", "-f"]).await.good();
    assert_eq!(chosen.matches("[pod/a/side] one\n").count(), 1, "{chosen}");
    assert_eq!(chosen.matches("[pod/b/side] two\n").count(), 1, "{chosen}");
    assert!(agent.asked().contains("tail_lines: Some(10)"), "{}", agent.asked());
    let many = ["logs", "-l", "app", "-f", "--all-containers", "--max-log-requests=3"];
    let fault = agent.run(&many).await.bad(2);
    assert!(fault.contains("4 log streams, but maximum allowed concurrency is 3"), "{fault}");
    let short = agent.run(&["logs", "a", "-c", "app", "--limit-bytes=6"]).await.good();
    assert_eq!(short, "one\ntw");
    let mut details = ErrorDetails::new();
    details.set_error_info("CONTAINER_NOT_READY", "podbay.v1", std::collections::HashMap::new());
    let status = Status::with_error_details(Code::FailedPrecondition, "waiting", details);
    agent.state(|state| state.refusals.insert("Logs", status));
    let none = agent.run(&["logs", "a", "--all-containers"]).await.bad(1);
    assert_eq!(none, "error: waiting\n", "none of them has started");
    agent.state(|state| state.refusals.insert("Logs", Status::unavailable("no")));
    agent.run(&["logs", "-l", "app"]).await.bad(4);
    assert_eq!(agent.run(&["logs", "-l", "app", "--ignore-errors"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_makes_a_pod_and_stays_with_it() {
    let mut made = web(|it| {
        it["status"]["containerStatuses"] =
            json!([{"name": "web", "state": {"terminated": {"exitCode": 3}}}]);
    });
    made.containers.push(Container {
        name: "web".to_owned(),
        state: Some(ContainerState {
            state: Some(container_state::State::Running(ContainerRunning::default())),
        }),
        ..Container::default()
    });
    let agent = with(vec![made]).await;
    assert_eq!(agent.run(&["run", "web", "--image=nginx"]).await.good(), "pod/web created\n");
    let sent = agent.state(|state| state.manifests.pop()).expect("a manifest");
    let sent: Value = serde_json::from_str(&sent).expect("JSON");
    assert_eq!(sent["spec"]["containers"], json!([{"name": "web", "image": "nginx"}]));
    agent.state(|state| state.asked.clear());
    let dry = ["run", "web", "--image=nginx", "--dry-run=client", "-o", "yaml"];
    let yaml = agent.run(&dry).await.good();
    assert!(yaml.contains("kind: Pod\n") && yaml.contains("restartPolicy: Always"), "{yaml}");
    assert_eq!(agent.asked(), "", "nobody is asked");
    agent.run(&["run", "web", "--image=nginx", "--dry-run=server"]).await.good();
    assert!(asked(&agent, "Apply")[0].contains("(Create, true"));
    let args = ["run", "web", "--image=i", "--restart=Never", "-i", "--", "sh"];
    let done = agent.run_with(&args, b"hello\n").await;
    assert_eq!((done.code, done.out.as_str()), (3, "HELLO\n"), "{done:?}");
    agent.run(&["run", "web", "--image=i", "--rm"]).await.bad(2);
    agent.run(&["run", "web", "--image=i", "-t"]).await.bad(2);
    agent.run(&["run", "web"]).await.bad(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_are_changed_in_place() {
    let agent = with(vec![web(|it| it["metadata"]["resourceVersion"] = "41".into())]).await;
    agent.state(|state| state.change = Change::Configured);
    let labeled = agent.run(&["label", "pod", "web", "tier=front", "app-"]).await.good();
    assert_eq!(labeled, "pod/web labeled\n");
    let sent = || -> Value {
        let sent = agent.state(|state| state.manifests.pop()).expect("a manifest");
        serde_json::from_str(&sent).expect("JSON")
    };
    let manifest = sent();
    assert_eq!(manifest["metadata"]["labels"], json!({"tier": "front"}));
    assert_eq!(manifest.get("status"), None);
    assert!(agent.asked().contains("resource_version: \"41\""), "{}", agent.asked());
    let noted = agent.run(&["annotate", "pods", "--all", "why=so"]).await.good();
    assert_eq!(noted, "pod/web annotated\n");
    assert_eq!(sent()["metadata"]["annotations"], json!({"why": "so"}));
    let taken = agent.run(&["label", "pod/web", "app=other"]).await.bad(1);
    assert_eq!(taken, "error: \"app\" already has a value (web), and --overwrite is false\n");
    agent.run(&["label", "pod/web", "app=other", "--overwrite"]).await.good();
    assert_eq!(agent.run(&["label", "pod/web", "--list"]).await.good(), "app=web\n");
    agent.run(&["label", "pod/web"]).await.bad(2);
    agent.run(&["label", "node/host", "a=b"]).await.bad(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_edited() {
    let agent = with(vec![web(|_| {})]).await;
    agent.state(|state| state.change = Change::Configured);
    let edit = async |editor: &str| {
        let mut command = agent.command(&["edit", "pod/web"]);
        command.env("EDITOR", editor).env("TMPDIR", agent.dir.path());
        let done = tokio::time::timeout(PATIENCE, command.output()).await.expect("in time");
        super::agent::Done::from(done.expect("run"))
    };
    let same = edit("true").await;
    assert_eq!((same.code, same.err.as_str()), (0, "Edit cancelled, no changes made.\n"));
    assert_eq!(edit("sed -i s/nginx:1/nginx:2/").await.good(), "pod/web edited\n");
    let sent = agent.state(|state| state.manifests.pop()).expect("a manifest");
    assert!(sent.contains("nginx:2") && !sent.contains("podIP"), "{sent}");
    let left = || {
        let files = std::fs::read_dir(agent.dir.path()).expect("folder");
        let names = files.map(|file| file.expect("file").file_name().into_string().expect("name"));
        names.filter(|name| name.starts_with("podbay-edit")).count()
    };
    assert_eq!(left(), 0);
    agent.state(|state| state.refusals.insert("Apply", Status::invalid_argument("no")));
    let refused = edit("sed -i s/nginx:1/nginx:2/").await.bad(1);
    assert!(refused.contains("A copy of your changes has been stored to "), "{refused}");
    assert_eq!(left(), 1);
    edit("false").await.bad(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptions_of_a_node_and_of_beginnings_of_names() {
    let agent = with(vec![web(|it| {
        it["spec"]["containers"][0]["resources"] =
            json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"cpu": "1"}});
    })])
    .await;
    let page = agent.run(&["describe", "node", "host"]).await.good();
    assert!(page.contains("Non-terminated Pods:  (1 in total)"), "{page}");
    assert!(page.contains("500m (12%)") && page.contains("1Gi (25%)"), "{page}");
    let cpu = page.lines().find(|line| line.starts_with("  cpu  ")).expect("a row of cpu");
    assert!(cpu.contains("500m (12%)") && cpu.contains("1 (25%)"), "{cpu}");
    agent.run(&["describe", "node", "other"]).await.bad(3);
    agent.state(|state| state.refusals.insert("List", Status::permission_denied("no")));
    let page = agent.run(&["describe", "node"]).await.good();
    assert!(!page.contains("Non-terminated"), "callers of one namespace see the rest: {page}");
    agent.state(|state| state.refusals.clear());
    let page = agent.run(&["describe", "pod", "we"]).await.good();
    assert!(page.starts_with("Name:") && page.contains(" web\n"), "{page}");
    agent.run(&["describe", "pod", "x"]).await.bad(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_forwarded_by_its_name() {
    let agent = with(vec![web(|it| {
        it["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 7}]);
    })])
    .await;
    let args = ["port-forward", "pod/web", ":http", "--address", "localhost"];
    let mut child = agent.command(&args).spawn().expect("spawn");
    let mut out = tokio::io::BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    let read = tokio::io::AsyncBufReadExt::read_line(&mut out, &mut line);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("read");
    assert!(line.starts_with("Forwarding from 127.0.0.1:") && line.ends_with(" -> 7\n"), "{line}");
    let fault = agent.run(&["port-forward", "web", "grpc"]).await.bad(2);
    assert_eq!(fault, "error: the pod does not have a port named \"grpc\"\n");
}
