//! The controller in `examples/` over two agents, one of them remote.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use podbay::backend::Process;
use podbay::ctl::connect::Client;
use podbay::ctl::context::Context;
use podbay::pod::{Face, Selector};
use podbay::serve::{Remote, RemoteOptions, TlsFiles, pod_routes, serve_remote};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::example::{Wanted, keep};
use crate::rig::{Rig, container, phase, pod, quick};
use crate::world::{Agent, World, eventually};

/// How long an agent may be away.
const AWAY: Duration = Duration::from_millis(300);

/// Makes an authority, and certificates of an agent and of a controller.
fn certificates(folder: &Path) {
    for words in [&["init"][..], &["agent", "--san", "127.0.0.1"], &["client", "controller"]] {
        let mut podbay = Command::new(env!("CARGO_BIN_EXE_podbay"));
        let made = podbay.arg("certs").args(words).arg("--dir").arg(folder).output();
        assert!(made.expect("podbay certs").status.success(), "{words:?}");
    }
}

/// Serves the pods of an agent over TCP, to a controller that may operate them; returns the address.
async fn serve_over_tcp(agent: &Agent, pki: &Path) -> String {
    let policy = pki.join("policy.toml");
    let rule = "[[allow]]\nnames = [\"cn:controller\"]\nrole = \"operate\"\n";
    std::fs::write(&policy, rule).expect("the policy");
    let tls = TlsFiles {
        cert: pki.join("agent.crt"),
        key: pki.join("agent.key"),
        client_ca: pki.join("ca.crt"),
        crl: Vec::new(),
    };
    let options = RemoteOptions { address: ([127, 0, 0, 1], 0).into(), tls, policy };
    let services = agent.rooms.pod_services();
    let (address, is_served) = oneshot::channel();
    drop(agent.inside(async move {
        let remote = Remote::open(options).await.expect("a remote door");
        address.send(remote.address()).expect("somebody waits");
        let closing = CancellationToken::new();
        let (_ready, is_ready) = watch::channel(true);
        let routes = pod_routes(services, closing.clone());
        let endless = std::future::pending();
        serve_remote(remote, routes, is_ready, closing, endless).await.expect("it serves");
    }));
    format!("https://{}", is_served.await.expect("an address"))
}

/// Starts an agent of a world, its first one or a later one, that is found at the same path.
async fn agent_at(world: &World, path: &Path, number: usize) -> Agent {
    let agent = world.agent().await;
    let _absent = std::fs::remove_file(path);
    symlink(world.path(&format!("cri-{number}.sock")), path).expect("a link to the socket");
    agent
}

/// A running controller.
struct Running {
    said: Arc<Mutex<Vec<String>>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Running {
    fn start(addresses: &[String], pki: &Path, replicas: usize) -> Self {
        let file = |name: &str| Some(PathBuf::from(name));
        let client = |address: &String| {
            let context = Context {
                ca: file("ca.crt"),
                cert: file("controller.crt"),
                key: file("controller.key"),
                ..Context::default()
            };
            let meant = context.agent(address.clone(), pki).expect("an address");
            Client::lazy(meant).expect("a client").pods
        };
        let template =
            pod("web", &[container("app", &["run"])], json!({ "restartPolicy": "Never" }));
        let wanted = Wanted { template, replicas, patience: AWAY };
        let said = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = oneshot::channel::<()>();
        let (agents, told) = (addresses.iter().map(client).collect(), said.clone());
        let task = tokio::spawn(async move {
            let stopped = async { stopped.await.unwrap_or_default() };
            keep(agents, wanted, stopped, |line| told.lock().expect("lines").push(line)).await
        });
        Self { said, stop, task }
    }

    /// Waits until it said this after the first `since` lines.
    async fn said(&self, since: usize, wanted: &str) {
        let what = format!("it says {wanted:?}");
        eventually(&what, async || {
            let said = self.said.lock().expect("lines");
            said[since..].iter().any(|line| line == wanted).then_some(())
        })
        .await;
    }

    fn lines(&self) -> usize {
        self.said.lock().expect("lines").len()
    }
}

fn pods(agent: &Agent) -> Vec<Arc<Pod>> {
    let listed = Rig(agent).pods().list(&Selector::default()).expect("a list");
    listed.pods.into_iter().map(|view| view.pod).collect()
}

fn names(agent: &Agent) -> Vec<String> {
    pods(agent).iter().filter_map(|pod| pod.metadata.name.clone()).collect()
}

/// Waits until exactly so many pods are there, and all of them run; returns their names.
async fn running(agent: &Agent, count: usize) -> Vec<String> {
    let what = format!("{count} pods run");
    eventually(&what, async || {
        let all = pods(agent);
        (all.len() == count && all.iter().all(|pod| phase(pod) == "Running")).then_some(())
    })
    .await;
    names(agent)
}

#[tokio::test]
async fn a_controller_keeps_replicas_over_two_agents() {
    let (near, far) = (quick(), quick());
    let socket = near.path("podbay.sock");
    let (first, second) = (agent_at(&near, &socket, 0).await, far.agent().await);
    let pki = far.path("pki");
    certificates(&pki);
    let remote = serve_over_tcp(&second, &pki).await;
    let controller = Running::start(&[socket.display().to_string(), remote], &pki, 4);
    let before = running(&first, 2).await;
    let there = running(&second, 2).await;

    // A replica that ends is deleted, and another one is made.
    let rig = Rig(&second);
    let ended = rig.get(&there[0]).expect("a pod");
    let status = &ended.status.expect("a status").container_statuses.expect("statuses")[0];
    let id = status.container_id.as_ref().and_then(|id| id.split("://").nth(1)).expect("an id");
    far.fakes.runtime.end(Process { container: id, exec: None }, 1);
    rig.gone(&there[0]).await;
    assert_eq!(running(&second, 2).await.len(), 2);

    // Those of a dead agent are unknown, and made elsewhere.
    let so_far = controller.lines();
    first.kill().await;
    running(&second, 4).await;
    for name in &before {
        let said = controller.said.lock().expect("lines").clone();
        let unknown = format!("agent 0: {name} is unknown at ");
        assert!(said[so_far..].iter().any(|line| line.starts_with(&unknown)), "{said:#?}");
    }

    // When it is back, they are what they were, and those that are too many go.
    let so_far = controller.lines();
    let first = agent_at(&near, &socket, 1).await;
    running(&second, 2).await;
    assert_eq!(running(&first, 2).await, before);
    let rig = Rig(&first);
    for name in &before {
        let status = rig.get(name).expect("a pod").status.expect("a status");
        let address = status.pod_ip.expect("an address");
        controller.said(so_far, &format!("agent 0: {name} is running at {address}")).await;
    }

    controller.stop.send(()).expect("it listens");
    controller.task.await.expect("no panic").expect("all is well");
    assert_eq!((names(&first), names(&second)), (Vec::new(), Vec::new()), "all are gone");
    near.clean().await;
    far.clean().await;
}
