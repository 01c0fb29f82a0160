//! A small NRI plugin that records events and answers as a test specifies.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use podbay::backend::nri::frames::{TO_PLUGIN, TO_RUNTIME};
use podbay::backend::nri::link::{CallError, Link, Service, Status, Ways, code};
use podbay::backend::nri::proto::{
    ConfigureResponse, Container, ContainerEviction, ContainerUpdate, Empty, PodSandbox,
    RUNTIME_SERVICE, RegisterPluginRequest, StateChangeEvent, SynchronizeRequest,
    SynchronizeResponse, Told, UpdateContainersRequest, UpdateContainersResponse,
    UpdatePodSandboxRequest,
};
use podbay::lifecycle::Tasks;
use prost::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// One call.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Name of the call.
    pub call: String,
    /// The pod; with many, none.
    pub pod: Option<PodSandbox>,
    /// The container; with many, none.
    pub container: Option<Container>,
    /// The whole request.
    pub payload: Bytes,
}

impl Heard {
    fn new(method: &str, payload: Bytes) -> Self {
        let (pod, container) = match method {
            "Configure" | "Synchronize" | "Shutdown" => (None, None),
            "StateChange" => {
                let change = StateChangeEvent::decode(payload.clone()).expect("a StateChange");
                (change.pod, change.container)
            }
            "UpdatePodSandbox" => {
                let asked = UpdatePodSandboxRequest::decode(payload.clone()).expect("a request");
                (asked.pod, None)
            }
            // All others begin with a pod and a container.
            _ => {
                let told = Told::decode(payload.clone()).expect("a request");
                (told.pod, told.container)
            }
        };
        Self { call: method.to_owned(), pod, container, payload }
    }

    pub fn container_name(&self) -> &str {
        self.container.as_ref().map_or("", |container| &container.name)
    }

    /// All pods and containers of a Synchronize.
    pub fn all(&self) -> SynchronizeRequest {
        SynchronizeRequest::decode(self.payload.clone()).expect("a Synchronize")
    }
}

/// What a plugin does about a call.
pub enum Reply {
    /// Answers with nothing.
    Done,
    /// Answers with this.
    With(Bytes),
    /// Refuses in these words.
    Refuse(String),
    /// Does not know the call.
    Unknown,
    /// Never answers.
    Hang,
    /// Answers with nothing once this is true.
    Once(watch::Receiver<bool>),
}

/// Answers with a message.
pub fn with(answer: impl Message) -> Reply {
    Reply::With(answer.encode_to_vec().into())
}

type Manner = dyn Fn(&Heard) -> Reply + Send + Sync;

struct Ears {
    heard: Arc<watch::Sender<Vec<Heard>>>,
    manner: Box<Manner>,
}

#[async_trait]
impl Service for Ears {
    async fn call(&self, _: &str, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        let heard = Heard::new(method, payload);
        let reply = (self.manner)(&heard);
        self.heard.send_modify(|all| all.push(heard));
        match reply {
            Reply::Done => Ok(Bytes::new()),
            Reply::With(answer) => Ok(answer),
            Reply::Refuse(words) => Err(Status::new(code::UNKNOWN, words)),
            Reply::Unknown => Err(Status::new(code::UNIMPLEMENTED, "no such call")),
            Reply::Hang => std::future::pending().await,
            Reply::Once(mut open) => {
                let _ = open.wait_for(|open| *open).await;
                Ok(Bytes::new())
            }
        }
    }
}

/// A plugin that has connected.
pub struct Plugin {
    link: Arc<Link>,
    heard: Arc<watch::Sender<Vec<Heard>>>,
}

impl Plugin {
    /// Connects without registering.
    pub async fn connect(
        socket: &Path,
        manner: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) => assert!(
                    tokio::time::Instant::now() < deadline,
                    "connect to {}: {error}",
                    socket.display()
                ),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let heard = Arc::new(watch::Sender::new(Vec::new()));
        let ears = Ears { heard: heard.clone(), manner: Box::new(manner) };
        let ways = Ways { out: TO_RUNTIME, back: TO_PLUGIN };
        Self { link: Link::open(stream, ways, Arc::new(ears), &Tasks::new()), heard }
    }

    pub async fn register(&self, index: &str, name: &str) -> Result<(), CallError> {
        let request = RegisterPluginRequest {
            plugin_name: name.into(),
            plugin_idx: index.into(),
            nri_version: "test".into(),
        };
        self.ask("RegisterPlugin", request).await.map(|_: Empty| ())
    }

    /// Connects, registers, and waits until it has been synchronised.
    pub async fn join(
        socket: &Path,
        index: &str,
        name: &str,
        manner: impl Fn(&Heard) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let plugin = Self::connect(socket, manner).await;
        plugin.register(index, name).await.expect("RegisterPlugin");
        plugin.hears("Synchronize", 1).await;
        plugin
    }

    /// One that says yes to everything.
    pub async fn listening(socket: &Path, index: &str, name: &str) -> Self {
        Self::join(socket, index, name, |_| Reply::Done).await
    }

    async fn ask<A: Message + Default>(
        &self,
        method: &str,
        request: impl Message,
    ) -> Result<A, CallError> {
        let payload = request.encode_to_vec().into();
        let answer = self.link.call(RUNTIME_SERVICE, method, payload, PATIENCE).await?;
        Ok(A::decode(answer).expect("an answer"))
    }

    /// Changes containers unasked; returns what failed.
    pub async fn update(
        &self,
        update: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Vec<ContainerUpdate> {
        let request = UpdateContainersRequest { update, evict };
        let answer = self.ask("UpdateContainers", request).await;
        let answer: UpdateContainersResponse = answer.expect("UpdateContainers");
        answer.failed
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.borrow().clone()
    }

    /// Names of the calls since it was synchronised.
    pub fn events(&self) -> Vec<String> {
        let heard = self.heard();
        let last = heard.iter().rposition(|heard| heard.call == "Synchronize");
        heard[last.map_or(0, |last| last + 1)..].iter().map(|heard| heard.call.clone()).collect()
    }

    /// Waits until a call came `times` times; returns the last of them.
    pub async fn hears(&self, call: &str, times: usize) -> Heard {
        let mut all = self.heard.subscribe();
        let count = |all: &Vec<Heard>| all.iter().filter(|heard| heard.call == call).count();
        let waited = tokio::time::timeout(PATIENCE, all.wait_for(|all| count(all) >= times)).await;
        assert!(waited.is_ok(), "{call} was not heard {times} times: {:?}", self.events());
        drop(waited);
        let of_call = self.heard().into_iter().filter(|heard| heard.call == call);
        of_call.last().expect("the call")
    }

    /// Whether the runtime has hung up.
    pub fn is_gone(&self) -> bool {
        self.link.is_closed()
    }

    /// Waits until the runtime has hung up.
    pub async fn gone(&self) {
        let gone = tokio::time::timeout(PATIENCE, self.link.closed()).await;
        assert!(gone.is_ok(), "still connected: {:?}", self.events());
    }

    pub fn leave(&self) {
        self.link.close();
    }
}

/// Subscribes to these events only.
pub fn subscribed(events: i32) -> Reply {
    with(ConfigureResponse { events, failure_policy: None })
}

/// Takes split synchronisation, as the reference does.
pub fn synchronized(heard: &Heard) -> Reply {
    let more = heard.all().more;
    with(SynchronizeResponse { update: Vec::new(), more })
}
