//! A server, its fake pods and sessions, and a client.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use crate::backend::fake::Fakes;
use crate::ids::{ContainerId, PodId};
use crate::image;
use crate::lifecycle::Tasks;
use crate::model::streams::ProcessIo;
use crate::pod::*;
use crate::proto::podbay::v1::pods_client::PodsClient;
use crate::sandbox;
use crate::serve::pods::{Measure, PodServices, Pods};
use crate::stats;
use crate::stream::{Attach, Exec, SessionError, Sessions};

/// Time limit for everything in these tests.
pub const SOON: Duration = Duration::from_secs(20);

/// A pod in Kubernetes' form.
pub fn view(name: &str, phase: &str) -> PodView {
    let pod = serde_json::json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "labels": {"app": name},
        },
        "spec": {"nodeName": "n1", "restartPolicy": "Always", "containers": [
            {"name": "main", "image": "img", "ports": [{"containerPort": 80}]},
        ]},
        "status": {"phase": phase, "containerStatuses": [
            {"name": "main", "image": "img", "imageID": "", "ready": true, "restartCount": 2,
             "containerID": format!("containerd://{}", container())},
        ]},
    });
    let revision = Revision { epoch: String::new(), number: 0 };
    PodView { pod: Arc::new(serde_json::from_value(pod).unwrap()), source: Source::Api, revision }
}

pub fn container() -> ContainerId {
    "c".repeat(64).try_into().unwrap()
}

pub fn sandbox_id() -> PodId {
    "5".repeat(64).try_into().unwrap()
}

/// Fake pods that are served from a hub; other calls are recorded.
pub struct MadeUp {
    pub hub: Arc<Hub>,
    pub asked: Mutex<Vec<String>>,
    /// The error for the next changing call.
    pub fail: Mutex<Option<Error>>,
    pub log: Mutex<Vec<Bytes>>,
}

impl MadeUp {
    fn note(&self, what: String) -> Result<(), Error> {
        self.asked.lock().unwrap().push(what);
        self.fail.lock().unwrap().take().map_or(Ok(()), Err)
    }
}

pub fn event(number: u64) -> Event {
    Event {
        number,
        pod: PodKey::new("default", "a"),
        uid: "uid-a".into(),
        container: Some("main".into()),
        kind: EventType::Warning,
        reason: "BackOff",
        message: "again".into(),
        first: 1_500_000_000,
        last: 2_000_000_000,
        count: 3,
    }
}

#[async_trait]
impl Face for MadeUp {
    async fn apply(&self, request: Apply) -> Result<Applied, Error> {
        self.note(format!("{request:?}"))?;
        let pods = vec![(self.hub.publish(view("new", "Pending")), Change::Created)];
        Ok(Applied { pods, warnings: vec!["mind the gap".into()], ..Applied::default() })
    }

    async fn delete(&self, request: Delete) -> Result<Vec<PodView>, Error> {
        self.note(format!("{request:?}"))?;
        Ok(self.hub.list(&request.selector)?.pods)
    }

    fn get(&self, key: &PodKey) -> Result<PodView, Error> {
        self.hub.get(key).ok_or_else(|| Error::NotFound(key.clone()))
    }

    fn list(&self, selector: &Selector) -> Result<Listing, Error> {
        self.hub.list(selector)
    }

    fn watch(&self, selector: Selector, from: Option<Revision>) -> Result<Watch, Error> {
        self.hub.watch(&selector, from)
    }

    fn explain(&self, key: &PodKey) -> Result<Explanation, Error> {
        let wait = Waits {
            container: None,
            step: "pull the image".into(),
            since: 1,
            last_error: Some("no route".into()),
            next_try: Some(3_000_000_000),
            unblocks: "a registry that answers".into(),
        };
        Ok(Explanation { view: self.get(key)?, waits: vec![wait] })
    }

    fn events(&self, _: Selector, follow: bool) -> Result<Events, Error> {
        let kept = futures::stream::iter([Ok(event(1)), Ok(event(2))]);
        Ok(if follow { kept.chain(futures::stream::pending()).boxed() } else { kept.boxed() })
    }

    async fn logs(&self, key: &PodKey, options: LogOptions) -> Result<LogLines, Error> {
        self.note(format!("{key} {options:?}"))?;
        let pieces = self.log.lock().unwrap().clone();
        let end = [Err(Error::Log(std::io::Error::other("the disk is gone")))];
        Ok(futures::stream::iter(pieces.into_iter().map(Ok).chain(end)).boxed())
    }

    fn target(&self, key: &PodKey, container: Option<&str>) -> Result<Target, Error> {
        self.get(key)?;
        if let Some(name) = container.filter(|name| *name != "main") {
            let message = "there is none of this name".to_owned();
            return Err(Error::Container { pod: key.clone(), container: name.into(), message });
        }
        let stdin = key.name == "stdin";
        Ok(Target { sandbox: sandbox_id(), container: self::container(), tty: false, stdin })
    }

    fn sandbox(&self, key: &PodKey) -> Result<PodId, Error> {
        self.get(key)?;
        Ok(sandbox_id())
    }

    async fn restart_container(&self, key: &PodKey, container: &str) -> Result<(), Error> {
        self.note(format!("restart {container} of {key}"))
    }

    async fn admit(&self, request: Apply) -> Result<Vec<Admission>, Error> {
        self.note(format!("{request:?}"))?;
        let reason = AdmitReason { reason: "OutOfcpu", message: "too much".into(), shortage: true };
        let admission = |name: &str, reasons| Admission { pod: PodKey::new("x", name), reasons };
        Ok(vec![admission("good", Vec::new()), admission("bad", vec![reason])])
    }

    async fn node(&self) -> Result<NodeView, Error> {
        let node = serde_json::json!({
            "metadata": {"name": "n1"},
            "spec": {"unschedulable": true},
            "status": {
                "capacity": {"cpu": "2"},
                "conditions": [{"type": "Ready", "status": "True"}],
                "images": [{"names": ["a:1"], "sizeBytes": 7}],
            },
        });
        Ok(NodeView { node: serde_json::from_value(node).unwrap() })
    }
}

/// Sessions that do what the first word of the command says.
#[derive(Default)]
pub struct Acts {
    /// Number of running sessions.
    pub running: AtomicUsize,
}

/// Counts a session while it exists.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Sessions for Acts {
    async fn exec(&self, exec: &Exec, mut io: ProcessIo) -> Result<i32, SessionError> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _counted = Counted(&self.running);
        let mut out = io.stdout.take().unwrap();
        match exec.command[0].as_str() {
            "say" => {
                out.write_all(b"out").await.unwrap();
                io.stderr.unwrap().write_all(b"err").await.unwrap();
                return Ok(7);
            }
            "cat" => drop(tokio::io::copy(&mut io.stdin.unwrap(), &mut out).await.unwrap()),
            "sizes" => {
                let mut sizes = io.resize.unwrap();
                for _ in 0..2 {
                    let size = sizes.recv().await.unwrap();
                    let text = format!("{}x{};", size.width, size.height);
                    out.write_all(text.as_bytes()).await.unwrap();
                }
            }
            // Until it is stopped.
            "flood" => {
                let mut input = io.stdin.unwrap();
                let flood = async { while out.write_all(&[7; 8192]).await.is_ok() {} };
                tokio::select! {
                    () = flood => {}
                    _ = input.read_u8() => {}
                }
            }
            "hang" => std::future::pending().await,
            "fail" => {
                return Err(SessionError::Exec(sandbox::Error::NotFound("it".into())));
            }
            other => panic!("no command {other}"),
        }
        Ok(0)
    }

    async fn attach(&self, attach: &Attach, mut io: ProcessIo) -> Result<(), SessionError> {
        assert_eq!(attach.container, container());
        let mut out = io.stdout.take().unwrap();
        out.write_all(b"hello").await.unwrap();
        if let Some(input) = &mut io.stdin {
            tokio::io::copy(input, &mut out).await.unwrap();
        }
        Ok(())
    }

    async fn port_forward(&self, pod: &PodId, port: u16) -> Result<TcpStream, sandbox::Error> {
        assert_eq!(*pod, sandbox_id());
        let refused = |error: std::io::Error| sandbox::Error::NotFound(error.to_string());
        TcpStream::connect(("127.0.0.1", port)).await.map_err(refused)
    }

    async fn port_forward_udp(&self, _: &PodId, port: u16) -> Result<UdpSocket, sandbox::Error> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(("127.0.0.1", port)).await.unwrap();
        Ok(socket)
    }
}

/// No pod runs, but the node can be measured.
struct Still;

#[async_trait]
impl Measure for Still {
    async fn pods(&self, sandboxes: &[PodId]) -> Vec<stats::PodStats> {
        assert!(sandboxes.iter().all(|id| *id == sandbox_id()));
        Vec::new()
    }

    async fn node(&self) -> Option<stats::Usage> {
        let cpu = stats::Cpu { usage: 5, nano_cores: Some(6), pressure: None };
        Some(stats::Usage { at: 1, cpu: Some(cpu), ..stats::Usage::default() })
    }
}

/// An image room that is not used: the service beside this one needs it.
fn images(folder: &std::path::Path) -> Arc<image::Images> {
    let fakes = Fakes::new(folder);
    let options = image::Options::default();
    image::Images::new(fakes.images, fakes.runtime, Tasks::new(), options)
}

/// A running server.
pub struct World {
    folder: tempfile::TempDir,
    pub face: Arc<MadeUp>,
    pub acts: Arc<Acts>,
    pub pods: Pods,
    stop: Option<oneshot::Sender<()>>,
    running: tokio::task::JoinHandle<Result<(), crate::serve::Error>>,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(HubOptions::default()).await
    }

    pub async fn start_with(options: HubOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("podbay.sock");
        let socket = crate::serve::SocketOptions { path, mode: 0o600, gid: None };
        let listener = crate::serve::bind(&socket).await.unwrap();
        let epoch = format!("{:016x}", rand::random::<u64>());
        let face = Arc::new(MadeUp {
            hub: Arc::new(Hub::new(Revision { epoch, number: 100 }, options)),
            asked: Mutex::default(),
            fail: Mutex::default(),
            log: Mutex::default(),
        });
        let acts = Arc::new(Acts::default());
        let services = PodServices {
            face: face.clone(),
            sessions: acts.clone(),
            meters: Arc::new(Still),
            node: "n1".into(),
            images: images(folder.path()),
        };
        let closing = CancellationToken::new();
        let pods = Pods::new(services, closing.clone());
        let routes = Routes::new(crate::serve::pods_door(pods.clone()));
        let (stop, stopped) = oneshot::channel();
        let (_, ready) = watch::channel(true);
        let stopped = async {
            let _ = stopped.await;
        };
        let (incoming, door) = (crate::serve::connections(listener), crate::serve::Door::local());
        let running =
            tokio::spawn(crate::serve::run(incoming, door, routes, ready, closing, stopped));
        Self { folder, face, acts, pods, stop: Some(stop), running }
    }

    pub async fn client(&self) -> PodsClient<Channel> {
        let path = self.folder.path().join("podbay.sock");
        let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
        PodsClient::new(endpoint.connect().await.unwrap())
    }

    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.face.asked.lock().unwrap())
    }

    /// Waits until `wanted` sessions run.
    pub async fn running(&self, wanted: usize) {
        let reached = async {
            while self.acts.running.load(Ordering::SeqCst) != wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, reached).await.expect("the sessions do not run as wanted");
    }

    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        tokio::time::timeout(SOON, self.running).await.unwrap().unwrap().unwrap();
    }
}
