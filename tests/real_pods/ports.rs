//! Port-forward into pods.

use std::process::Command;

use podbay::proto::podbay::v1 as api;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::rig::{Rig, SOON, pod};
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::images::ImageBuilder;

/// Sends each datagram back with its length before it. No applet of busybox answers datagrams.
const ECHO: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
static char text[70000];
int main(void) {
    int s = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in here = { AF_INET, htons(5353), { htonl(INADDR_LOOPBACK) } }, from;
    if (bind(s, (struct sockaddr *)&here, sizeof here)) return 1;
    puts("listening");
    fflush(stdout);
    for (;;) {
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(s, text + 6, 65536, 0, (struct sockaddr *)&from, &length);
        if (n < 0) return 2;
        char head[32];
        snprintf(head, sizeof head, "%05zd:", n);
        memcpy(text, head, 6);
        if (sendto(s, text, n + 6, 0, (struct sockaddr *)&from, length) < 0) return 3;
    }
}
"#;

/// The program, linked statically: the image has no libraries.
fn echo() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let (source, program) = (folder.path().join("echo.c"), folder.path().join("echo"));
    std::fs::write(&source, ECHO).expect("the source");
    let mut compile = Command::new("cc");
    compile.args(["-static", "-O1", "-o"]).arg(&program).arg(&source);
    assert!(compile.status().expect("a compiler").success(), "the echo does not compile");
    std::fs::read(&program).expect("the program")
}

struct Flow {
    to: mpsc::Sender<api::PortForwardRequest>,
    from: Streaming<api::PortForwardResponse>,
}

impl Flow {
    async fn open(rig: &Rig, name: &str, port: u32) -> Self {
        let (to, requests) = mpsc::channel(8);
        let start = api::PortForwardStart {
            namespace: String::new(),
            name: name.to_owned(),
            port,
            protocol: api::Protocol::Udp.into(),
        };
        let input = Some(api::port_forward_request::Input::Start(start));
        to.send(api::PortForwardRequest { input }).await.expect("sent");
        let answers = rig.pods().port_forward(ReceiverStream::new(requests)).await;
        let mut flow = Self { to, from: answers.expect("a flow").into_inner() };
        let first = flow.next().await;
        assert!(matches!(first, Some(api::port_forward_response::Output::Started(_))), "{first:?}");
        flow
    }

    async fn send(&self, data: &[u8]) {
        let input = Some(api::port_forward_request::Input::Data(data.to_vec()));
        self.to.send(api::PortForwardRequest { input }).await.expect("sent");
    }

    async fn next(&mut self) -> Option<api::port_forward_response::Output> {
        let message = tokio::time::timeout(SOON, self.from.message()).await.expect("in time");
        message.expect("an answer").and_then(|answer| answer.output)
    }

    async fn datagram(&mut self) -> Vec<u8> {
        match self.next().await {
            Some(api::port_forward_response::Output::Data(data)) => data,
            other => panic!("no datagram: {other:?}"),
        }
    }
}

pub async fn datagrams_reach_a_pod(line: Line) {
    let image = ImageBuilder::busybox().file("/bin/echo-udp", &echo(), 0o755);
    let rig = Rig::start_in(TestEnv::start(line).await, image).await;
    rig.apply(&pod("echo", &[rig.script("a", "exec /bin/echo-udp")], json!({}))).await;
    rig.log_has("echo", "a", "listening").await;
    // Two callers at once, each with its own answers, and each datagram whole.
    let mut one = Flow::open(&rig, "echo", 5353).await;
    let mut two = Flow::open(&rig, "echo", 5353).await;
    one.send(b"from one").await;
    two.send(b"from two").await;
    assert_eq!(two.datagram().await, b"00008:from two");
    assert_eq!(one.datagram().await, b"00008:from one");
    for text in [&b"a"[..], b"", b"bc"] {
        one.send(text).await;
    }
    for answer in [&b"00001:a"[..], b"00000:", b"00002:bc"] {
        assert_eq!(one.datagram().await, answer);
    }
    let large = vec![b'x'; 60_000];
    one.send(&large).await;
    assert_eq!(one.datagram().await, [&b"60000:"[..], &large].concat());
    // Nobody is there.
    let mut none = Flow::open(&rig, "echo", 5354).await;
    none.send(b"hello?").await;
    let refused = tokio::time::timeout(SOON, none.from.message()).await.expect("in time");
    assert_eq!(refused.expect_err("nobody listens").code(), tonic::Code::Unavailable);
    drop((one, two, none));
    rig.delete("echo", Some(1)).await;
    rig.gone("echo").await;
    rig.agent.assert_clean().await;
}
