//! These tests use a paused clock, which advances only while all tasks are idle.

use tokio::io::duplex;

use super::*;
use crate::logs::{open_fifo_guard, open_fifo_reader};

struct Pipe {
    source: Source,
    writer: pipe::Sender,
    ended: watch::Sender<bool>,
    _dir: tempfile::TempDir,
}

fn pipe_of_a_process() -> Pipe {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("mkfifo");
    let reader = open_fifo_reader(&path).and_then(pipe::Receiver::from_owned_fd).expect("reader");
    let writer = open_fifo_guard(&path).and_then(pipe::Sender::from_owned_fd).expect("writer");
    let (ended, is_ended) = watch::channel(false);
    Pipe { source: Source::new(reader, is_ended), writer, ended, _dir: dir }
}

fn nobody() -> Audience {
    Audience::of([&Sink::Nowhere, &Sink::Nowhere])
}

fn keeping(most: usize) -> Sink {
    Sink::Kept(Kept::new(most, Arc::new(Semaphore::new(100))))
}

fn kept(sink: &Sink) -> &[u8] {
    match sink {
        Sink::Kept(kept) => &kept.bytes,
        Sink::Client(_) | Sink::Nowhere => &[],
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_stream_is_left_when_its_process_has_ended() {
    let mut held = pipe_of_a_process();
    held.writer.write_all(b"words").await.expect("write");
    let mut sink = keeping(100);
    let audience = nobody();
    let running = held.source.copy_to(&mut sink, &audience);
    let waited = tokio::time::timeout(Duration::from_secs(3600), running).await;
    assert!(waited.is_err(), "the process runs");
    held.ended.send_replace(true);
    let began = Instant::now();
    held.source.copy_to(&mut sink, &audience).await;
    assert_eq!(began.elapsed().as_secs(), AFTER_END.0.as_secs());
    assert_eq!(kept(&sink), b"words");
}

#[tokio::test(start_paused = true)]
async fn a_child_that_never_pauses_is_left_as_well() {
    let Pipe { mut source, mut writer, ended, _dir } = pipe_of_a_process();
    ended.send_replace(true);
    let mut sink = keeping(100);
    let chatter = async {
        while writer.write_all(&[b'y'; 4096]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let audience = nobody();
    // Cancel-safe: the writer stops when the copy does.
    tokio::select! {
        () = source.copy_to(&mut sink, &audience) => {}
        () = chatter => panic!("the reader went first"),
    }
    assert_eq!(kept(&sink).len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_waited_for() {
    let Pipe { mut source, mut writer, ended, _dir } = pipe_of_a_process();
    writer.write_all(&[b'x'; 50_000]).await.expect("write");
    ended.send_replace(true);
    drop(writer);
    let (near, mut far) = duplex(16);
    let mut sink = Sink::Client(Box::pin(near));
    let audience = Audience::of([&sink, &Sink::Nowhere]);
    let reading = async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.map(|_| all.len())
    };
    let ((), read) = tokio::join!(source.copy_to(&mut sink, &audience), reading);
    assert_eq!(read.expect("read"), 50_000);
}

#[tokio::test(start_paused = true)]
async fn the_audience_is_gone_with_its_last_listener() {
    let (near, far) = duplex(16);
    let (other, _its_far_end) = duplex(16);
    let mut first = Sink::Client(Box::pin(near));
    let mut second = Sink::Client(Box::pin(other));
    let audience = Audience::of([&first, &second]);
    let gone = || tokio::time::timeout(Duration::from_secs(3600), audience.gone());
    drop(far);
    first.take(b"x", &audience).await;
    first.take(b"x", &audience).await;
    second.take(b"x", &audience).await;
    assert!(gone().await.is_err(), "one still listens");
    drop(_its_far_end);
    second.take(b"x", &audience).await;
    gone().await.expect("all are gone");
    let silent = nobody();
    let never = tokio::time::timeout(Duration::from_secs(3600), silent.gone());
    assert!(never.await.is_err(), "who never listened cannot leave");
}

#[tokio::test(start_paused = true)]
async fn input_that_nobody_reads_is_thrown_away() {
    let Pipe { source, writer, .. } = pipe_of_a_process();
    drop(source);
    let (mut client, input) = duplex(16);
    let sending = async {
        client.write_all(&[b'x'; 100_000]).await.expect("all is taken");
        drop(client);
    };
    tokio::join!(copy_input(Box::pin(input), Some(writer)), sending);
}

#[tokio::test]
async fn what_is_kept_together_has_a_budget() {
    let budget = Arc::new(Semaphore::new(3));
    let mut sinks = [0, 1].map(|_| Sink::Kept(Kept::new(100 * PLACE, budget.clone())));
    let chunk = [b'x'; CHUNK];
    let audience = nobody();
    for _ in 0..40 {
        for sink in &mut sinks {
            sink.take(&chunk, &audience).await;
        }
    }
    let lengths: Vec<usize> = sinks.iter().map(|sink| kept(sink).len()).collect();
    assert_eq!(lengths.iter().sum::<usize>(), 3 * PLACE, "{lengths:?}");
    let cut = |sink: &Sink| matches!(sink, Sink::Kept(kept) if kept.cut);
    assert!(sinks.iter().all(cut));
    drop(sinks);
    assert_eq!(budget.available_permits(), 3);
    // Reaching the sink's own limit does not count as lack of budget.
    let mut small = Sink::Kept(Kept::new(10, budget));
    small.take(&chunk, &audience).await;
    assert!(kept(&small).len() == 10 && !cut(&small));
}
