//! Log files of containers, which somebody else may have written.

use std::path::Path;

use futures::StreamExt;
use podbay::logs::read::{self, ReadOptions, Selected};
use tokio::sync::watch;

use super::fuzz;

/// Every file can be read to its end, and parts of it agree with the whole.
#[test]
fn log_files() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    let folder = folder.expect("a folder");
    let path = folder.path().join("0.log");
    fuzz("log", |bytes| {
        std::fs::write(&path, bytes).expect("a log");
        runtime.block_on(log(bytes, &path))
    });
}

async fn log(bytes: &[u8], path: &Path) -> String {
    let all = text(path, ReadOptions::default()).await;
    let tail = |lines| ReadOptions { tail: Some(lines), ..ReadOptions::default() };
    assert!(text(path, tail(0)).await.is_empty());
    assert_eq!(text(path, tail(u64::MAX)).await, all, "the tail is longer than the log");
    assert_eq!(text(path, ReadOptions { follow: true, ..tail(u64::MAX) }).await, all);
    let wanted = bytes.len() as u64 % 5;
    let last = text(path, tail(wanted)).await;
    let limit = ReadOptions { limit_bytes: Some(wanted * 9), ..ReadOptions::default() };
    let first = text(path, limit).await;
    assert_eq!(first, all[..all.len().min(wanted as usize * 9)]);
    let mut streams = String::new();
    for selected in [Selected::Stdout, Selected::Stderr] {
        let one = text(path, ReadOptions { streams: selected, ..ReadOptions::default() }).await;
        assert!(one.len() <= all.len(), "a stream is a part of the whole");
        streams += &format!(" {}", lines(&one).min(9));
    }
    // The same log, rotated behind one of its lines.
    let rotated = path.with_file_name("0.log.20260101-000000");
    let begin = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |feed| feed + 1);
    std::fs::write(&rotated, &bytes[..begin]).expect("a log");
    std::fs::write(path, &bytes[begin..]).expect("a log");
    let both = [text(path, ReadOptions::default()).await, text(path, tail(wanted)).await];
    std::fs::remove_file(&rotated).expect("a file that exists");
    assert_eq!(both, [all.clone(), last.clone()], "rotation changes nothing");
    // The same bytes as a compressed file, which is read as far as it is not damaged.
    let packed = path.with_file_name("0.log.20260101-000000.gz");
    std::fs::write(&packed, bytes).expect("a log");
    let unpacked = text(path, tail(u64::MAX)).await;
    std::fs::remove_file(&packed).expect("a file that exists");
    assert!(lines(&unpacked) >= lines(&text(path, tail(u64::MAX)).await));
    let since = ReadOptions { since: Some(1_767_225_605_000_000_000), timestamps: true, ..tail(3) };
    let timed = text(path, since).await;
    let counts = [&all, &last, &timed, &unpacked].map(|text| lines(text).min(9));
    format!("{counts:?}{streams}")
}

async fn text(path: &Path, options: ReadOptions) -> Vec<u8> {
    let ended = watch::Sender::new(true).subscribe();
    let mut pieces = Box::pin(read::open(path, options, ended).await.expect("a log"));
    let mut text = Vec::new();
    while let Some(piece) = pieces.next().await {
        text.extend_from_slice(&piece.expect("no error"));
    }
    text
}

fn lines(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte == b'\n').count()
}
