use std::sync::Mutex;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ExecAction, HTTPHeader, PodSpec, SleepAction, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::*;
use crate::pod::handler::ExecEnd;
use crate::pod::handler::testing::{Reply, serve};

struct Commands(fn() -> Result<ExecEnd, ExecError>, Mutex<Vec<(Vec<String>, Option<Duration>)>>);

#[async_trait]
impl Exec for Commands {
    async fn exec_sync(
        &self,
        _: &ContainerId,
        command: &[String],
        limit: Option<Duration>,
    ) -> Result<ExecEnd, ExecError> {
        self.1.lock().unwrap().push((command.to_vec(), limit));
        (self.0)()
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// Runs a hook of container `web` of pod `shop`, and returns the reports.
async fn go(
    handler: &LifecycleHandler,
    commands: Arc<Commands>,
) -> (Result<(), String>, Vec<Report>) {
    let text = |text: &str| Some(text.to_owned());
    let pod = Pod {
        metadata: ObjectMeta {
            name: text("shop"),
            namespace: text("default"),
            uid: text("u-1"),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        ..Pod::default()
    };
    let container = Container { name: "web".to_owned(), ..Container::default() };
    let reports = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reports);
    let report: Reporter = Arc::new(move |report| told.lock().unwrap().push(report));
    let (exec, id): (Arc<dyn Exec>, _) = (commands, ContainerId::random());
    let ctx = Context {
        pod: &pod,
        container: &container,
        container_id: &id,
        pod_ip: Some("127.0.0.1"),
        exec: &exec,
        report: &report,
    };
    let result = run(handler, &ctx).await.map_err(|error| error.to_string());
    let reports = reports.lock().unwrap().clone();
    (result, reports)
}

fn commands(end: fn() -> Result<ExecEnd, ExecError>) -> Arc<Commands> {
    Arc::new(Commands(end, Mutex::default()))
}

fn idle() -> Arc<Commands> {
    commands(|| panic!("no command is to be run"))
}

#[tokio::test]
async fn exec_hooks_fail_by_their_exit_code() {
    let command = Some(words(&["sh", "-c", "echo $(A)"]));
    let hook =
        LifecycleHandler { exec: Some(ExecAction { command }), ..LifecycleHandler::default() };
    let good = commands(|| Ok(ExecEnd::default()));
    assert_eq!(go(&hook, Arc::clone(&good)).await.0, Ok(()));
    // No variables are expanded and there is no time limit.
    assert_eq!(*good.1.lock().unwrap(), [(words(&["sh", "-c", "echo $(A)"]), None)]);
    let bad = commands(|| Ok(ExecEnd { code: 3, output: b"no \"luck\"\n".to_vec() }));
    assert_eq!(
        go(&hook, bad).await.0.unwrap_err(),
        "Exec lifecycle hook ([sh -c echo $(A)]) for Container \"web\" in Pod \
         \"shop_default(u-1)\" failed - error: command 'sh -c echo $(A)' exited with 3, message: \
         \"no \\\"luck\\\"\\n\""
    );
    let broken = commands(|| Err(ExecError::Other("no such container".to_owned())));
    let said = go(&hook, broken).await.0.unwrap_err();
    assert!(said.ends_with("failed - error: no such container, message: \"\""), "{said}");
}

#[tokio::test]
async fn an_http_hook_fails_only_when_nobody_answers() {
    let server =
        serve(|_| Reply::Whole("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned())).await;
    let hook = http(server.port, "HTTP");
    assert_eq!(go(&hook, idle()).await, (Ok(()), Vec::new()));
    assert!(server.heads()[0].contains("User-Agent: kube-lifecycle/1.37\r\n"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(
        go(&http(port, "HTTP"), idle()).await.0.unwrap_err(),
        format!(
            "HTTP lifecycle hook (/bye) for Container \"web\" in Pod \"shop_default(u-1)\" \
             failed - error: Get \"http://127.0.0.1:{port}/bye\": dial tcp 127.0.0.1:{port}: \
             connect: connection refused"
        )
    );
}

fn http(port: u16, scheme: &str) -> LifecycleHandler {
    let header = |name: &str| HTTPHeader { name: name.to_owned(), value: "x".to_owned() };
    let get = HTTPGetAction {
        path: Some("/bye".to_owned()),
        port: IntOrString::Int(port.into()),
        scheme: Some(scheme.to_owned()),
        http_headers: Some(vec![header("Authorization"), header("X-Mine")]),
        ..HTTPGetAction::default()
    };
    LifecycleHandler { http_get: Some(get), ..LifecycleHandler::default() }
}

#[tokio::test]
async fn who_does_not_speak_tls_is_asked_without_it_and_without_secrets() {
    let server = serve(|head| match head.starts_with("GET ") {
        true => Reply::ok("plain"),
        false => Reply::Whole("HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n".to_owned()),
    });
    let server = server.await;
    let (result, reports) = go(&http(server.port, "HTTPS"), idle()).await;
    assert_eq!(result, Ok(()));
    let head = &server.heads()[1];
    assert!(head.starts_with("GET /bye ") && head.contains("X-Mine: x"), "{head}");
    assert!(!head.contains("Authorization"), "{head}");
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].reason, "LifecycleHTTPFallback");
    assert_eq!(
        reports[0].message,
        format!(
            "request to HTTPS lifecycle hook 127.0.0.1:{} got HTTP response, retry with HTTP \
             succeeded",
            server.port
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_sleep_hook_sleeps() {
    let hook = |seconds| LifecycleHandler {
        sleep: Some(SleepAction { seconds }),
        ..LifecycleHandler::default()
    };
    for (seconds, lasts) in [(0, 0), (7, 7), (-1, 0)] {
        let begin = tokio::time::Instant::now();
        assert_eq!(go(&hook(seconds), idle()).await.0, Ok(()));
        assert_eq!(begin.elapsed().as_secs(), lasts);
    }
}

#[tokio::test]
async fn there_is_no_hook_by_tcp() {
    let socket = TCPSocketAction { port: IntOrString::Int(80), host: None };
    let hook = LifecycleHandler { tcp_socket: Some(socket), ..LifecycleHandler::default() };
    let said = go(&hook, idle()).await.0.unwrap_err();
    assert_eq!(said, "Cannot run handler: invalid handler: tcpSocket");
    assert!(go(&LifecycleHandler::default(), idle()).await.0.is_err());
}

#[test]
fn events_do_not_quote_what_the_application_says() {
    assert_eq!(Moment::PostStart.reason(), "FailedPostStartHook");
    assert_eq!(Moment::PostStart.message(), "PostStartHook failed");
    assert_eq!(Moment::PreStop.reason(), "FailedPreStopHook");
    assert_eq!(Moment::PreStop.message(), "PreStopHook failed");
}
