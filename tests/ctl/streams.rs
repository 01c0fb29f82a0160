//! Streams in both directions: logs, exec, attach, port-forward.

use std::os::fd::OwnedFd;

use podbay::proto::podbay::v1::*;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use super::agent::{Agent, PATIENCE, pod};

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_copied_as_they_are() {
    let agent = Agent::start().await;
    agent.state(|state| state.log = b"one\ntwo \xff\x1b[1m\n".to_vec());
    let output = agent.command(&["logs", "pod/web"]).output().await.expect("run");
    assert_eq!(output.stdout, b"one\ntwo \xff\x1b[1m\n");
    let asked = agent.asked();
    assert!(asked.contains("tail_lines: None") && asked.contains("follow: false"), "{asked}");
    let args = [
        "logs",
        "web",
        "app",
        "-f",
        "-p",
        "--tail=3",
        "--since=1h",
        "--timestamps",
        "--limit-bytes",
        "9",
    ];
    agent.run(&args).await.good();
    let asked = agent.asked();
    for wanted in [
        "container: \"app\"",
        "previous: true",
        "follow: true",
        "tail_lines: Some(3)",
        "limit_bytes: Some(9)",
        "seconds: 3600",
        "timestamps: true",
    ] {
        assert!(asked.contains(wanted), "{wanted} in {asked}");
    }
    agent.state(|state| state.pods = vec![pod("default", "web", Phase::Running, true)]);
    agent
        .run(&["logs", "web", "--all-containers", "--since-time", "1970-01-01T00:01:00Z"])
        .await
        .good();
    let asked = agent.asked();
    assert!(asked.contains("container: \"app\"") && asked.contains("seconds: 60"), "{asked}");
    for args in [
        &["logs"][..],
        &["logs", "web", "-c", "a", "--all-containers"],
        &["logs", "web", "--tail=-2"],
        &["logs", "web", "--since=1h", "--since-time=1970-01-01T00:01:00Z"],
        &["logs", "deploy/web"],
    ] {
        agent.run(args).await.bad(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_joins_the_streams_and_ends_as_its_command() {
    let agent = Agent::start().await;
    let script = "cat; echo no >&2; exit 7";
    let args = ["exec", "-i", "web", "-c", "app", "--", "sh", "-c", script];
    let done = agent.run_with(&args, b"hello\n").await;
    let said = "no\ncommand terminated with exit code 7\n";
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, "hello\n", said));
    assert!(agent.asked().contains("stdin: true, tty: false"), "{}", agent.asked());
    let large = vec![b'x'; 3 << 20];
    let done = agent.run_with(&["exec", "-i", "web", "--", "cat"], &large).await;
    assert_eq!(done.good().len(), large.len());
    let done = agent.run_with(&["exec", "web", "--", "cat"], b"unheard").await;
    assert_eq!(done.good(), "", "without -i nothing is sent");
    let old = agent.run(&["exec", "web", "echo", "hi"]).await;
    assert_eq!((old.code, old.out.as_str()), (0, "hi\n"));
    assert!(old.err.starts_with("warning: podbay exec POD COMMAND is deprecated"), "{}", old.err);
    agent.run(&["exec", "web"]).await.bad(2);
    agent.state(|state| state.refusals.insert("Exec", tonic::Status::not_found("no such pod")));
    assert_eq!(agent.run(&["exec", "web", "--", "ls"]).await.bad(3), "error: no such pod\n");
}

/// A terminal: our side and the program's.
fn terminal(columns: u16) -> (OwnedFd, OwnedFd) {
    let size = nix::pty::Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let pair = nix::pty::openpty(&size, None).expect("openpty");
    (pair.master, pair.slave)
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_hands_the_terminal_on_and_gives_it_back() {
    let agent = Agent::start().await;
    let (ours, theirs) = terminal(91);
    let before = rustix::termios::tcgetattr(&theirs).expect("modes");
    let mut command = agent.command(&["exec", "-it", "web", "--", "cat"]);
    command.stdin(theirs.try_clone().expect("clone")).stdout(theirs.try_clone().expect("clone"));
    let mut child = command.spawn().expect("spawn");
    drop(command);
    let mut ours = tokio::fs::File::from_std(ours.into());
    let raw = || {
        let modes = rustix::termios::tcgetattr(&theirs).expect("modes");
        !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !raw() {
        assert!(tokio::time::Instant::now() < deadline, "the terminal does not become raw");
        tokio::task::yield_now().await;
    }
    let asked = agent.asked();
    assert!(asked.contains("tty: true") && asked.contains("width: 91, height: 24"), "{asked}");
    // Raw: ^C is a byte like any other, and there is no echo but the command's.
    ours.write_all(b"a\x03b").await.expect("write");
    let mut echo = [0; 3];
    let read = tokio::time::timeout(PATIENCE, ours.read_exact(&mut echo)).await;
    read.expect("in time").expect("read");
    assert_eq!(&echo, b"a\x03b");
    let size = rustix::termios::Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).expect("resize");
    let id = rustix::process::Pid::from_raw(child.id().expect("id").cast_signed()).expect("id");
    rustix::process::kill_process(id, rustix::process::Signal::WINCH).expect("signal");
    while !agent.asked().contains("width: 100, height: 30") {
        assert!(tokio::time::Instant::now() < deadline, "no resize: {}", agent.asked());
        tokio::task::yield_now().await;
    }
    rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("signal");
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time");
    assert_eq!(status.expect("wait").code(), Some(130));
    let after = rustix::termios::tcgetattr(&theirs).expect("modes");
    assert_eq!(after.local_modes, before.local_modes, "the terminal is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_joins_the_containers_own_streams() {
    let agent = Agent::start().await;
    let done = agent.run_with(&["attach", "-i", "web"], b"hello\n").await;
    assert_eq!(done.good(), "HELLO\n");
    assert!(agent.asked().contains("stdin: true"));
}

/// Starts `port-forward` and reads where it listens.
async fn forwarded(agent: &Agent, args: &[&str]) -> (tokio::process::Child, Vec<String>) {
    let mut line = vec!["port-forward", "web"];
    line.extend(args);
    let mut child = agent.command(&line).spawn().expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut places = Vec::new();
    for _ in args {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("read").expect("a line");
        let place = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(" ->").next());
        places.push(place.expect("a place").trim_end_matches("/udp").to_owned());
    }
    (child, places)
}

#[tokio::test(flavor = "multi_thread")]
async fn port_forward_carries_connections_and_datagrams() {
    let agent = Agent::start().await;
    agent.state(|state| state.pods = vec![pod("default", "web", Phase::Running, true)]);
    let (_child, places) = forwarded(&agent, &[":7", ":9", ":7/udp"]).await;
    let patient = async |work| tokio::time::timeout(PATIENCE, work).await.expect("in time");
    patient(async {
        // A connection that is refused in the pod ends, and takes no other with it.
        let mut refused = TcpStream::connect(&places[1]).await.expect("connect");
        let mut nothing = Vec::new();
        let _ = refused.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
        for _ in 0..2 {
            let mut stream = TcpStream::connect(&places[0]).await.expect("connect");
            let large = vec![b'x'; 300_000];
            let (mut from, mut to) = stream.split();
            let sending = async {
                to.write_all(&large).await.expect("write");
                // The other direction stays open.
                to.shutdown().await.expect("shutdown");
            };
            let mut answer = Vec::new();
            let (_, read) = tokio::join!(sending, from.read_to_end(&mut answer));
            read.expect("read");
            assert_eq!(answer.len(), large.len() + 3);
            assert!(answer.ends_with(b"XXEND"));
        }
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        socket.connect(&places[2]).await.expect("connect");
        for word in ["one", "two"] {
            socket.send(word.as_bytes()).await.expect("send");
            let mut answer = [0; 16];
            let length = socket.recv(&mut answer).await.expect("receive");
            assert_eq!(&answer[..length], word.to_uppercase().as_bytes());
        }
    })
    .await;
    agent.run(&["port-forward", "web", "0"]).await.bad(2);
    agent.run(&["port-forward", "gone", "80"]).await.bad(3);
    let taken = places[0].rsplit(':').next().expect("port").to_owned();
    let fault = agent.run(&["port-forward", "web", &format!("{taken}:7")]).await.bad(1);
    assert!(fault.starts_with(&format!("error: listen on 127.0.0.1:{taken}: ")), "{fault}");
}
