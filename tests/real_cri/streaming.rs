//! Exec, Attach and PortForward with a WebSocket client.

use podbay::proto::runtime::v1 as cri;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::rig::{Rig, SOON, entries};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::{eventually, wait_until};
use crate::websocket::{Session, ask};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";

impl Rig {
    async fn command(&self, id: &str, script: &str, protocol: &str) -> Session {
        Session::open(&self.exec_url(id, script, false).await, protocol).await
    }
}

pub async fn exec_streams_and_codes(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("stream")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    for protocol in [V4, V5] {
        let mut session = rig.command(&id, "echo out; echo err >&2; exit 7", protocol).await;
        assert_eq!(session.code().await, "7");
        assert_eq!((session.text(1).as_str(), session.text(2).as_str()), ("out\n", "err\n"));
        let mut session = rig.command(&id, "true", protocol).await;
        assert_eq!(session.code().await, "0");
    }
    let mut old = rig.command(&id, "exit 7", "channel.k8s.io").await;
    while old.take().await {}
    assert!(old.text(3).contains("exit code 7"), "{}", old.text(3));
    // A missing program fails the session with a word, and leaves nothing.
    let request = cri::ExecRequest {
        container_id: id.clone(),
        cmd: vec!["/no/such/program".to_owned()],
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    for _ in 0..20 {
        let url = rig.runtime().exec(request.clone()).await.expect("Exec").into_inner().url;
        let outcome = Session::open(&url, V4).await.outcome().await;
        assert_eq!(outcome["reason"], "InternalError", "{outcome}");
        let message = outcome["message"].as_str().expect("a message");
        assert!(message.contains("/no/such/program"), "{message}");
    }
    rig.finish().await;
}

pub async fn exec_input_and_its_end(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("input")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let data: Vec<u8> = (0..10u32 << 20).map(|n| (n % 251) as u8).collect();
    let session = rig.command(&id, "cat", V5).await;
    let mut session = session.pass(data.clone()).await;
    assert!(session.channels[1] == data, "{} bytes came back", session.channels[1].len());
    assert_eq!(session.code().await, "0");
    // The end of input alone is told; output still comes after it.
    let mut session = rig.command(&id, "wc -c; echo done", V5).await;
    session.send(0, b"12345").await;
    session.end_input().await;
    assert_eq!(session.code().await, "0");
    assert_eq!(session.text(1), "5\ndone\n");
    // v4 can only say it by leaving; what was sent before is not lost.
    let mut session = rig.command(&id, "cat > /tmp/kept; mv /tmp/kept /tmp/whole", V4).await;
    assert!(session.take().await, "the greeting; unread, it would reset the connection");
    session.send(0, &[b'x'; 1000]).await;
    session.send(0, &[b'x'; 1000]).await;
    drop(session);
    wait_until(SOON, "what was sent is written", async || {
        rig.exec(&id, "wc -c < /tmp/whole 2>/dev/null || true").await == "2000"
    })
    .await;
    // A client that leaves takes its command along.
    let mut session = rig.command(&id, "echo up; exec sleep 4242", V4).await;
    session.until(1, "up").await;
    drop(session);
    wait_until(SOON, "the command is gone", async || {
        !rig.exec(&id, "ps -o args").await.contains("sleep 4242")
    })
    .await;
    rig.finish().await;
}

pub async fn terminals_have_sizes(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("tty")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let url = rig.exec_url(&id, "while read x; do stty size; done", true).await;
    let mut session = Session::open(&url, V4).await;
    for (width, height) in [(132, 43), (80, 24)] {
        session.send(4, format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes()).await;
        session.send(4, b"{\"Width\":65536,\"Height\":65536}").await;
        let words = format!("{height} {width}");
        let asked = eventually(SOON, async || {
            session.send(0, b"\n").await;
            session.take().await;
            session.text(1).contains(&words).then_some(())
        });
        asked.await.unwrap_or_else(|| panic!("no {words}: {}", session.text(1)));
    }
    session.send(0, b"\x04").await;
    assert_eq!(session.code().await, "0");
    // A container with a terminal is attached to with one, and only so.
    let mut spec = Container::script("t", &rig.image, "while read x; do stty size; done").tty();
    spec.config.stdin = true;
    let id = rig.launch(&pod, &spec).await;
    let without = cri::AttachRequest {
        container_id: id.clone(),
        stdin: true,
        tty: false,
        stdout: true,
        stderr: false,
    };
    let refused = rig.runtime().attach(without).await.expect_err("it has a terminal");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let mut session = Session::open(&rig.attach_url(&id, true, true).await, V4).await;
    session.send(4, b"{\"Width\":101,\"Height\":33}").await;
    let asked = eventually(SOON, async || {
        session.send(0, b"\n").await;
        session.take().await;
        session.text(1).contains("33 101").then_some(())
    });
    asked.await.unwrap_or_else(|| panic!("no 33 101: {}", session.text(1)));
    drop(session);
    rig.finish().await;
}

pub async fn many_clients_attach(line: Line) {
    const ROUNDS: usize = 40;
    const LINES: usize = 250;
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("attach")).await;
    // A quarter of a megabyte each time that it is told to, so that who reads keeps up.
    let script = "while read word; do [ $word = end ] && exit 5; \
                  i=100; while [ $i -lt 350 ]; do echo \"$i $PAD\"; i=$((i+1)); done; done";
    let mut spec = Container::script("c", &rig.image, script).env("PAD", &"x".repeat(1000));
    spec.config.stdin = true;
    let id = rig.launch(&pod, &spec).await;
    let stuck = Session::open(&rig.attach_url(&id, false, false).await, V4).await;
    let mut one = Session::open(&rig.attach_url(&id, false, false).await, V4).await;
    let mut two = Session::open(&rig.attach_url(&id, true, false).await, V4).await;
    // The greeting: from here on it listens.
    assert!(one.take().await && two.take().await);
    for round in 1..=ROUNDS {
        two.send(0, b"go\n").await;
        let heard = round * LINES * "100 \n".len() + round * LINES * 1000;
        tokio::join!(one.until_length(1, heard), two.until_length(1, heard));
    }
    for session in [&one, &two] {
        assert!(session.text(1).lines().count() == ROUNDS * LINES);
    }
    wait_until(SOON, "the log has it all", async || {
        entries(&rig.log(&pod, "c")).len() == ROUNDS * LINES
    })
    .await;
    drop(stuck);
    // A client that leaves does not end the input of the container.
    drop(one);
    drop(two);
    let mut late = Session::open(&rig.attach_url(&id, true, false).await, V4).await;
    assert!(late.take().await);
    late.send(0, b"end\n").await;
    assert_eq!(late.outcome().await["status"], "Success", "attach ends with the container");
    assert_eq!(late.text(1), "", "nothing is replayed");
    assert_eq!(rig.ended(&id).await.exit_code, 5);
    rig.finish().await;
}

pub async fn stdin_once_ends_with_its_first_client(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("once")).await;
    let mut spec = Container::script("c", &rig.image, "wc -c; exit 4");
    (spec.config.stdin, spec.config.stdin_once) = (true, true);
    let id = rig.launch(&pod, &spec).await;
    // One that only listens is not the first client of stdin.
    let mut listener = Session::open(&rig.attach_url(&id, false, false).await, V4).await;
    assert!(listener.take().await);
    let mut session = Session::open(&rig.attach_url(&id, true, false).await, V4).await;
    assert!(session.take().await);
    session.send(0, b"1234567").await;
    drop(session);
    listener.until(1, "7").await;
    assert_eq!(rig.ended(&id).await.exit_code, 4);
    rig.finish().await;
}

pub async fn attach_works_after_a_restart(line: Line) {
    let mut rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("again")).await;
    let mut spec = Container::script("c", &rig.image, "while read x; do echo \"got $x\"; done");
    spec.config.stdin = true;
    let id = rig.launch(&pod, &spec).await;
    let mut before = Session::open(&rig.attach_url(&id, true, false).await, V4).await;
    assert!(before.take().await);
    before.send(0, b"one\n").await;
    before.until(1, "got one").await;
    let unused = rig.attach_url(&id, true, false).await;
    rig.agent.stop().await;
    let outcome = before.outcome().await;
    assert_eq!(outcome["reason"], "InternalError", "told that the agent ends: {outcome}");
    rig.agent.restart().await;
    let mut after = Session::open(&rig.attach_url(&id, true, false).await, V4).await;
    assert!(after.take().await);
    after.send(0, b"two\n").await;
    after.until(1, "got two").await;
    drop(after);
    // A URL is the agent's that gave it: another one does not know it.
    let fresh = rig.attach_url(&id, true, false).await;
    let place = |url: &str| url.rsplit_once("/attach/").expect("a URL of attach").0.to_owned();
    let unused = unused.replace(&place(&unused), &place(&fresh));
    assert_eq!(ask(&unused, V4).await.1, 404);
    rig.finish().await;
}

pub async fn urls_are_good_once(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("tokens")).await;
    let id = rig.launch_waiting(&pod, "c").await;
    let url = rig.exec_url(&id, "exit 3", false).await;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(Session::open(&url, V4).await.code().await, "3");
    assert_eq!(ask(&url, V4).await.1, 404, "a replay");
    let url = rig.exec_url(&id, "exit 3", false).await;
    assert_eq!(ask(&url.replace("/exec/", "/attach/"), V4).await.1, 404);
    assert_eq!(ask(&url, V4).await.1, 404, "used up by the wrong operation");
    let stopped = rig.exec_url(&id, "exit 3", false).await;
    rig.stop(&id, 5).await;
    let outcome = Session::open(&stopped, V4).await.outcome().await;
    assert_eq!(outcome["reason"], "InternalError", "it ended in between: {outcome}");
    rig.finish().await;
}

pub async fn ports_of_pods_are_reached(line: Line) {
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    let id = rig.launch_web(&pod).await;
    // The second port refuses; the first does not notice.
    let url = rig.forward_url(&pod, &[8080, 8081]).await.expect("PortForward");
    let mut session = Session::open(&url, V4).await;
    session.until(3, "error forwarding port 8081: ").await;
    session.send(0, b"GET /index.html HTTP/1.0\r\n\r\n").await;
    session.until(0, "hello from the pod").await;
    while session.take().await {}
    let refused = rig.forward_url(&pod, &[0]).await.expect_err("no such port");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    rig.stop(&id, 0).await;
    rig.stop_pod(&pod.id).await;
    let refused = rig.forward_url(&pod, &[8080]).await.expect_err("the pod is stopped");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    rig.finish().await;
}

pub async fn ports_of_the_host_are_reached_unless_forbidden(line: Line) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let rig = Rig::start(line).await;
    let pod = rig.run(rig.pod_spec("node").host_network()).await;
    let url = rig.forward_url(&pod, &[port]).await.expect("PortForward");
    let mut session = Session::open(&url, V4).await;
    let (mut connection, _) = listener.accept().await.expect("the agent connects");
    session.send(0, b"ping").await;
    let mut heard = [0; 4];
    connection.read_exact(&mut heard).await.expect("data");
    assert_eq!(&heard, b"ping");
    connection.write_all(b"pong").await.expect("sent");
    session.until(0, "pong").await;
    drop((session, connection));
    rig.finish().await;
    let mut env = TestEnv::start(line).await;
    env.add_config("[streaming]\nhost_network_port_forward = false");
    let rig = Rig::start_in(env).await;
    let pod = rig.run(rig.pod_spec("node").host_network()).await;
    let refused = rig.forward_url(&pod, &[port]).await.expect_err("it is switched off");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    rig.finish().await;
}
