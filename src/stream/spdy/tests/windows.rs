//! Flow control windows and the order of sending.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Client, Seen, connect, words};
use crate::stream::spdy::{Incoming, Limits, Stream};

async fn open(client: &mut Client, incoming: &mut Incoming, id: u32) -> Stream {
    client.open(id, &[]).await;
    let stream = incoming.next().await.unwrap().accept();
    assert_eq!(client.next().await, Seen::Reply(id));
    stream
}

async fn set_window(client: &mut Client, window: u32) {
    client.control(4, &words(&[1, 7, window])).await;
    client.control(6, &words(&[1])).await;
    assert_eq!(client.next().await, Seen::Ping(1));
}

#[tokio::test]
async fn a_client_that_knows_no_windows_gets_all() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let mut stream = open(&mut client, &mut incoming, 1).await;
    let writer = tokio::spawn(async move {
        stream.write_all(&vec![1; 4 << 20]).await.unwrap();
    });
    assert_eq!(client.read_all(1).await.len(), 4 << 20);
    writer.await.unwrap();
}

#[tokio::test]
async fn a_window_holds_until_it_is_widened() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let mut stream = open(&mut client, &mut incoming, 1).await;
    set_window(&mut client, 10).await;
    stream.write_all(b"0123456789abcdef").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(1, b"0123456789".to_vec(), false));
    // The end must be sent after the data, without blocking other streams.
    let mut other = open(&mut client, &mut incoming, 3).await;
    stream.shutdown().await.unwrap();
    other.write_all(b"x").await.unwrap();
    assert_eq!(client.next().await, Seen::Data(3, b"x".to_vec(), false));
    client.control(9, &words(&[1, 2])).await;
    assert_eq!(client.next().await, Seen::Data(1, b"ab".to_vec(), false));
    // A larger initial window enlarges those of all open streams.
    client.control(4, &words(&[1, 7, 12])).await;
    assert_eq!(client.next().await, Seen::Data(1, b"cd".to_vec(), false));
    client.control(9, &words(&[1, 100])).await;
    assert_eq!(client.next().await, Seen::Data(1, b"ef".to_vec(), true));
}

#[tokio::test]
async fn the_end_of_a_stream_needs_no_window() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let stream = open(&mut client, &mut incoming, 1).await;
    set_window(&mut client, 0).await;
    drop(stream);
    assert_eq!(client.next().await, Seen::Data(1, Vec::new(), true));
}

#[tokio::test]
async fn the_session_has_a_window_too() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let mut stream = open(&mut client, &mut incoming, 1).await;
    set_window(&mut client, 1 << 20).await;
    stream.write_all(&vec![5; 100 << 10]).await.unwrap();
    let mut got = 0;
    while got < 64 << 10 {
        match client.next().await {
            Seen::Data(1, data, false) => got += data.len(),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, 64 << 10);
    client.control(6, &words(&[1])).await;
    assert_eq!(client.next().await, Seen::Ping(1), "nothing before the window opens");
    client.control(9, &words(&[0, 36 << 10])).await;
    while got < 100 << 10 {
        match client.next().await {
            Seen::Data(1, data, false) => got += data.len(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_stream_window_over_the_limit_ends_the_stream() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let _stream = open(&mut client, &mut incoming, 1).await;
    client.control(9, &words(&[1, 0x7fff_ffff])).await;
    assert_eq!(client.next().await, Seen::Reset(1, 7));
}

#[tokio::test]
async fn streams_take_turns() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let mut busy = open(&mut client, &mut incoming, 1).await;
    let mut other = open(&mut client, &mut incoming, 3).await;
    // More than the pipe can hold: the rest waits in the stream.
    busy.write_all(&vec![1; 128 << 10]).await.unwrap();
    tokio::task::yield_now().await;
    other.write_all(b"a word").await.unwrap();
    let mut before = 0;
    loop {
        match client.next().await {
            Seen::Data(1, data, _) => before += data.len(),
            Seen::Data(3, data, _) => break assert_eq!(data, b"a word"),
            other => panic!("{other:?}"),
        }
    }
    assert!(before <= 96 << 10, "{before} bytes of the busy stream went before");
}

#[tokio::test]
async fn a_client_gets_its_windows_back_as_data_is_read() {
    let (mut client, mut incoming, _run) = connect(Limits::default());
    let mut stream = open(&mut client, &mut incoming, 1).await;
    client.data(1, &vec![1; 40 << 10], false).await;
    // The session's window is returned at once, the stream's only after reading.
    assert_eq!(client.read().await, Seen::Window(0, 40 << 10));
    client.control(6, &words(&[1])).await;
    assert_eq!(client.read().await, Seen::Ping(1));
    stream.read_exact(&mut vec![0; 40 << 10]).await.unwrap();
    let Seen::Window(1, credit) = client.read().await else { panic!("no window came back") };
    assert!(credit >= 32 << 10, "{credit}");
}

#[tokio::test]
async fn what_is_not_read_is_bounded_and_comes_whole() {
    const ALL: usize = 4 << 20;
    let limits = Limits { buffer: 256 << 10, ..Limits::default() };
    let (mut client, mut incoming, _run) = connect(limits);
    let mut stream = open(&mut client, &mut incoming, 1).await;
    let sent: Vec<u8> = (0..ALL).map(|at| (at / 7) as u8).collect();
    let expected = sent.clone();
    let sender = tokio::spawn(async move {
        // In a single frame larger than all buffers.
        client.data(1, &sent, true).await;
        client
    });
    while incoming.buffered() < 256 << 10 {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
        assert!(incoming.buffered() <= (256 + 16) << 10, "{}", incoming.buffered());
    }
    assert!(!sender.is_finished(), "the client has to wait");
    let mut got = Vec::new();
    stream.read_to_end(&mut got).await.unwrap();
    assert!(got == expected, "the bytes differ");
    assert_eq!(incoming.buffered(), 0);
    drop(sender.await.unwrap());
}
