//! These tests use real FIFOs, real files and the real thread.

mod load;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

const MAX: usize = 16384;
const DEADLINE: Duration = Duration::from_secs(20);

/// A process's two output FIFOs and its log file.
struct Rig {
    dir: tempfile::TempDir,
    pumps: Pumps,
    guards: Vec<OwnedFd>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        Self { dir, pumps: Pumps::start().expect("log thread"), guards: Vec::new() }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("pod/ctr/0.log")
    }

    fn reader(&mut self, name: &str) -> OwnedFd {
        let path = self.dir.path().join(name);
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).expect("mkfifo");
        let reader = open_fifo_reader(&path).expect("reader");
        self.guards.push(open_fifo_guard(&path).expect("guard"));
        reader
    }

    /// Copies `out` (and `err`) to the log at `path`.
    fn pump_to(&mut self, path: Option<PathBuf>, with_stderr: bool) -> Pump {
        let stdout = Some(self.reader("out"));
        let stderr = with_stderr.then(|| self.reader("err"));
        self.pumps.pump(PumpSpec { path, stdout, stderr, max_line: MAX }).expect("pump")
    }

    fn pump(&mut self) -> Pump {
        let log = self.log();
        self.pump_to(Some(log), false)
    }

    /// A blocking writer, as processes have.
    fn writer(&self, name: &str) -> fs::File {
        fs::OpenOptions::new().write(true).open(self.dir.path().join(name)).expect("writer")
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work).await.expect("in time")
}

/// Waits until the log's payloads satisfy `done`, and returns them.
async fn wait_for_log(path: &Path, done: impl Fn(&[Line]) -> bool) -> Vec<Line> {
    within(async {
        loop {
            let lines = read_live(path);
            if done(&lines) {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    stream: String,
    tag: String,
    text: String,
}

fn line(stream: &str, tag: &str, text: &str) -> Line {
    Line { stream: stream.to_owned(), tag: tag.to_owned(), text: text.to_owned() }
}

/// Reads a log that is no longer written to; panics at a torn or malformed record.
fn read_log(path: &Path) -> Vec<Line> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "torn end");
    parse(&text)
}

/// Reads a log while it is written; a write may be visible page by page.
fn read_live(path: &Path) -> Vec<Line> {
    let text = fs::read(path).unwrap_or_default();
    let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
    parse(std::str::from_utf8(&text[..whole]).expect("text"))
}

fn parse(text: &str) -> Vec<Line> {
    text.lines()
        .map(|record| {
            let parts: Vec<&str> = record.splitn(4, ' ').collect();
            let &[time, stream, tag, text] = parts.as_slice() else { panic!("torn: {record:?}") };
            assert_eq!((time.len(), &time[29..]), (30, "Z"), "torn: {record:?}");
            assert!(["stdout", "stderr"].contains(&stream), "torn: {record:?}");
            assert!(["F", "P"].contains(&tag), "torn: {record:?}");
            line(stream, tag, text)
        })
        .collect()
}

#[tokio::test]
async fn both_streams_go_to_one_file_until_both_have_ended() {
    let mut rig = Rig::new();
    let log = rig.log();
    let pump = rig.pump_to(Some(log.clone()), true);
    within(pump.opened()).await.expect("opened");
    let (mut out, mut err) = (rig.writer("out"), rig.writer("err"));
    rig.guards.clear();

    out.write_all(b"one\ntw").expect("write");
    wait_for_log(&log, |lines| lines.len() == 1).await;
    err.write_all(b"bad\r\n").expect("write");
    wait_for_log(&log, |lines| lines.len() == 2).await;
    drop(err);
    out.write_all(b"o\nend").expect("write");
    wait_for_log(&log, |lines| lines.len() == 3).await;
    assert!(!pump.progress.borrow().finished, "stdout is still open");
    drop(out);
    within(pump.finished()).await;
    assert_eq!(
        read_log(&log),
        [
            line("stdout", "F", "one"),
            line("stderr", "F", "bad"),
            line("stdout", "F", "two"),
            line("stdout", "P", "end"),
        ]
    );
    assert_eq!(pump.dropped(), 0);
    assert_eq!(within(pump.reopen()).await.expect_err("ended").kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn the_guard_keeps_the_end_away_until_the_writer_has_come() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    within(pump.opened()).await.expect("opened");
    // The copier's loop answers the reopen, so it still runs and has seen no end.
    within(pump.reopen()).await.expect("still running without any writer");
    let mut out = rig.writer("out");
    rig.guards.clear();
    out.write_all(b"hello\n").expect("write");
    drop(out);
    within(pump.finished()).await;
    assert_eq!(read_log(&rig.log()), [line("stdout", "F", "hello")]);
}

#[tokio::test]
async fn without_any_writer_the_log_ends_at_once() {
    let mut rig = Rig::new();
    let log = rig.log();
    let stdout = Some(rig.reader("out"));
    rig.guards.clear();
    let spec = PumpSpec { path: Some(log), stdout, stderr: None, max_line: MAX };
    within(rig.pumps.pump(spec).expect("pump").finished()).await;
    let spec = PumpSpec { path: None, stdout: None, stderr: None, max_line: MAX };
    within(rig.pumps.pump(spec).expect("pump").finished()).await;
}

#[tokio::test]
async fn stop_writes_what_is_there_and_needs_no_end() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    let mut out = rig.writer("out");
    out.write_all(b"first\nopen line").expect("write");
    pump.stop();
    within(pump.finished()).await;
    assert_eq!(
        read_log(&rig.log()),
        [line("stdout", "F", "first"), line("stdout", "P", "open line")]
    );
}

#[tokio::test]
async fn a_next_agent_goes_on_where_this_one_stopped() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    let mut out = rig.writer("out");
    // Like the shim's own read end: it preserves unread data.
    let shim = open_fifo_reader(&rig.dir.path().join("out")).expect("shim");
    out.write_all(b"first\nhalf a ").expect("write");
    wait_for_log(&rig.log(), |lines| lines.len() == 1).await;
    std::mem::replace(&mut rig.pumps, Pumps::start().expect("log thread")).stop();
    within(pump.finished()).await;

    out.write_all(b"line\n").expect("write");
    let stdout = Some(open_fifo_reader(&rig.dir.path().join("out")).expect("reader"));
    let spec = PumpSpec { path: Some(rig.log()), stdout, stderr: None, max_line: MAX };
    let pump = rig.pumps.pump(spec).expect("pump");
    drop((out, shim));
    rig.guards.clear();
    within(pump.finished()).await;
    assert_eq!(
        read_log(&rig.log()),
        [line("stdout", "F", "first"), line("stdout", "P", "half a "), line("stdout", "F", "line"),]
    );
}

#[tokio::test]
async fn dropping_the_owner_ends_the_thread() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    within(pump.opened()).await.expect("opened");
    rig.pumps = Pumps::start().expect("log thread");
    within(pump.finished()).await;
}

#[tokio::test]
async fn without_a_path_output_goes_to_taps_only() {
    let mut rig = Rig::new();
    let pump = rig.pump_to(None, true);
    within(pump.opened()).await.expect("nothing to open");
    within(pump.reopen()).await.expect("nothing to reopen");
    let mut tap = pump.tap();
    let (mut out, mut err) = (rig.writer("out"), rig.writer("err"));
    rig.guards.clear();
    out.write_all(b"raw\r\n").expect("write");
    assert_eq!(within(tap.recv()).await, Some((Stream::Stdout, "raw\r\n".into())));
    err.write_all(b"e").expect("write");
    assert_eq!(within(tap.recv()).await, Some((Stream::Stderr, "e".into())));
    drop((out, err));
    assert_eq!(within(tap.recv()).await, None);
    assert!(!tap.was_cut());
    assert_eq!(within(pump.tap().recv()).await, None, "the log has ended");
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_is_drained_and_said_so_later() {
    let mut rig = Rig::new();
    let folder = rig.dir.path().join("pod");
    fs::create_dir(&folder).expect("mkdir");
    std::os::unix::fs::symlink("/nowhere", folder.join("ctr")).expect("link");
    let pump = rig.pump();
    let error = within(pump.opened()).await.expect_err("a link");
    assert!(error.to_string().contains("symbolic link"), "{error}");
    let mut out = rig.writer("out");
    out.write_all(&b"x\n".repeat(100_000)).expect("never blocks for long");
    assert!(within(pump.reopen()).await.is_err());
    within(async {
        while pump.dropped() < 200_000 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    fs::remove_file(folder.join("ctr")).expect("remove link");
    // Without output or a reopen: it recovers by itself.
    let lines = wait_for_log(&rig.log(), |lines| lines.len() == 1).await;
    assert!(lines[0].text.starts_with("[200000 bytes of output lost: "), "{lines:?}");
    out.write_all(b"after\n").expect("write");
    wait_for_log(&rig.log(), |lines| lines.last() == Some(&line("stdout", "F", "after"))).await;
}

#[tokio::test]
async fn a_failed_reopen_keeps_the_old_file() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    within(pump.opened()).await.expect("opened");
    let renamed = rig.log().with_extension("old");
    fs::rename(rig.log(), &renamed).expect("rename");
    fs::create_dir(rig.log()).expect("in the way");
    assert!(within(pump.reopen()).await.is_err());
    let mut out = rig.writer("out");
    out.write_all(b"goes on\n").expect("write");
    assert_eq!(wait_for_log(&renamed, |lines| !lines.is_empty()).await[0].text, "goes on");
}

#[test]
fn owner_and_handles_go_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Pumps>();
    shared::<Pump>();
    shared::<Tap>();
}

#[test]
fn fifos_are_opened_only_as_such() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (fifo, file, link) =
        (dir.path().join("fifo"), dir.path().join("file"), dir.path().join("link"));
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).expect("mkfifo");
    fs::write(&file, "").expect("write");
    std::os::unix::fs::symlink(&fifo, &link).expect("link");
    assert!(open_fifo_guard(&fifo).is_err(), "no reader yet");
    assert!(open_fifo_reader(&fifo).is_ok());
    assert!(open_fifo_reader(&file).is_err());
    assert!(open_fifo_reader(&link).is_err());
    assert!(open_fifo_reader(&dir.path().join("absent")).is_err());
}

#[tokio::test]
async fn a_thread_that_is_shared_still_writes_what_was_read() {
    let mut rig = Rig::new();
    let pump = rig.pump();
    pump.opened().await.expect("opened");
    let mut writer = rig.writer("out");
    let mut tap = pump.tap();
    writer.write_all(b"no line feed").expect("write");
    // The thread has read it but not written it, because the line is unfinished.
    within(tap.recv()).await.expect("the output");
    let pumps = std::sync::Arc::new(rig.pumps);
    let other = std::sync::Arc::clone(&pumps);
    let stopped = tokio::task::spawn_blocking(move || other.shutdown(DEADLINE));
    assert!(stopped.await.expect("no panic"));
    let text = fs::read_to_string(rig.dir.path().join("pod/ctr/0.log")).expect("log");
    assert!(text.ends_with("stdout P no line feed\n"), "{text}");
    let spec = PumpSpec { path: None, stdout: None, stderr: None, max_line: MAX };
    assert_eq!(pumps.pump(spec).expect_err("ended").kind(), std::io::ErrorKind::NotConnected);
    assert!(pumps.shutdown(DEADLINE), "again");
}
