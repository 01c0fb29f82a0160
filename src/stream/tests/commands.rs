//! Exec and attach over WebSocket.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::world::*;
use crate::ids::ContainerId;
use crate::stream::{Attach, Request, Streams};

#[tokio::test]
async fn outputs_and_the_outcome_have_their_channels() {
    let world = World::start().await;
    let outputs = Streams { stdin: false, ..ALL };
    let mut client = world.exec("v4.channel.k8s.io", "say", outputs).await;
    let channels = client.all().await;
    let [stdout, stderr, error] =
        [1, 2, 3].map(|n| String::from_utf8_lossy(&channels[n]).into_owned());
    assert_eq!((stdout.as_str(), stderr.as_str()), ("out", "err"));
    assert_eq!(error, r#"{"metadata":{},"status":"Success"}"#);
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let mut client = world.exec(protocol, "exit 7", outputs).await;
        let status = client.status().await;
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["reason"], "ExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
    }
    let status = world.exec("v4.channel.k8s.io", "fail abc", outputs).await.status().await;
    assert_eq!(status["reason"], "InternalError");
    assert!(status["message"].as_str().expect("a message").contains("abc"), "{status}");
}

#[tokio::test]
async fn old_protocols_say_nothing_of_success() {
    let world = World::start().await;
    let outputs = Streams { stdin: false, ..ALL };
    for protocol in ["", "channel.k8s.io", "base64.channel.k8s.io"] {
        let channels = world.exec(protocol, "exit 0", outputs).await.all().await;
        assert!(channels[3].is_empty(), "{protocol}");
        let channels = world.exec(protocol, "exit 7", outputs).await.all().await;
        assert!(!channels[3].is_empty() && channels[3][0] != b'{', "{protocol}");
    }
}

#[tokio::test]
async fn the_first_message_says_that_all_is_set_up() {
    let world = World::start().await;
    let only = |stdin, stdout, stderr| Streams { stdin, stdout, stderr, tty: false };
    for (streams, channel) in
        [(only(true, true, true), 1), (only(true, false, true), 2), (only(true, false, false), 3)]
    {
        let mut client = world.exec("v4.channel.k8s.io", "hang", streams).await;
        assert_eq!(client.next().await.expect("a message"), [channel]);
    }
    let mut client = world.exec("v4.base64.channel.k8s.io", "hang", ALL).await;
    assert_eq!(client.next().await.expect("a message"), *b"1");
}

#[tokio::test]
async fn ten_megabytes_go_there_and_back() {
    let world = World::start().await;
    let client = world.exec("v5.channel.k8s.io", "cat", ALL).await;
    let data: Vec<u8> = (0..10 << 20).map(|n: u32| (n % 251) as u8).collect();
    let mut echoed = Vec::new();
    let mut status = Vec::new();
    let mut pieces = data.chunks(30_000);
    let mut closed = false;
    let (mut sink, mut source) = futures::StreamExt::split(client.0);
    let sending = async {
        for piece in &mut pieces {
            let mut message = vec![0];
            message.extend_from_slice(piece);
            sink.send(Message::Binary(message.into())).await.expect("sent");
        }
        sink.send(Message::Binary(Bytes::from_static(&[255, 0]))).await.expect("sent");
        closed = true;
    };
    let receiving = async {
        while let Some(Ok(message)) = futures::StreamExt::next(&mut source).await {
            let Message::Binary(bytes) = message else { continue };
            match bytes[0] {
                1 => echoed.extend_from_slice(&bytes[1..]),
                3 => status.extend_from_slice(&bytes[1..]),
                other => panic!("channel {other}"),
            }
        }
    };
    tokio::join!(sending, receiving);
    assert!(closed && echoed == data, "{} bytes came back", echoed.len());
    assert_eq!(status, br#"{"metadata":{},"status":"Success"}"#);
}

#[tokio::test]
async fn text_messages_carry_base64() {
    let world = World::start().await;
    let mut client = world.exec("v4.base64.channel.k8s.io", "cat", ALL).await;
    assert_eq!(client.next().await.expect("a greeting"), *b"1");
    client.send_text("0aGVsbG8=").await;
    assert_eq!(client.next().await.expect("an echo"), *b"1aGVsbG8=");
    client.send_text("0not base64").await;
    while client.next().await.is_some() {}
    world.no_session_runs().await;
}

#[tokio::test]
async fn only_v5_closes_a_channel() {
    let world = World::start().await;
    let mut client = world.exec("v5.channel.k8s.io", "cat", ALL).await;
    client.send(b"\0hello").await;
    client.send(&[255, 0]).await;
    client.send(b"\0too late").await;
    let channels = client.all().await;
    assert_eq!(channels[1], b"hello");
    let mut client = world.exec("v4.channel.k8s.io", "cat", ALL).await;
    client.send(&[255, 0]).await;
    client.send(b"\0still heard").await;
    assert_eq!(client.next().await.expect("a greeting"), [1]);
    assert_eq!(client.next().await.expect("an echo"), *b"\x01still heard");
    for bad in [&[255][..], &[255, 9], &[255, 0, 0]] {
        let outputs = Streams { stdin: false, ..ALL };
        let mut client = world.exec("v5.channel.k8s.io", "hang", outputs).await;
        client.send(bad).await;
        while client.next().await.is_some() {}
    }
    drop(client);
    world.no_session_runs().await;
}

#[tokio::test]
async fn what_a_client_sent_before_it_left_is_read() {
    let world = World::start().await;
    for command in [
        exec("count", Streams { stdin: true, stdout: true, stderr: false, tty: false }),
        Request::Attach(Attach { container: ContainerId::random(), streams: ALL }),
    ] {
        world.sessions.read.store(0, Ordering::SeqCst);
        let path = world.path(command);
        let mut client = world.websocket(&path, "v4.channel.k8s.io").await;
        // Unread messages would make the client's kernel reset the connection.
        client.next().await.expect("a greeting");
        let mut message = vec![0];
        message.resize(300_001, b'x');
        client.send(&message).await;
        drop(client);
        world.wait("all is read", |made_up| made_up.read.load(Ordering::SeqCst) == 300_000).await;
        world.no_session_runs().await;
    }
}

#[tokio::test]
async fn a_gone_client_ends_its_session() {
    let world = World::start().await;
    for (command, streams) in
        [("hang", Streams { stdin: false, ..ALL }), ("hang", TTY), ("hang", ALL), ("sizes", TTY)]
    {
        let mut client = world.exec("v4.channel.k8s.io", command, streams).await;
        client.next().await.expect("a greeting");
        drop(client);
        world.no_session_runs().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_its_own_process_alone() {
    let world = World::start().await;
    let _stuck = world.exec("v4.channel.k8s.io", "flood", ALL).await;
    let mut other = world.exec("v4.channel.k8s.io", "exit 3", ALL).await;
    assert_eq!(other.status().await["reason"], "NonZeroExitCode");
    // Unread input does not delay the result either.
    let mut deaf = world.exec("v5.channel.k8s.io", "exit 4", ALL).await;
    for _ in 0..40 {
        let message = Message::Binary(vec![0; 60_000].into());
        if deaf.0.send(message).await.is_err() {
            break;
        }
    }
    assert_eq!(deaf.status().await["details"]["causes"][0]["message"], "4");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_reads_is_disconnected_at_the_end() {
    let world = World::start_bounded(Duration::from_secs(60), 1).await;
    let _stuck = world.exec("v4.channel.k8s.io", "flood", ALL).await;
    let next = || websocket_request(&world.path(exec("exit 0", ALL)), "v4.channel.k8s.io");
    world.admitted(Duration::from_secs(300), next).await;
}

#[tokio::test]
async fn sizes_are_handed_on_and_nonsense_is_not() {
    let world = World::start().await;
    let mut client = world.exec("v4.channel.k8s.io", "sizes", TTY).await;
    client.next().await.expect("a greeting");
    for nonsense in ["{\"Width\":65536,\"Height\":65536}", "{\"Width\":-1,\"Height\":1}", "]", ""] {
        client.send(format!("\x04{nonsense}").as_bytes()).await;
    }
    client.send(b"\x04{\"Width\":0,\"Height\":0}").await;
    client.send(b"\x04{\"Width\":80,\"Height\":24}").await;
    assert_eq!(client.next().await.expect("a size"), *b"\x0180x24;");
    client.send(b"\x04{\"Width\":132,\"Hei").await;
    client.send(b"\x04ght\":43}\n").await;
    assert_eq!(client.next().await.expect("a size"), *b"\x01132x43;");
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_session() {
    let world = World::start().await;
    let unmasked = b"\x82\x02\x00x".to_vec();
    let huge = [&b"\x82\xff\x80\0\0\0\0\0\0\0"[..], &[1, 2, 3, 4]].concat();
    let too_long = [&b"\x82\xff\0\0\0\0\x02\0\0\x01"[..], &[1, 2, 3, 4]].concat();
    let reserved = b"\xf2\x80\x01\x02\x03\x04".to_vec();
    let long_ping = [&b"\x89\xfe\x01\0"[..], &[0; 260]].concat();
    for bytes in [unmasked, huge, too_long, reserved, long_ping] {
        let path = world.path(exec("hang", Streams { stdin: false, ..ALL }));
        let (mut connection, head) =
            world.raw(&websocket_request(&path, "v4.channel.k8s.io")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        connection.write_all(&bytes).await.expect("a frame");
        read_rest(&mut connection).await;
        world.no_session_runs().await;
    }
}

#[tokio::test]
async fn channels_that_nobody_has_are_ignored() {
    let world = World::start().await;
    let mut client = world.exec("v4.channel.k8s.io", "cat", ALL).await;
    client.next().await.expect("a greeting");
    for channel in [1, 2, 3, 4, 5, 77, 255] {
        client.send(&[channel, b'x']).await;
    }
    client.send(b"").await;
    client.send(b"\0y").await;
    assert_eq!(client.next().await.expect("an echo"), *b"\x01y");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_ended_with_a_word() {
    let world = World::start_with(Duration::from_secs(600)).await;
    let started = tokio::time::Instant::now();
    let mut client = world.exec("v4.channel.k8s.io", "hang", ALL).await;
    let next = async {
        // The test harness's own limit uses the same clock.
        loop {
            match futures::StreamExt::next(&mut client.0).await {
                Some(Ok(Message::Binary(bytes))) if bytes[0] == 3 => break bytes,
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    let status = String::from_utf8_lossy(&next.await[1..]).into_owned();
    assert!(status.contains("the session was idle for 10m"), "{status}");
    assert!(started.elapsed() >= Duration::from_secs(600));
    drop(client);
    world.no_session_runs().await;
}
