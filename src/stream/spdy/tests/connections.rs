//! The lifecycle of connections and streams.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Seen, connect, control, syn_stream, words};
use crate::stream::spdy::{Error, Limits, Violation};

#[tokio::test]
async fn both_directions_end_on_their_own() {
    let (mut client, mut incoming, run) = connect(Limits::default());
    client.open(1, &[("streamtype", "stdin")]).await;
    let new = incoming.next().await.unwrap();
    assert_eq!((new.id(), new.headers.get("streamtype")), (1, Some("stdin")));
    let mut stream = new.accept();
    assert_eq!(client.next().await, Seen::Reply(1));
    client.data(1, b"ask", false).await;
    client.data(1, b"", true).await;
    let mut asked = String::new();
    stream.read_to_string(&mut asked).await.unwrap();
    assert_eq!(asked, "ask");
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(client.read_all(1).await, b"answer");
    let late = stream.write_all(b"more").await.unwrap_err();
    assert_eq!(late.kind(), std::io::ErrorKind::BrokenPipe);
    drop(stream);
    assert_eq!(incoming.open_streams(), 0);
    drop(incoming);
    assert_eq!(client.next().await, Seen::GoAway(1, 0));
    assert_eq!(client.next().await, Seen::Closed);
    drop(client);
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn data_may_come_before_the_stream_is_accepted() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    client.open(1, &[]).await;
    client.data(1, b"early", true).await;
    client.control(6, &words(&[1])).await;
    assert_eq!(client.next().await, Seen::Ping(1));
    let mut text = String::new();
    incoming.next().await.unwrap().accept().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "early");
}

#[tokio::test]
async fn unwanted_streams_are_refused() {
    let (mut client, mut incoming, _run) = connect(Limits { streams: 2, ..Limits::default() });
    client.open(1, &[]).await;
    drop(incoming.next().await.unwrap());
    assert_eq!(client.next().await, Seen::Reset(1, 3));
    // Over the limit.
    for id in [3, 5, 7] {
        client.open(id, &[]).await;
    }
    assert_eq!(client.next().await, Seen::Reset(7, 3));
    let kept = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(3));
    // The one not accepted yet, and all later ones, are refused.
    drop(incoming);
    assert_eq!(client.next().await, Seen::Reset(5, 3));
    client.open(9, &[]).await;
    assert_eq!(client.next().await, Seen::Reset(9, 3));
    drop(kept);
    assert_eq!(client.next().await, Seen::Data(3, Vec::new(), true));
    assert_eq!(client.next().await, Seen::GoAway(9, 0));
}

#[tokio::test]
async fn a_stream_that_only_its_client_may_send_on_is_refused() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    client.open(1, &[]).await;
    let _stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(1));
    client.raw(&control(1, 2, &syn_stream(3, &empty()))).await;
    assert_eq!(client.next().await, Seen::Reset(3, 3));
}

#[tokio::test]
async fn what_is_wrong_with_one_stream_ends_only_that() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    client.open(5, &[]).await;
    let mut stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(5));
    client.open(3, &[]).await;
    assert_eq!(client.next().await, Seen::Reset(3, 1));
    client.open(7, &[("Upper", "case")]).await;
    assert_eq!(client.next().await, Seen::Reset(7, 1));
    client.data(9, b"never opened", false).await;
    assert_eq!(client.next().await, Seen::Reset(9, 2));
    client.data(3, b"of a stream that is gone", false).await;
    client.data(5, b"lives", true).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "lives");
    client.data(5, b"after its end", false).await;
    assert_eq!(client.next().await, Seen::Reset(5, 9));
    assert!(stream.write_all(b"x").await.is_err());
}

#[tokio::test]
async fn what_breaks_the_protocol_ends_the_connection() {
    let too_long = Limits::default().header_bytes + 1;
    let cases = [
        (control(1, 0, &syn_stream(2, &empty())), Violation::StreamId(2)),
        (control(1, 0, &syn_stream(0, &empty())), Violation::StreamId(0)),
        (words(&[0, 0]), Violation::StreamId(0)),
        (control(2, 0, &words(&[1])), Violation::Reply),
        (control(4, 0, &words(&[u32::MAX])), Violation::Settings(u32::MAX)),
        (control(9, 0, &words(&[0, 0x7fff_ffff])), Violation::Window),
        (vec![0x80, 2, 0, 1, 0, 0, 0, 0], Violation::Version(2)),
        (
            control(1, 0, &vec![0; too_long])[..8].to_vec(),
            Violation::FrameLength { length: too_long, limit: too_long - 1 },
        ),
    ];
    for (bytes, expected) in cases {
        let (mut client, mut incoming, run) = connect(Limits::default());
        client.open(1, &[]).await;
        let mut stream = incoming.next().await.unwrap().accept();
        assert_eq!(client.next().await, Seen::Reply(1));
        client.raw(&bytes).await;
        assert_eq!(client.next().await, Seen::GoAway(1, 1), "{expected}");
        assert_eq!(client.next().await, Seen::Closed);
        match run.await.unwrap() {
            Err(Error::Violation(violation)) => assert_eq!(violation, expected),
            other => panic!("{expected}: {other:?}"),
        }
        assert!(stream.read_u8().await.is_err());
        assert!(incoming.next().await.is_none());
    }
}

/// A subsequent block without headers.
fn empty() -> [u8; 14] {
    [0, 4, 0, !4, !0, 0, 0, 0, 0, 0, 0, 0, !0, !0]
}

#[tokio::test]
async fn pings_of_the_client_are_echoed() {
    let (mut client, _incoming, _run) = connect(Limits::default());
    client.control(6, &words(&[2])).await;
    client.control(6, &words(&[7])).await;
    assert_eq!(client.next().await, Seen::Ping(7));
}

#[tokio::test]
async fn all_learn_that_the_client_is_gone() {
    let (mut client, mut incoming, run) = connect(Limits::default());
    client.open(1, &[]).await;
    let mut stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(1));
    let gone = incoming.gone();
    assert!(!gone.is_cancelled());
    drop(client);
    run.await.unwrap().unwrap();
    assert!(gone.is_cancelled());
    assert!(incoming.next().await.is_none());
    let read = stream.read_u8().await.unwrap_err();
    assert_eq!(read.kind(), std::io::ErrorKind::ConnectionReset);
    let write = stream.write_all(b"x").await.unwrap_err();
    assert_eq!(write.kind(), std::io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_connection_that_nobody_drives_fails_its_streams() {
    let (mut client, mut incoming, run) = connect(Limits::default());
    client.open(1, &[]).await;
    let mut stream = incoming.next().await.unwrap().accept();
    run.abort();
    assert!(stream.read_u8().await.is_err());
    assert!(incoming.next().await.is_none());
}

#[tokio::test]
async fn a_client_that_goes_away_keeps_its_streams() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    client.open(1, &[]).await;
    let mut stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(1));
    client.control(7, &words(&[0, 0])).await;
    assert!(incoming.next().await.is_none());
    client.open(3, &[]).await;
    assert_eq!(client.next().await, Seen::Reset(3, 3));
    stream.write_all(b"still").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(1, b"still".to_vec(), false));
}

#[tokio::test]
async fn all_is_sent_before_the_connection_closes() {
    let (mut client, mut incoming, run) = connect(Limits::default());
    client.open(1, &[]).await;
    let mut stream = incoming.next().await.unwrap().accept();
    drop(incoming);
    assert_eq!(client.next().await, Seen::Reply(1));
    let sent = vec![7; 1 << 20];
    let writer = tokio::spawn(async move { stream.write_all(&sent).await.map(|()| drop(stream)) });
    assert_eq!(client.read_all(1).await, vec![7; 1 << 20]);
    writer.await.unwrap().unwrap();
    assert_eq!(client.next().await, Seen::GoAway(1, 0));
    // Later data of the client does not disturb the end.
    client.data(1, b"late", true).await;
    assert_eq!(client.next().await, Seen::Closed);
    drop(client);
    run.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reset_ends_both_directions_at_both_ends() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    for id in [1, 3] {
        client.open(id, &[]).await;
    }
    let mut first = incoming.next().await.unwrap().accept();
    let second = incoming.next().await.unwrap().accept();
    assert_eq!([client.next().await, client.next().await], [Seen::Reply(1), Seen::Reply(3)]);
    client.data(1, b"lost", false).await;
    client.reset(1).await;
    second.reset();
    assert_eq!(client.next().await, Seen::Reset(3, 5));
    let (_, write) = {
        client.control(6, &words(&[1])).await;
        assert_eq!(client.next().await, Seen::Ping(1));
        assert!(first.read_u8().await.is_err());
        first.into_split()
    };
    write.broken_off().await;
    drop(write);
    assert_eq!(incoming.open_streams(), 0);
}

#[tokio::test]
async fn what_nobody_reads_is_thrown_away() {
    let limits = Limits { buffer: 1 << 10, ..Limits::default() };
    let (mut client, mut incoming, _run) = connect(limits);
    client.open(1, &[]).await;
    let (read, _write) = incoming.next().await.unwrap().accept().into_split();
    assert_eq!(client.next().await, Seen::Reply(1));
    drop(read);
    client.data(1, &vec![0; 100 << 10], true).await;
    client.control(6, &words(&[1])).await;
    assert_eq!(client.next().await, Seen::Ping(1));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_unless_its_client_pings() {
    let limits = Limits { idle: Duration::from_secs(3_600), ..Limits::default() };
    let (mut client, mut incoming, run) = connect(limits);
    client.open(1, &[]).await;
    let _stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(1));
    let is_ours = |seen: &Seen| matches!(seen, Seen::Ping(id) if id % 2 == 0);
    let start = tokio::time::Instant::now();
    while start.elapsed() < Duration::from_secs(10_000) {
        client.control(6, &words(&[1])).await;
        while client.read().await != Seen::Ping(1) {}
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    let quiet = tokio::time::Instant::now();
    let mut seen = Vec::new();
    loop {
        match client.read().await {
            ping if is_ours(&ping) => seen.push(ping),
            other => {
                assert_eq!(other, Seen::GoAway(1, 0));
                break;
            }
        }
    }
    let waited = quiet.elapsed().as_secs();
    assert!((3_590..=3_640).contains(&waited), "{waited} s");
    assert!(seen.len() > 100, "a PING each half minute: {}", seen.len());
    assert!(matches!(run.await.unwrap(), Err(Error::Idle(_))));
}
