//! One log line for each change and each denial.

use std::io::Write;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Endpoint;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

use super::super::super::{Door, SocketOptions, bind, connections, run};
use super::world::{Caller, LIMIT, Stub, World};
use crate::proto::podbay::v1::pods_client::PodsClient;
use crate::proto::podbay::v1::pods_server::PodsServer;
use crate::proto::podbay::v1::{
    ApplyRequest, DeleteRequest, ExecRequest, ExecStart, GetRequest, Selector, exec_request,
};

/// What this thread logged with the target `audit`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let events = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone());
        let audit = Targets::new().with_target("audit", tracing::Level::INFO);
        let subscriber = tracing_subscriber::registry().with(events.with_filter(audit));
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Checks that there is exactly one line, with all of these parts.
    fn has(&self, parts: &[&str]) {
        let lines = self.lines();
        let [line] = lines.as_slice() else { panic!("{lines:#?}") };
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?} in {line}");
    }
}

#[tokio::test]
async fn changes_and_denials_leave_one_line_each() {
    let (log, _guard) = Log::start();
    let world = World::start().await;
    let mut caller = world.caller("operate").await;
    caller.call("/podbay.v1.Pods/Get").await.unwrap();
    caller.call("/grpc.health.v1.Health/Check").await.unwrap();
    assert_eq!(log.lines(), Vec::<String>::new(), "reads leave none");

    caller.call("/podbay.v1.Pods/Apply").await.unwrap();
    let line = ["INFO", "change", "cn:operate from 127.0.0.1:", "Pods/Apply", "default/web", "Ok"];
    log.has(&[&line[..], &["dry_run=true"]].concat());
    caller.call("/podbay.v1.Pods/Delete").await.unwrap_err();
    log.has(&["INFO", "change", "cn:operate", "Pods/Delete", "default/*", "NotFound"]);
    caller.call("/podbay.v1.Pods/Exec").await.unwrap_err();
    let line = ["WARN", "denied", "cn:operate", "Pods/Exec", "does not give the role admin"];
    log.has(&[&line[..], &["PermissionDenied"]].concat());
    caller.call("/runtime.v1.RuntimeService/Version").await.unwrap_err();
    log.has(&["WARN", "denied", "cn:operate", "there is no such operation"]);

    // Denied by the handler because of the namespace.
    let mut team = PodsClient::new(world.caller("team").await.0);
    let request = GetRequest { namespace: "team-b".to_owned(), ..Default::default() };
    team.get(request).await.unwrap_err();
    log.has(&["WARN", "denied", "cn:team", "Pods/Get", "team-b", "not yours to view"]);
    world.stop().await;
}

#[tokio::test]
async fn a_denied_call_is_known_by_its_first_message() {
    let (log, _guard) = Log::start();
    let world = World::start().await;
    let mut viewer = PodsClient::new(world.caller("view").await.0);
    let selector = Selector { labels: "app=web".to_owned(), ..Default::default() };
    let request = DeleteRequest { selector: Some(selector), dry_run: true, ..Default::default() };
    viewer.delete(request).await.unwrap_err();
    log.has(&["denied", "Pods/Delete", "*/*, labels app=web", "dry_run=true", "role operate"]);

    let start = ExecStart {
        name: "web".to_owned(),
        command: vec!["hunter2".to_owned()],
        ..Default::default()
    };
    let start = ExecRequest { input: Some(exec_request::Input::Start(start)) };
    // The caller keeps its stream open.
    let talk = futures::stream::iter([start]).chain(futures::stream::pending());
    viewer.exec(talk).await.unwrap_err();
    let lines = log.lines();
    assert!(lines.len() == 1 && lines[0].contains("default/web"), "{lines:?}");
    assert!(!lines[0].contains("hunter2"), "{lines:?}");

    // Too large, empty, and unparsable: the same decision.
    let manifest = "x".repeat(1 << 20);
    viewer.apply(ApplyRequest { manifest, ..Default::default() }).await.unwrap_err();
    log.has(&["denied", "Pods/Apply", "role operate"]);
    viewer.exec(futures::stream::empty()).await.unwrap_err();
    log.has(&["denied", "Pods/Exec", "role admin"]);
    let denied = viewer.exec(futures::stream::pending()).await.unwrap_err();
    assert_eq!(denied.code(), tonic::Code::PermissionDenied);
    log.has(&["denied", "Pods/Exec", "role admin"]);
    world.stop().await;
}

#[tokio::test]
async fn a_change_is_written_down_also_when_its_caller_leaves() {
    let (log, _guard) = Log::start();
    let world = World::start().await;
    let mut caller = world.caller("operate").await;
    let never = caller.call("/podbay.v1.Pods/RestartContainer");
    tokio::time::timeout(std::time::Duration::from_millis(300), never).await.unwrap_err();
    world.until(async || !log.0.lock().unwrap().is_empty()).await;
    log.has(&["INFO", "cn:operate", "RestartContainer", "default/slow", "the caller left"]);
    world.stop().await;
}

#[tokio::test]
async fn everybody_on_the_unix_socket_is_an_admin() {
    let (log, _guard) = Log::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("podbay.sock");
    let options = SocketOptions { path: path.clone(), mode: 0o600, gid: None };
    let incoming = connections(bind(&options).await.unwrap());
    let (_ready, ready) = watch::channel(true);
    let closing = CancellationToken::new();
    let stop = closing.clone();
    let routes = Routes::new(PodsServer::new(Stub));
    let server = tokio::spawn(async move {
        let stopped = stop.clone().cancelled_owned();
        run(incoming, Door::local(), routes, ready, stop, stopped).await
    });
    let endpoint = Endpoint::from_static("http://local");
    let connect = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move {
            let stream = UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let mut caller = Caller(endpoint.connect_with_connector(connect).await.unwrap());
    for path in ["Get", "Exec", "List"] {
        let path: &'static str = format!("/podbay.v1.Pods/{path}").leak();
        caller.call(path).await.unwrap();
    }
    let uid = format!("uid {} pid {}", nix::unistd::getuid(), std::process::id());
    log.has(&["INFO", "change", &uid, "Pods/Exec"]);
    drop(caller);
    closing.cancel();
    tokio::time::timeout(LIMIT, server).await.unwrap().unwrap().unwrap();
}
