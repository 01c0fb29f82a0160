//! Logs under load: rotation, slow clients, a full disk.

use std::thread;

use super::*;

/// Writes numbered lines in pieces that end at arbitrary places.
fn write_numbers(mut out: fs::File, count: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut text = Vec::new();
        for number in 0..count {
            writeln!(text, "line {number} {}", "-".repeat(number % 90)).expect("format");
        }
        let (mut rest, mut size) = (text.as_slice(), 1);
        while !rest.is_empty() {
            size = (size * 7 + 13) % 9001 + 1;
            let (piece, after) = rest.split_at(size.min(rest.len()));
            out.write_all(piece).expect("write");
            rest = after;
        }
    })
}

/// The numbers of the complete lines in these logs.
fn numbers(files: &[PathBuf]) -> Vec<usize> {
    let mut text = String::new();
    for line in files.iter().flat_map(|file| read_log(file)) {
        text.push_str(&line.text);
        if line.tag == "F" {
            text.push('\n');
        }
    }
    let number = |line: &str| {
        let number = line.split(' ').nth(1).expect("number").parse().expect("number");
        assert_eq!(line, format!("line {number} {}", "-".repeat(number % 90)));
        number
    };
    text.lines().map(number).collect()
}

#[tokio::test]
async fn reopen_under_load_loses_doubles_and_tears_nothing() {
    const LINES: usize = 200_000;
    let mut rig = Rig::new();
    let log = rig.log();
    let pump = rig.pump();
    within(pump.opened()).await.expect("opened");
    let writer = write_numbers(rig.writer("out"), LINES);
    rig.guards.clear();
    let mut files = Vec::new();
    while !writer.is_finished() || files.len() < 20 {
        let old = log.with_extension(format!("{:04}", files.len()));
        fs::rename(&log, &old).expect("rename");
        match within(pump.reopen()).await {
            Ok(()) => {}
            // The writer ended between the rename and the call; the rest is in the renamed file.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                files.push(old);
                break;
            }
            Err(error) => panic!("{error}"),
        }
        let size = fs::metadata(&old).expect("stat").len();
        files.push(old.clone());
        wait_for_log(&log, |lines| !lines.is_empty() || writer.is_finished()).await;
        assert_eq!(fs::metadata(&old).expect("stat").len(), size, "written after the reopen");
    }
    writer.join().expect("writer");
    within(pump.finished()).await;
    if log.exists() {
        files.push(log);
    }
    let rotations = files.len();
    assert!(rotations > 2, "only {rotations} files");
    assert!(numbers(&files).into_iter().eq(0..LINES), "lines are missing, doubled or out of order");
    assert_eq!(pump.dropped(), 0);
}

#[tokio::test]
async fn a_slow_client_is_cut_and_holds_up_nothing() {
    const LINES: usize = 100_000;
    let mut rig = Rig::new();
    let log = rig.log();
    let pump = rig.pump();
    let (mut slow, mut fast, gone) = (pump.tap(), pump.tap(), pump.tap());
    drop(gone);
    let collect = async {
        let mut bytes = 0;
        while let Some((_, chunk)) = fast.recv().await {
            bytes += chunk.len();
        }
        bytes
    };
    let writer = write_numbers(rig.writer("out"), LINES);
    rig.guards.clear();
    let received = within(collect).await;
    writer.join().expect("writer");
    within(pump.finished()).await;
    assert!(numbers(&[log]).into_iter().eq(0..LINES));
    assert!(slow.was_cut());
    let mut kept = 0;
    while let Some((_, chunk)) = within(slow.recv()).await {
        kept += chunk.len();
    }
    assert!(kept > 0 && kept <= 1 << 20, "{kept} bytes were kept for it");
    // The fast client received everything, unless the machine was too slow for it.
    let all: usize = (0..LINES).map(|n| format!("line {n} \n").len() + n % 90).sum();
    assert!(received == all || fast.was_cut(), "{received} of {all}");
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        fs::create_dir(&path).expect("mkdir");
        let options = c"size=256k";
        rustix::mount::mount("tmpfs", &path, "tmpfs", rustix::mount::MountFlags::NODEV, options)
            .expect("mount (needs root)");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_drops_counts_and_tells() {
    let mut rig = Rig::new();
    let disk = SmallDisk::new(rig.dir.path().join("disk"));
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 64 * 1024]).expect("fill");
    let log = disk.0.join("ctr/0.log");
    let pump = rig.pump_to(Some(log.clone()), true);
    within(pump.opened()).await.expect("opened");
    let mut out = rig.writer("out");
    let err = rig.writer("err");
    rig.guards.clear();
    let lines = b"0123456789 0123456789 0123456789\n".repeat(30_000);
    // On this thread, since it must not block for longer than the reading takes.
    out.write_all(&lines).expect("write");
    assert!(pump.dropped() > 0);
    read_live(&log);

    fs::remove_file(filler).expect("make room");
    let found = wait_for_log(&log, |lines| lines.iter().any(|line| line.stream == "stderr")).await;
    let marker = found.last().expect("marker");
    assert!(marker.text.contains("bytes of output lost: No space left"), "{marker:?}");
    out.write_all(b"after\n").expect("write");
    drop((out, err));
    within(pump.finished()).await;
    let all = read_log(&log);
    assert_eq!(all.last(), Some(&line("stdout", "F", "after")));
    assert_eq!(all.iter().filter(|line| line.stream == "stderr").count(), 1, "one marker");
    let kept: u64 =
        all.iter().filter(|l| l.stream == "stdout").map(|l| l.text.len() as u64 + 1).sum();
    assert_eq!(kept + pump.dropped(), lines.len() as u64 + 6);
}

#[tokio::test]
async fn rotation_gets_a_full_disk_going_again() {
    let mut rig = Rig::new();
    let disk = SmallDisk::new(rig.dir.path().join("disk"));
    let log = disk.0.join("ctr/0.log");
    let pump = rig.pump_to(Some(log.clone()), false);
    within(pump.opened()).await.expect("opened");
    let mut out = rig.writer("out");
    let lines = b"0123456789\n".repeat(100_000);
    out.write_all(&lines).expect("write");
    // Everything was read, and written or dropped, so nothing more can fill the disk again.
    let written = |lines: &[Line]| lines.iter().map(|line| line.text.len() as u64 + 1).sum::<u64>();
    wait_for_log(&log, |found| written(found) + pump.dropped() == lines.len() as u64).await;
    within(pump.reopen()).await.expect("a full disk does not keep the file from being switched");
    assert!(pump.dropped() > 0);
    fs::remove_file(&log).expect("rotated away");
    within(pump.reopen()).await.expect("reopen");
    let lines = read_log(&log);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].text.contains("bytes of output lost: "), "{lines:?}");
}
