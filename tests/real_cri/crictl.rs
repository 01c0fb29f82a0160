//! crictl, the field's command line for the CRI, on a pod from its pull to its removal.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::checkpoints::criu_works;
use crate::rig::{Rig, SOON};
use crate::support::containerd::Line;
use crate::support::{eventually, parts};

fn command(rig: &Rig, words: &[&str]) -> Command {
    let socket = format!("unix://{}", rig.env().socket().display());
    let mut command = Command::new(parts().join("crictl"));
    command.args(["--runtime-endpoint", &socket, "--image-endpoint", &socket, "--timeout", "30s"]);
    // In place of one of the machine.
    let config = rig.env().file("crictl.yaml");
    std::fs::write(&config, "timeout: 30\n").unwrap();
    command.arg("--config").arg(config);
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(rig: &Rig, words: &[&str]) -> Output {
    command(rig, words).output().await.expect("crictl: run scripts/setup.sh test")
}

/// What a command that succeeds prints.
async fn crictl(rig: &Rig, words: &[&str]) -> String {
    let output = run(rig, words).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "crictl {words:?}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What a command prints on a terminal of its own.
async fn with_terminal(rig: &Rig, words: &[&str]) -> String {
    let command = command(rig, words);
    let words = [command.as_std().get_program()].into_iter().chain(command.as_std().get_args());
    let line: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script");
    script.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, script.output()).await.expect("it ends");
    let output = output.expect("script of bsdutils");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{line:?}: {said}");
    said.trim().to_owned()
}

async fn crictl_json(rig: &Rig, words: &[&str]) -> Value {
    let (subcommand, rest) = words.split_first().unwrap();
    let said = crictl(rig, &[&[*subcommand, "-o", "json"], rest].concat()).await;
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{words:?}: {error}: {said}"))
}

/// A command that goes on until it is killed; returns once it printed a line with `word`.
async fn until_it_says(rig: &Rig, words: &[&str], word: &str) -> Child {
    let mut child = command(rig, words).stdout(Stdio::piped()).spawn().expect("crictl");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let heard = tokio::time::timeout(SOON, async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(word) {
                return true;
            }
        }
        false
    });
    assert_eq!(heard.await, Ok(true), "crictl {words:?} does not say {word:?}");
    // Goes on reading, or the next line would end it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    child
}

fn write(rig: &Rig, name: &str, value: &Value) -> String {
    let path = rig.env().file(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The configurations of a pod and of a container that serves a page and writes lines.
fn files(rig: &Rig) -> (String, String) {
    let logs = rig.env().log_root();
    std::fs::create_dir_all(&logs).unwrap();
    let pod = json!({
        "metadata": {"name": "crictl", "namespace": "default", "uid": "uid-crictl", "attempt": 0},
        "labels": {"app": "crictl"},
        "log_directory": logs,
        "linux": {"cgroup_parent": rig.env().cgroup_parent()},
    });
    let script = "cd /tmp; echo page > index.html; httpd -p 8080 -h /tmp; \
                  while true; do echo tick; sleep 0.2; done";
    let container = json!({
        "metadata": {"name": "app", "attempt": 0},
        "image": {"image": rig.image},
        "command": ["/bin/sh", "-c", script],
        "log_path": "app.log",
        "linux": {"resources": {"memory_limit_in_bytes": 67_108_864}},
    });
    (write(rig, "pod.json", &pod), write(rig, "container.json", &container))
}

pub async fn crictl_runs_a_pod(line: Line) {
    let rig = Rig::start(line).await;
    assert!(crictl(&rig, &["version"]).await.contains("podbay"));
    let info: Value = serde_json::from_str(&crictl(&rig, &["info"]).await).unwrap();
    assert_eq!(info["status"]["conditions"][0]["status"], true, "{info}");
    assert!(crictl(&rig, &["runtime-config"]).await.contains("CGROUPFS"));

    let pulled = crictl(&rig, &["pull", &rig.image]).await;
    let id = pulled.rsplit_once(' ').unwrap().1.to_owned();
    let images = crictl_json(&rig, &["images"]).await;
    assert_eq!(images["images"][0]["repoTags"][0], rig.image, "{images}");
    let image = crictl_json(&rig, &["inspecti", &id]).await;
    assert_eq!(image["status"]["repoTags"][0], rig.image, "{image}");
    let disk = crictl_json(&rig, &["imagefsinfo"]).await;
    assert_ne!(disk["status"]["imageFilesystems"][0]["usedBytes"]["value"], "0", "{disk}");

    let mut events = listen(&rig);
    let (pod_file, container_file) = files(&rig);
    let pod = crictl(&rig, &["runp", &pod_file]).await;
    let container = crictl(&rig, &["create", &pod, &container_file, &pod_file]).await;
    crictl(&rig, &["start", &container]).await;
    let told = tokio::time::timeout(SOON, events.started(&container)).await;
    told.expect("the event of the start");

    let pods = crictl_json(&rig, &["pods", "--label", "app=crictl", "--state", "ready"]).await;
    assert_eq!(pods["items"][0]["id"], pod.as_str(), "{pods}");
    let ps = crictl_json(&rig, &["ps", "--name", "app"]).await;
    assert_eq!(ps["containers"][0]["state"], "CONTAINER_RUNNING", "{ps}");
    let inspected = crictl_json(&rig, &["inspect", &container[..13]]).await;
    assert!(inspected["info"]["runtimeSpec"]["process"]["args"].is_array(), "{inspected}");
    let inspected = crictl_json(&rig, &["inspectp", &pod[..13]]).await;
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY", "{inspected}");
    commands(&rig, &container).await;
    figures(&rig, &pod, &container).await;
    sessions(&rig, &pod, &container).await;

    crictl(&rig, &["stop", "--timeout", "0", &container]).await;
    let removed = run(&rig, &["rm", "nobody"]).await;
    assert!(!removed.status.success());
    crictl(&rig, &["rm", &container]).await;
    crictl(&rig, &["stopp", &pod]).await;
    crictl(&rig, &["rmp", &pod]).await;
    assert_eq!(crictl_json(&rig, &["pods"]).await["items"], json!([]));
    crictl(&rig, &["rmi", &id]).await;
    assert_eq!(crictl_json(&rig, &["images"]).await["images"], json!([]));
    crictl(&rig, &["pull", &rig.image]).await;
    drop(events);
    rig.finish().await;
}

/// A running `crictl events`.
struct Events {
    _child: Child,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

/// Begins to listen. The order does not matter: first comes the present state, as events.
fn listen(rig: &Rig) -> Events {
    let mut child =
        command(rig, &["events"]).stdout(Stdio::piped()).spawn().expect("crictl events");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    Events { _child: child, lines }
}

impl Events {
    async fn started(&mut self, container: &str) {
        let mut text = String::new();
        while let Some(line) = self.lines.next_line().await.unwrap() {
            // An event takes several lines.
            text += &line;
            let Ok(event) = serde_json::from_str::<Value>(&text) else { continue };
            text.clear();
            if event["containerId"] == container
                && event["containerEventType"] == "CONTAINER_STARTED_EVENT"
            {
                return;
            }
        }
        panic!("crictl events ended");
    }
}

async fn commands(rig: &Rig, container: &str) {
    for flags in [&["exec", "-s"][..], &["exec"], &["exec", "--transport", "websocket"]] {
        let echo = [flags, &[container, "cat", "/tmp/index.html"]].concat();
        assert_eq!(crictl(rig, &echo).await, "page", "{flags:?}");
        let failing = [flags, &[container, "sh", "-c", "exit 7"]].concat();
        let failed = run(rig, &failing).await;
        let said = String::from_utf8_lossy(&failed.stderr);
        assert!(!failed.status.success() && said.contains('7'), "{flags:?}: {said}");
    }
    assert!(crictl(rig, &["logs", container]).await.starts_with("tick"));
    let last = crictl(rig, &["logs", "--tail", "2", container]).await;
    assert_eq!(last.lines().collect::<Vec<_>>(), ["tick", "tick"]);
    drop(until_it_says(rig, &["logs", "-f", "--tail", "0", container], "tick").await);
    let terminal = with_terminal(rig, &["exec", "-it", container, "tty"]).await;
    assert_eq!(terminal, "/dev/pts/0");
    let archive = rig.env().file("crictl-checkpoint.tar");
    let export = format!("--export={}", archive.display());
    let done = run(rig, &["checkpoint", &export, container]).await;
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!((done.status.success(), archive.exists()), (criu_works(), criu_works()), "{said}");
    crictl(rig, &["update", "--cpu-share", "300", "--memory", "50331648", container]).await;
    let inspected = crictl_json(rig, &["inspect", container]).await;
    let linux = &inspected["status"]["resources"]["linux"];
    assert_eq!(
        (&linux["cpuShares"], &linux["memoryLimitInBytes"]),
        (&json!("300"), &json!("50331648"))
    );
}

async fn figures(rig: &Rig, pod: &str, container: &str) {
    let sampled = eventually(SOON, async || {
        let stats = crictl_json(rig, &["stats", "--id", container]).await;
        let memory = stats["stats"][0]["memory"]["workingSetBytes"]["value"].as_str()?;
        (memory != "0").then_some(())
    });
    sampled.await.expect("the memory of the container");
    let stats = crictl_json(rig, &["statsp", "--id", pod]).await;
    assert_eq!(stats["stats"][0]["attributes"]["id"], pod, "{stats}");
    let received = &stats["stats"][0]["linux"]["network"]["defaultInterface"]["rxBytes"]["value"];
    assert!(received.is_string(), "{stats}");
    let metrics = crictl(rig, &["metricsp"]).await;
    assert!(metrics.contains("container_memory_working_set_bytes"), "{metrics}");
    let names = crictl(rig, &["metricdescs"]).await;
    assert!(names.contains("container_network_receive_bytes_total"), "{names}");
}

async fn sessions(rig: &Rig, pod: &str, container: &str) {
    drop(until_it_says(rig, &["attach", container], "tick").await);
    for transport in ["spdy", "websocket"] {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ports = format!("{}:8080", free.port());
        let words = ["port-forward", "--transport", transport, pod, &ports];
        let child = until_it_says(rig, &words, "Forwarding from").await;
        let page = reqwest::get(format!("http://{free}/index.html")).await.unwrap();
        assert_eq!(page.text().await.unwrap(), "page\n", "{transport}");
        drop(child);
    }
}
