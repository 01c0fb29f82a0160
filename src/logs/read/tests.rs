use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// A log in a directory of its own, written as the agent does it and rotated as kubelets do it.
struct Log {
    _dir: tempfile::TempDir,
    path: PathBuf,
    records: u32,
    rotated: u32,
    ended: watch::Sender<bool>,
}

impl Log {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        Self { _dir: dir, path, records: 0, rotated: 0, ended: watch::Sender::new(false) }
    }

    fn write(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Writes one record, timed a second after the last.
    fn record(&mut self, stream: &str, tag: &str, payload: &str) -> &mut Self {
        let (minute, second) = (self.records / 60, self.records % 60);
        self.write(&format!(
            "2026-01-01T00:{minute:02}:{second:02}.000000000Z {stream} {tag} {payload}\n"
        ));
        self.records += 1;
        self
    }

    fn lines(&mut self, lines: std::ops::Range<u32>) -> &mut Self {
        for line in lines {
            self.record("stdout", "F", &line.to_string());
        }
        self
    }

    /// Renames the live file; the next record creates a new one.
    fn rotate(&mut self) -> PathBuf {
        self.rotated += 1;
        let rotated = self.path.with_file_name(format!("0.log.20260101-{:06}", self.rotated));
        fs::rename(&self.path, &rotated).unwrap();
        rotated
    }

    fn compress(rotated: &std::path::Path) {
        let packed = PathBuf::from(format!("{}.gz", rotated.display()));
        let mut gz = GzEncoder::new(fs::File::create(packed).unwrap(), Compression::fast());
        gz.write_all(&fs::read(rotated).unwrap()).unwrap();
        gz.finish().unwrap();
        fs::remove_file(rotated).unwrap();
    }

    fn end(&self) {
        self.ended.send_replace(true);
    }

    async fn open(&self, options: ReadOptions) -> io::Result<Reading> {
        Ok(Reading(Box::pin(open(&self.path, options, self.ended.subscribe()).await?)))
    }

    async fn read(&self, options: ReadOptions) -> String {
        self.open(options).await.unwrap().rest().await
    }

    async fn tail(&self, tail: u64) -> String {
        self.read(ReadOptions { tail: Some(tail), ..ReadOptions::default() }).await
    }
}

struct Reading(Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>);

impl Reading {
    async fn next(&mut self) -> Option<String> {
        let piece = timeout(LIMIT, self.0.next()).await.expect("in time")?;
        Some(String::from_utf8(piece.unwrap().to_vec()).unwrap())
    }

    /// Reads until the whole text read equals `text`.
    async fn until(&mut self, text: &str) {
        let mut seen = String::new();
        while seen.len() < text.len() {
            seen += &self.next().await.expect("more");
        }
        assert_eq!(seen, text);
    }

    async fn rest(mut self) -> String {
        let mut seen = String::new();
        while let Some(piece) = self.next().await {
            seen += &piece;
        }
        seen
    }
}

fn numbers(lines: std::ops::Range<u32>) -> String {
    lines.map(|line| format!("{line}\n")).collect()
}

const FOLLOW: ReadOptions = ReadOptions {
    tail: None,
    since: None,
    limit_bytes: None,
    timestamps: false,
    follow: true,
    streams: Selected::All,
};

/// Lines 0..10 are in a compressed file, 10..20 in a rotated one, 20..30 in the live one.
fn three_files() -> Log {
    let mut log = Log::new();
    let first = log.lines(0..10).rotate();
    Log::compress(&first);
    log.lines(10..20).rotate();
    log.lines(20..30);
    log
}

#[tokio::test]
async fn rotated_and_compressed_files_are_read_in_order() {
    let log = three_files();
    // None of these files belongs to the log.
    for name in ["0.log.20260101-000009.tmp", "0.log.old", "1.log", "0.logx"] {
        fs::write(log.path.with_file_name(name), "foreign\n").unwrap();
    }
    assert_eq!(log.read(ReadOptions::default()).await, numbers(0..30));
}

#[tokio::test]
async fn the_tail_is_right_at_every_length() {
    let log = three_files();
    for tail in 0..35 {
        assert_eq!(log.tail(tail.into()).await, numbers(30 - tail.min(30)..30), "{tail}");
    }
}

#[tokio::test]
async fn the_tail_counts_lines_and_not_pieces() {
    let mut log = Log::new();
    log.record("stdout", "F", "first");
    log.record("stdout", "P", "a").record("stdout", "P", "b").record("stderr", "F", "between");
    log.record("stdout", "F", "c").write("no record\n");
    log.record("stderr", "P", "> ");
    let whole = "first\nbetween\nabc\nno record\n> ";
    assert_eq!(log.read(ReadOptions::default()).await, whole);
    for (tail, from) in [(1, "> "), (2, "no"), (3, "abc"), (4, "between"), (5, "first")] {
        assert_eq!(log.tail(tail).await, whole[whole.find(from).unwrap()..], "{tail}");
    }
    let stdout = ReadOptions { tail: Some(2), streams: Selected::Stdout, ..Default::default() };
    assert_eq!(log.read(stdout).await, "abc\nno record\n");
}

#[tokio::test]
async fn a_line_cut_by_rotation_is_whole() {
    let mut log = Log::new();
    log.record("stdout", "F", "old").record("stdout", "P", "be").rotate();
    log.record("stdout", "F", "gin").record("stdout", "F", "new");
    assert_eq!(log.tail(2).await, "begin\nnew\n");
    assert_eq!(log.tail(3).await, "old\nbegin\nnew\n");
}

#[tokio::test]
async fn the_tail_of_a_large_file_is_found_from_its_end() {
    let log = Log::new();
    // A hole of 8 GiB: reading it would take longer than the test has.
    let file = fs::File::create(&log.path).unwrap();
    file.set_len(8 << 30).unwrap();
    let mut text = String::from("\n");
    for line in 0..5000 {
        let payload = format!("{line} {}", "x".repeat(line % 300));
        text += &format!("2026-01-01T00:00:00.000000000Z stdout F {payload}\n");
    }
    log.write(&text);
    let shown = log.tail(4000).await;
    assert_eq!(shown.lines().count(), 4000);
    assert!(shown.starts_with("1000 "), "{}", &shown[..20]);
}

#[tokio::test]
async fn since_bytes_and_times() {
    let mut log = Log::new();
    log.lines(0..60);
    let since = Some(1_767_225_600_000_000_000 + 57_000_000_000);
    let options = ReadOptions { since, timestamps: true, ..Default::default() };
    let text = log.read(options).await;
    assert_eq!(text.lines().next(), Some("2026-01-01T00:00:57.000000000Z 57"));
    assert_eq!(text.lines().count(), 3);
    let options = ReadOptions { limit_bytes: Some(40), ..options };
    assert_eq!(log.read(options).await, text[..40]);
    // The byte limit also ends a follow that would otherwise never end.
    let options = ReadOptions { follow: true, ..options };
    assert_eq!(log.read(options).await, text[..40]);
}

#[tokio::test]
async fn files_that_are_too_old_are_not_even_read() {
    let mut log = Log::new();
    let rotated = log.lines(0..3).rotate();
    fs::OpenOptions::new()
        .append(true)
        .open(rotated)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_603))
        .unwrap();
    log.lines(3..9);
    let since = Some(1_767_225_604_000_000_000);
    let options = ReadOptions { since, tail: Some(8), ..Default::default() };
    assert_eq!(log.read(options).await, numbers(4..9));
}

#[tokio::test]
async fn following_ends_with_the_container_and_misses_nothing() {
    let mut log = Log::new();
    log.lines(0..3);
    let mut reading = log.open(ReadOptions { tail: Some(1), ..FOLLOW }).await.unwrap();
    reading.until("2\n").await;
    log.lines(3..5);
    reading.until("3\n4\n").await;
    // It was written before the end was reported, so it is read, even without a line feed.
    log.lines(5..9).record("stdout", "P", "> ");
    log.end();
    assert_eq!(reading.rest().await, "5\n6\n7\n8\n> ");
}

#[tokio::test]
async fn a_log_that_does_not_exist_yet_is_waited_for() {
    let mut log = Log::new();
    let missing = log.open(ReadOptions::default()).await.err().unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    let mut reading = log.open(FOLLOW).await.unwrap();
    assert!(timeout(Duration::from_millis(50), reading.0.next()).await.is_err());
    log.lines(0..2);
    reading.until("0\n1\n").await;
    log.end();
    assert_eq!(reading.rest().await, "");
    fs::remove_file(&log.path).unwrap();
    assert_eq!(log.open(FOLLOW).await.err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn rotation_loses_and_doubles_nothing() {
    let mut log = Log::new();
    log.lines(0..1);
    let mut reading = log.open(FOLLOW).await.unwrap();
    reading.until("0\n").await;
    // The writer continues in the renamed file until told to reopen.
    let mut old = OpenOptions::new().append(true).open(&log.path).unwrap();
    log.rotate();
    old.write_all(b"2026-01-01T00:00:00Z stdout F late\n").unwrap();
    reading.until("late\n").await;
    // Three rotations between two reads, with the first file compressed.
    log.lines(1..3);
    let first = log.rotate();
    log.lines(3..5).rotate();
    Log::compress(&first);
    log.lines(5..7).rotate();
    log.lines(7..9);
    reading.until(&numbers(1..9)).await;
    log.end();
    assert_eq!(reading.rest().await, "");
}

#[tokio::test]
async fn a_compressed_or_removed_file_is_known_again() {
    for compressed in [true, false] {
        let mut log = Log::new();
        log.lines(0..2).rotate();
        log.lines(2..4);
        let mut reading = log.open(FOLLOW).await.unwrap();
        reading.until(&numbers(0..4)).await;
        let now = log.rotate();
        if compressed {
            Log::compress(&now);
        } else {
            fs::remove_file(now).unwrap();
        }
        log.lines(4..6).rotate();
        log.lines(6..8);
        reading.until(&numbers(4..8)).await;
    }
}

#[tokio::test]
async fn rotation_under_load() {
    let log = Log::new();
    log.write("");
    let reading = log.open(FOLLOW).await.unwrap();
    let (path, ended) = (log.path.clone(), log.ended.clone());
    let writer = tokio::task::spawn_blocking(move || {
        for rotation in 0..90 {
            let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
            for line in 0..50 {
                let number = rotation * 50 + line;
                writeln!(file, "2026-01-01T00:00:00.{number:09}Z stdout F {number}").unwrap();
            }
            let rotated = path.with_file_name(format!("0.log.20260101-{rotation:06}"));
            fs::rename(&path, &rotated).unwrap();
            if rotation % 2 == 1 {
                Log::compress(&rotated);
            }
        }
        ended.send_replace(true);
    });
    let text = reading.rest().await;
    writer.await.unwrap();
    assert_eq!(text, numbers(0..4_500));
}

#[tokio::test]
async fn truncation_starts_over() {
    let mut log = Log::new();
    log.lines(0..3);
    let mut reading = log.open(FOLLOW).await.unwrap();
    reading.until(&numbers(0..3)).await;
    fs::File::options().write(true).open(&log.path).unwrap().set_len(0).unwrap();
    log.lines(7..8);
    reading.until("7\n").await;
}

#[tokio::test]
async fn a_record_in_the_making_is_not_shown_before_its_end() {
    let log = Log::new();
    log.write("2026-01-01T00:00:00.000000000Z stdout F he");
    let mut reading = log.open(FOLLOW).await.unwrap();
    assert!(timeout(Duration::from_millis(50), reading.0.next()).await.is_err());
    log.write("llo\n");
    reading.until("hello\n").await;
    assert_eq!(log.read(ReadOptions::default()).await, "hello\n");
    // The writer died while writing it.
    log.write("2026-01-01T00:00:00.000000000Z stdout F wor");
    assert_eq!(log.read(ReadOptions::default()).await, "hello\nwor\n");
}

#[tokio::test]
async fn links_and_odd_files_are_not_opened() {
    let log = Log::new();
    let secret = log.path.with_file_name("secret");
    fs::write(&secret, "secret\n").unwrap();
    std::os::unix::fs::symlink(&secret, &log.path).unwrap();
    let kind = log.open(ReadOptions::default()).await.err().unwrap().kind();
    assert_eq!(kind, io::ErrorKind::InvalidInput);
    fs::remove_file(&log.path).unwrap();
    fs::create_dir(&log.path).unwrap();
    assert!(log.open(ReadOptions::default()).await.is_err());
    fs::remove_dir(&log.path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &log.path, rustix::fs::Mode::RUSR).unwrap();
    assert!(log.open(ReadOptions::default()).await.is_err());
    fs::remove_file(&log.path).unwrap();

    log.write("2026-01-01T00:00:00Z stdout F mine\n");
    let rotated = log.path.with_file_name("0.log.20260101-000000");
    std::os::unix::fs::symlink(&secret, rotated).unwrap();
    assert_eq!(log.read(ReadOptions::default()).await, "mine\n");
    for bad in ["relative/0.log", "/a/../0.log", "/"] {
        let opened = open(std::path::Path::new(bad), FOLLOW, log.ended.subscribe()).await;
        assert_eq!(opened.err().unwrap().kind(), io::ErrorKind::InvalidInput, "{bad}");
    }
}

#[tokio::test]
async fn damage_is_passed_over() {
    let mut log = Log::new();
    let first = log.lines(0..10).rotate();
    Log::compress(&first);
    let packed = PathBuf::from(format!("{}.gz", first.display()));
    let bytes = fs::read(&packed).unwrap();
    fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    log.lines(10..12);
    assert!(log.read(ReadOptions::default()).await.ends_with("10\n11\n"));
    // No line feed for 3 MiB.
    let log = Log::new();
    log.write(&"y".repeat(3 << 20));
    let text = log.read(ReadOptions::default()).await;
    assert_eq!(text.bytes().filter(|byte| *byte == b'y').count(), 3 << 20);
}

/// How many inotify instances of this process watch one of these directories, and how many watches
/// they have on them.
fn watches(folders: &[&Path]) -> (usize, usize) {
    let inodes: Vec<_> = folders.iter().map(|folder| fs::metadata(folder).unwrap().ino()).collect();
    let inode = |line: &str| {
        let words = line.strip_prefix("inotify wd:")?;
        let inode = words.split(' ').find_map(|word| word.strip_prefix("ino:"))?;
        u64::from_str_radix(inode, 16).ok()
    };
    let texts = fs::read_dir("/proc/self/fdinfo").unwrap();
    let texts = texts.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let counts = texts
        .map(|text| text.lines().filter_map(inode).filter(|inode| inodes.contains(inode)).count());
    counts.filter(|count| *count > 0).fold((0, 0), |(all, sum), count| (all + 1, sum + count))
}

#[tokio::test]
async fn followers_leave_no_watch_behind() {
    let mut log = Log::new();
    log.lines(0..1);
    let folder = log.path.parent().unwrap().to_owned();
    let open_files = || {
        let links = fs::read_dir("/proc/self/fd").unwrap();
        let links = links.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        links.filter(|link| link.starts_with(&folder)).count()
    };
    for _ in 0..100 {
        let mut reading = log.open(FOLLOW).await.unwrap();
        reading.until("0\n").await;
        assert!(timeout(Duration::from_millis(1), reading.0.next()).await.is_err());
    }
    // Blocking work in progress may end a moment after its stream was dropped.
    let gone = async {
        while open_files() > 0 || watches(&[&folder]) != (0, 0) {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, gone).await.expect("all closed");
}

#[tokio::test]
async fn all_followers_share_one_inotify_instance() {
    let mut logs: Vec<_> = std::iter::repeat_with(Log::new).take(100).collect();
    let paths: Vec<_> = logs.iter().map(|log| log.path.clone()).collect();
    let folders: Vec<_> = paths.iter().map(|path| path.parent().unwrap()).collect();
    let mut readings = Vec::new();
    for log in &mut logs {
        log.lines(0..1);
        for _ in 0..2 {
            let mut reading = log.open(FOLLOW).await.unwrap();
            reading.until("0\n").await;
            readings.push(reading);
        }
    }
    let all_wait = async {
        while watches(&folders) != (1, 100) {
            let waiting = futures::future::join_all(readings.iter_mut().map(|one| one.0.next()));
            assert!(timeout(Duration::from_millis(10), waiting).await.is_err());
        }
    };
    timeout(LIMIT, all_wait).await.expect("one instance for all");
    // What one follower leaves is still watched for the other.
    readings.truncate(151);
    assert_eq!(watches(&folders), (1, 76));
    let begun = std::time::Instant::now();
    for log in &mut logs {
        log.lines(1..2);
    }
    for reading in &mut readings {
        reading.until("1\n").await;
    }
    assert!(begun.elapsed() < notice::LOOK_ANYWAY, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_removed_directory_is_polled() {
    let log = Log::new();
    let folder = log.path.parent().unwrap();
    let mut notices = [Notice::new(folder.to_owned()).await, Notice::new(folder.to_owned()).await];
    fs::remove_dir(folder).unwrap();
    fs::create_dir(folder).unwrap();
    for notice in &mut notices {
        // The removal, at the latest by the end of the watch; then it polls.
        let begun = std::time::Instant::now();
        for _ in 0..5 {
            notice.changed().await;
        }
        assert!(begun.elapsed() < notice::LOOK_ANYWAY, "{:?}", begun.elapsed());
    }
    assert_eq!(watches(&[folder]), (0, 0));
}
