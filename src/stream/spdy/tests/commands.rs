//! Exec and attach over SPDY.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, Seen, connect};
use crate::model::streams::TerminalSize;
use crate::stream::spdy::{
    Agreement, Incoming, Limits, NotStarted, RemoteCommand, Version, remote_command,
};

fn agreement(version: Version, streams: &str) -> Agreement {
    Agreement {
        version,
        stdin: streams.contains('i'),
        stdout: streams.contains('o'),
        stderr: streams.contains('e'),
        tty: streams.contains('t'),
        creation: Duration::from_secs(30),
    }
}

/// Opens the streams in this order and waits for the command.
async fn begin(
    client: &mut Client,
    incoming: Incoming,
    agreement: Agreement,
    kinds: &[&str],
) -> RemoteCommand {
    let command = tokio::spawn(remote_command(incoming, agreement));
    for (number, kind) in kinds.iter().enumerate() {
        let id = 2 * number as u32 + 1;
        assert_eq!(client.open_typed(id, kind).await, Seen::Reply(id), "{kind}");
    }
    command.await.unwrap().unwrap()
}

#[test]
fn versions_have_the_names_of_the_go_server() {
    for version in Version::ALL {
        assert_eq!(Version::from_name(version.name()), Some(version));
    }
    assert_eq!(Version::ALL[0].name(), "v4.channel.k8s.io");
    assert_eq!(Version::from_name(""), Some(Version::V1));
    assert_eq!(Version::from_name("v5.channel.k8s.io"), None);
}

#[tokio::test]
async fn a_command_has_its_streams_and_tells_its_end() {
    let (mut client, incoming, run) = connect(Limits::default());
    let kinds = ["error", "stdin", "stdout", "stderr"];
    let command = begin(&mut client, incoming, agreement(Version::V4, "ioe"), &kinds).await;
    let RemoteCommand { mut io, errors, gone, background } = command;
    assert!(!io.tty && io.resize.is_none());
    client.data(3, b"in", true).await;
    let mut text = String::new();
    io.stdin.as_mut().unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "in");
    io.stdout.as_mut().unwrap().write_all(b"out").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(5, b"out".to_vec(), false));
    io.stderr.as_mut().unwrap().write_all(b"err").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(7, b"err".to_vec(), false));
    drop(io);
    errors.finish(br#"{"status":"Success"}"#).await.unwrap();
    drop(background);
    let mut ends: Vec<_> = [client.next().await, client.next().await, client.next().await].into();
    ends.sort_by_key(|seen| format!("{seen:?}"));
    let fin = |id| Seen::Data(id, Vec::new(), true);
    assert_eq!(ends, [fin(3), fin(5), fin(7)]);
    assert_eq!(client.next().await, Seen::Data(1, br#"{"status":"Success"}"#.to_vec(), true));
    assert_eq!(client.next().await, Seen::GoAway(7, 0));
    drop(client);
    run.await.unwrap().unwrap();
    assert!(gone.is_cancelled());
}

#[tokio::test]
async fn an_old_client_without_errors_reads_an_empty_error_stream() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let kinds = ["stdout", "error"];
    let command = begin(&mut client, incoming, agreement(Version::V1, "o"), &kinds).await;
    assert!(command.io.stdin.is_none() && command.io.stderr.is_none());
    command.errors.finish(b"").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(3, Vec::new(), true));
}

#[tokio::test]
async fn stdin_is_not_ended_before_the_command() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let command =
        begin(&mut client, incoming, agreement(Version::V4, "i"), &["error", "stdin"]).await;
    client.control(6, &1_u32.to_be_bytes()).await;
    assert_eq!(client.next().await, Seen::Ping(1), "no end of stdin yet");
    drop(command.io);
    assert_eq!(client.next().await, Seen::Data(3, Vec::new(), true));
}

#[tokio::test]
async fn sizes_of_the_terminal_arrive() {
    let (mut client, incoming, _run) = connect(Limits::default());
    // A client may open a stderr stream although a terminal has none.
    let kinds = ["error", "stderr", "stdout", "resize"];
    let agreed = agreement(Version::V3, "oet");
    let mut command = begin(&mut client, incoming, agreed, &kinds).await;
    assert!(command.io.tty && command.io.stderr.is_none());
    let sizes = command.io.resize.as_mut().unwrap();
    client.data(7, b"{\"Width\":80,\"Height\":24}\n{\"Wid", false).await;
    assert_eq!(sizes.recv().await, Some(TerminalSize { width: 80, height: 24 }));
    client.data(7, b"th\":0,\"Height\":9}{\"Width\":65535,\"Height\":1}", false).await;
    assert_eq!(sizes.recv().await, Some(TerminalSize { width: 65535, height: 1 }));
    client.data(7, b" {\"Width\":2,\"Height\":3}{\"Width\":65536,\"Height\":1}", false).await;
    assert_eq!(sizes.recv().await, Some(TerminalSize { width: 2, height: 3 }));
}

#[tokio::test]
async fn sizes_that_are_no_sizes_are_passed_over() {
    for nonsense in [&b"[1]"[..], b"{\"Width\":-1,\"Height\":1}", &[b' '; 5_000], b"\xff\xff"] {
        let (mut client, incoming, _run) = connect(Limits::default());
        let kinds = ["error", "stdout", "resize"];
        let agreed = agreement(Version::V4, "ot");
        let mut command = begin(&mut client, incoming, agreed, &kinds).await;
        client.data(5, nonsense, false).await;
        let size = TerminalSize { width: 80, height: 24 };
        let resize = command.io.resize.as_mut().unwrap();
        let heard = async {
            // A valid piece that arrives together with invalid data is dropped with it.
            loop {
                client.data(5, b"{\"Width\":80,\"Height\":24}", false).await;
                let heard = tokio::time::timeout(Duration::from_millis(100), resize.recv()).await;
                if let Ok(heard) = heard {
                    return heard;
                }
            }
        };
        assert_eq!(heard.await, Some(size));
    }
}

#[tokio::test]
async fn old_versions_wait_for_no_resize() {
    for version in [Version::V1, Version::V2] {
        let (mut client, incoming, _run) = connect(Limits::default());
        let kinds = ["error", "stdout"];
        let command = begin(&mut client, incoming, agreement(version, "ot"), &kinds).await;
        assert!(command.io.resize.is_none() && command.io.tty);
    }
}

#[tokio::test]
async fn doubled_and_unknown_streams_are_refused() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let command = tokio::spawn(remote_command(incoming, agreement(Version::V4, "o")));
    assert_eq!(client.open_typed(1, "error").await, Seen::Reply(1));
    assert_eq!(client.open_typed(3, "error").await, Seen::Reset(3, 3));
    assert_eq!(client.open_typed(5, "data").await, Seen::Reset(5, 3));
    client.open(7, &[("port", "80")]).await;
    assert_eq!(client.next().await, Seen::Reset(7, 3));
    // Not agreed on: accepted and ignored.
    assert_eq!(client.open_typed(9, "stdin").await, Seen::Reply(9));
    client.data(9, &vec![0; 4 << 20], false).await;
    assert_eq!(client.open_typed(11, "stdout").await, Seen::Reply(11));
    let command = command.await.unwrap().unwrap();
    assert!(command.io.stdin.is_none());
    assert_eq!(client.open_typed(13, "stderr").await, Seen::Reset(13, 3));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_opens_too_little_is_told_so() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let command = tokio::spawn(remote_command(incoming, agreement(Version::V4, "ioe")));
    let start = tokio::time::Instant::now();
    assert_eq!(client.open_typed(1, "error").await, Seen::Reply(1));
    assert_eq!(client.open_typed(3, "stdout").await, Seen::Reply(3));
    let error = command.await.unwrap().err().unwrap();
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(
        error.to_string(),
        "timed out waiting for the client to create streams: no stdin, no stderr"
    );
    let NotStarted::TimedOut { errors: Some(errors), .. } = error else { panic!("{error:?}") };
    errors.finish(b"too late").await.unwrap();
    let mut seen = vec![client.next().await, client.next().await];
    seen.sort_by_key(|seen| format!("{seen:?}"));
    let late = Seen::Data(1, b"too late".to_vec(), true);
    assert_eq!(seen, [late, Seen::Data(3, Vec::new(), true)]);
}

#[tokio::test]
async fn a_client_that_leaves_early_is_not_waited_for() {
    let (mut client, incoming, _run) = connect(Limits::default());
    let command = tokio::spawn(remote_command(incoming, agreement(Version::V4, "o")));
    assert_eq!(client.open_typed(1, "error").await, Seen::Reply(1));
    drop(client);
    assert!(matches!(command.await.unwrap(), Err(NotStarted::Gone)));
}
