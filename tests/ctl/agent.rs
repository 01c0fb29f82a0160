//! A fake agent: records requests, answers from a list of pods, runs the commands of `exec`
//! locally.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use podbay::proto::podbay::v1::images_server::ImagesServer;
use podbay::proto::podbay::v1::pods_server::{Pods, PodsServer};
use podbay::proto::podbay::v1::*;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::commands::execute;

pub const PATIENCE: Duration = Duration::from_secs(30);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fake knows and has been asked.
#[derive(Default)]
pub struct State {
    pub pods: Vec<Pod>,
    pub events: Vec<Event>,
    /// The requests, as their Debug text.
    pub asked: Vec<String>,
    /// Manifests that came.
    pub manifests: Vec<String>,
    /// What a call of this name answers in place of its work.
    pub refusals: BTreeMap<&'static str, Status>,
    /// What becomes of applied pods.
    pub change: Change,
    pub warnings: Vec<String>,
    /// Kind and name of applied config maps and secrets.
    pub objects: Vec<(&'static str, &'static str)>,
    pub waits: Vec<Wait>,
    pub stats: StatsResponse,
    /// Log text.
    pub log: Vec<u8>,
    /// What a command `tar -cf` gives in place of an archive.
    pub hostile: Option<Vec<u8>>,
    /// Whether watches go on after the state at the start.
    pub watch_on: bool,
    pub images: BTreeMap<String, u64>,
    /// The archive that came last.
    pub archive: Vec<u8>,
}

#[derive(Clone)]
pub struct Fake {
    pub state: Arc<Mutex<State>>,
    news: broadcast::Sender<WatchResponse>,
}

impl Fake {
    pub fn ask(&self, call: &'static str, request: &impl std::fmt::Debug) -> Result<(), Status> {
        let mut state = self.state.lock().expect("state");
        state.asked.push(format!("{call} {request:?}"));
        state.refusals.get(call).map_or(Ok(()), |status| Err(status.clone()))
    }

    fn chosen(&self, selector: Option<Selector>) -> Vec<Pod> {
        let selector = selector.unwrap_or_default();
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let state = self.state.lock().expect("state");
        let chosen = state.pods.iter().filter(|pod| {
            fits(&selector.namespace, &pod.namespace) && fits(&selector.name, &pod.name)
        });
        chosen.cloned().collect()
    }

    fn one(&self, namespace: &str, name: &str) -> Result<Pod, Status> {
        let pods = self.state.lock().expect("state").pods.clone();
        let found = pods.into_iter().find(|pod| pod.namespace == namespace && pod.name == name);
        found.ok_or_else(|| Status::not_found(format!("pod {namespace}/{name} is not found")))
    }

    /// Tells watchers.
    pub fn tell(&self, kind: WatchEventType, pod: Pod) {
        let revision = pod.revision.clone();
        // Nobody may be listening.
        let _ = self.news.send(WatchResponse { r#type: kind.into(), pod: Some(pod), revision });
    }
}

/// A fake agent that is served.
pub struct Agent {
    pub dir: tempfile::TempDir,
    pub fake: Fake,
    _server: tokio::task::JoinSet<()>,
}

impl Agent {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let state = State { change: Change::Created, ..State::default() };
        let fake = Fake { state: Arc::new(Mutex::new(state)), news: broadcast::channel(64).0 };
        let listener = UnixListener::bind(dir.path().join("agent.sock")).expect("bind");
        let mut server = tokio::task::JoinSet::new();
        let router = tonic::transport::Server::builder()
            .add_service(PodsServer::new(fake.clone()))
            .add_service(ImagesServer::new(fake.clone()));
        server.spawn(async move {
            router.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("serve");
        });
        Self { dir, fake, _server: server }
    }

    pub fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.fake.state.lock().expect("state"))
    }

    /// The program with these arguments, in the agent's folder, its home there too.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podbay"));
        command.args(args).current_dir(self.dir.path()).env_clear().kill_on_drop(true);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.dir.path());
        command.env("PODBAY_ADDRESS", self.dir.path().join("agent.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub async fn run(&self, args: &[&str]) -> Done {
        self.run_with(args, b"").await
    }

    pub async fn run_with(&self, args: &[&str], input: &[u8]) -> Done {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("spawn");
        let mut stdin = child.stdin.take().expect("stdin");
        let feed = async move {
            // Who does not want the input hangs up.
            let _ = stdin.write_all(input).await;
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let done = tokio::time::timeout(PATIENCE, both).await;
        Done::from(done.unwrap_or_else(|_| panic!("{args:?} hangs")).expect("wait"))
    }

    /// The last request.
    pub fn asked(&self) -> String {
        self.state(|state| state.asked.last().cloned().unwrap_or_default())
    }

    /// Waits until the last thing asked for is a watch.
    pub async fn until_watched(&self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.asked().starts_with("Watch") {
            assert!(tokio::time::Instant::now() < deadline, "no watch: {}", self.asked());
            tokio::task::yield_now().await;
        }
    }
}

/// What a command has said.
#[derive(Debug, PartialEq)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Done {
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{}", self.out);
        self.out
    }

    #[track_caller]
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        self.err
    }
}

/// A pod, created three hours ago.
pub fn pod(namespace: &str, name: &str, phase: Phase, ready: bool) -> Pod {
    let created = time::OffsetDateTime::now_utc() - time::Duration::seconds(3 * 3600 + 5);
    let created = created.format(&time::format_description::well_known::Rfc3339).expect("time");
    let word = phase.as_str_name().trim_start_matches("PHASE_").to_lowercase();
    let word = word[..1].to_uppercase() + &word[1..];
    let state = if ready {
        json!({"running": {}})
    } else {
        json!({"waiting": {"reason": "ContainerCreating"}})
    };
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"),
            "labels": {"app": name}, "creationTimestamp": created},
        "spec": {"nodeName": "host", "containers": [{"name": "app", "image": "nginx:1"}]},
        "status": {"phase": word, "podIP": "10.1.0.2",
            "containerStatuses": [{"name": "app", "ready": ready, "restartCount": 0, "state": state}]},
    });
    let status = if ready { ConditionStatus::True } else { ConditionStatus::False };
    Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        phase: phase.into(),
        conditions: vec![Condition {
            r#type: "Ready".to_owned(),
            status: status.into(),
            ..Condition::default()
        }],
        revision: Some(Revision { epoch: "e".to_owned(), number: 7 }),
        object: object.to_string(),
        ..Pod::default()
    }
}

fn answer<T>(value: T) -> Result<Response<T>, Status> {
    Ok(Response::new(value))
}

fn stream<T: Send + 'static>(items: Vec<T>) -> Result<Response<Answers<T>>, Status> {
    answer(Box::pin(futures::stream::iter(items.into_iter().map(Ok))) as Answers<T>)
}

#[tonic::async_trait]
impl Pods for Fake {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        let request = request.into_inner();
        let whole = (&request.preconditions, &request.namespace, request.lenient, &request.grace);
        self.ask("Apply", &(request.manner(), request.dry_run, whole, request.any_version))?;
        let mut state = self.state.lock().expect("state");
        if let Some(status) = state.refusals.get("Apply as dry run").filter(|_| request.dry_run) {
            return Err(status.clone());
        }
        state.manifests.push(request.manifest);
        let change = state.change.into();
        let pods = state.pods.iter().cloned();
        let pods = pods.map(|pod| AppliedPod { pod: Some(pod), change }).collect();
        let object = |(kind, name): &(&str, &str)| AppliedObject {
            name: Some(ObjectName {
                kind: (*kind).to_owned(),
                namespace: "default".to_owned(),
                name: (*name).to_owned(),
            }),
            change,
        };
        let objects = state.objects.iter().map(object).collect();
        answer(ApplyResponse { pods, warnings: state.warnings.clone(), objects })
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let request = request.into_inner();
        self.ask("Delete", &request)?;
        if let Some(Selector { namespace, name, .. }) = &request.selector
            && !name.is_empty()
        {
            self.one(namespace, name)?;
        }
        answer(DeleteResponse { pods: self.chosen(request.selector) })
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let request = request.into_inner();
        self.ask("Get", &request)?;
        answer(GetResponse { pod: Some(self.one(&request.namespace, &request.name)?) })
    }

    /// Pages of one pod.
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let request = request.into_inner();
        self.ask("List", &request)?;
        let from: usize = request.continue_token.parse().unwrap_or(0);
        let all = self.chosen(request.selector);
        let more = from + 1 < all.len();
        answer(ListResponse {
            pods: all.into_iter().skip(from).take(1).collect(),
            revision: Some(Revision { epoch: "e".to_owned(), number: 7 }),
            continue_token: if more { (from + 1).to_string() } else { String::new() },
            remaining: 0,
        })
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Answers<WatchResponse>>, Status> {
        let request = request.into_inner();
        let news = self.news.subscribe();
        self.ask("Watch", &request)?;
        let mut start = Vec::new();
        if request.after.is_none() {
            let added = |pod| WatchResponse {
                r#type: WatchEventType::Added.into(),
                pod: Some(pod),
                revision: None,
            };
            start.extend(self.chosen(request.selector).into_iter().map(added));
            let kind = WatchEventType::Bookmark.into();
            start.push(WatchResponse { r#type: kind, ..WatchResponse::default() });
        }
        let start = futures::stream::iter(start.into_iter().map(Ok));
        if !self.state.lock().expect("state").watch_on {
            return answer(Box::pin(start));
        }
        let news = tokio_stream::wrappers::BroadcastStream::new(news);
        let news = news.map(|event| event.map_err(|_| Status::resource_exhausted("slow")));
        answer(Box::pin(start.chain(news)))
    }

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Answers<LogsResponse>>, Status> {
        self.ask("Logs", &request.into_inner())?;
        let log = self.state.lock().expect("state").log.clone();
        stream(log.chunks(5).map(|piece| LogsResponse { data: piece.to_vec() }).collect())
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Answers<ExecResponse>>, Status> {
        let mut requests = request.into_inner();
        let Some(ExecRequest { input: Some(exec_request::Input::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("start: must come first"));
        };
        self.ask("Exec", &start)?;
        let hostile = self.state.lock().expect("state").hostile.clone();
        let hostile = hostile.filter(|_| start.command.iter().any(|word| word == "-cf"));
        let (sender, receiver) = mpsc::channel(16);
        let fake = self.clone();
        tokio::spawn(async move {
            let say = |output| Ok(ExecResponse { output: Some(output) });
            let started = ExecStarted { container: "app".to_owned() };
            let _ = sender.send(say(exec_response::Output::Started(started))).await;
            let code = match hostile {
                Some(archive) => {
                    let _ = sender.send(say(exec_response::Output::Stdout(archive))).await;
                    0
                }
                None => execute(&fake, start, requests, &sender).await,
            };
            let exit = exec_response::Output::Exit(ExecExit { exit_code: code });
            let _ = sender.send(say(exit)).await;
        });
        answer(Box::pin(ReceiverStream::new(receiver)))
    }

    /// Says what comes, in capitals; ends with its input.
    async fn attach(
        &self,
        request: Request<Streaming<AttachRequest>>,
    ) -> Result<Response<Answers<AttachResponse>>, Status> {
        let mut requests = request.into_inner();
        let start = requests.message().await?;
        self.ask("Attach", &start)?;
        let output = async_stream::try_stream! {
            let started = AttachStarted { container: "app".to_owned(), tty: false, stdin: true };
            yield AttachResponse { output: Some(attach_response::Output::Started(started)) };
            while let Some(request) = requests.message().await? {
                match request.input {
                    Some(attach_request::Input::Stdin(data)) => {
                        let data = data.to_ascii_uppercase();
                        yield AttachResponse { output: Some(attach_response::Output::Stdout(data)) };
                    }
                    Some(attach_request::Input::StdinEnd(_)) => break,
                    _ => {}
                }
            }
        };
        answer(Box::pin(output))
    }

    /// Port 7 says what comes, in capitals; at port 9 nobody listens.
    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<Answers<PortForwardResponse>>, Status> {
        let mut requests = request.into_inner();
        let start = requests.message().await?;
        self.ask("PortForward", &start)?;
        let Some(port_forward_request::Input::Start(start)) = start.and_then(|start| start.input)
        else {
            return Err(Status::invalid_argument("start: must come first"));
        };
        if start.port == 9 {
            return Err(Status::unavailable("connect to port 9 of the pod: connection refused"));
        }
        let output = async_stream::try_stream! {
            let started = port_forward_response::Output::Started(PortForwardStarted {});
            yield PortForwardResponse { output: Some(started) };
            while let Some(request) = requests.message().await? {
                if let Some(port_forward_request::Input::Data(data)) = request.input {
                    let data = port_forward_response::Output::Data(data.to_ascii_uppercase());
                    yield PortForwardResponse { output: Some(data) };
                }
            }
            let end = port_forward_response::Output::Data(b"END".to_vec());
            yield PortForwardResponse { output: Some(end) };
        };
        answer(Box::pin(output))
    }

    async fn stats(
        &self,
        request: Request<StatsRequest>,
    ) -> Result<Response<StatsResponse>, Status> {
        self.ask("Stats", &request.into_inner())?;
        answer(self.state.lock().expect("state").stats.clone())
    }

    async fn events(
        &self,
        request: Request<EventsRequest>,
    ) -> Result<Response<Answers<EventsResponse>>, Status> {
        self.ask("Events", &request.into_inner())?;
        let events = self.state.lock().expect("state").events.clone();
        stream(events.into_iter().map(|event| EventsResponse { event: Some(event) }).collect())
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let request = request.into_inner();
        self.ask("Explain", &request)?;
        let pod = self.one(&request.namespace, &request.name)?;
        answer(ExplainResponse {
            pod: Some(pod),
            waits: self.state.lock().expect("state").waits.clone(),
        })
    }

    async fn restart_container(
        &self,
        request: Request<RestartContainerRequest>,
    ) -> Result<Response<RestartContainerResponse>, Status> {
        self.ask("RestartContainer", &request.into_inner())?;
        answer(RestartContainerResponse {})
    }

    async fn get_node(
        &self,
        request: Request<GetNodeRequest>,
    ) -> Result<Response<GetNodeResponse>, Status> {
        self.ask("GetNode", &request.into_inner())?;
        let object: Value = json!({"kind": "Node", "metadata": {"name": "host"}, "status": {
            "allocatable": {"cpu": "4", "memory": "4Gi"}, "capacity": {"cpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "podbay 1", "kernelVersion": "6.1", "osImage": "Linux",
                "containerRuntimeVersion": "containerd://2.4.2"},
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
        }});
        let node = Node { name: "host".to_owned(), object: object.to_string(), ..Node::default() };
        answer(GetNodeResponse { node: Some(node) })
    }
}
