use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::time::Duration;

use flate2::read::GzDecoder;
use proptest::prelude::*;

use super::*;

const LIMITS: LogLimits = LogLimits { size: 10, files: 4 };

/// Logs in a directory; reopening creates the file, as the log writer does.
struct Fake {
    log: PathBuf,
    fails: bool,
    reopened: Mutex<usize>,
}

#[async_trait]
impl Logs for Fake {
    fn running(&self) -> Vec<(ContainerId, PathBuf)> {
        vec![(ContainerId::random(), self.log.clone())]
    }

    async fn reopen(&self, _: &ContainerId) -> Result<(), String> {
        *self.reopened.lock().unwrap() += 1;
        if self.fails {
            return Err("the container is not running".to_owned());
        }
        File::create_new(&self.log).map(drop).map_err(|error| error.to_string())
    }
}

fn fake(folder: &tempfile::TempDir, fails: bool) -> Fake {
    Fake { log: folder.path().join("0.log"), fails, reopened: Mutex::default() }
}

fn names(folder: &tempfile::TempDir) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// This many seconds after the start of 2026.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn big_logs_are_rotated_the_older_compressed_and_the_oldest_removed() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(&folder, false);
    std::fs::write(&fake.log, "small").unwrap();
    rotate(&fake, LIMITS, at(0)).await;
    assert_eq!(names(&folder), set(&["0.log"]));
    for round in 1..=5 {
        let mut log = File::options().append(true).open(&fake.log).unwrap();
        write!(log, "text of round {round}").unwrap();
        rotate(&fake, LIMITS, at(round)).await;
    }
    assert_eq!(
        names(&folder),
        set(&[
            "0.log",
            "0.log.20260101-000003.gz",
            "0.log.20260101-000004.gz",
            "0.log.20260101-000005",
        ])
    );
    let mut text = String::new();
    let packed = File::open(folder.path().join("0.log.20260101-000004.gz")).unwrap();
    GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    assert_eq!(text, "text of round 4");
    assert_eq!(*fake.reopened.lock().unwrap(), 5);
}

#[tokio::test]
async fn a_log_whose_writer_does_not_let_go_keeps_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(&folder, true);
    std::fs::write(&fake.log, "a text that is long").unwrap();
    rotate(&fake, LIMITS, at(0)).await;
    assert_eq!(names(&folder), set(&["0.log"]));
    assert_eq!(std::fs::read_to_string(&fake.log).unwrap(), "a text that is long");
}

#[tokio::test]
async fn a_log_that_somebody_took_away_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(&folder, false);
    rotate(&fake, LIMITS, at(0)).await;
    assert_eq!(names(&folder), set(&["0.log"]));
}

#[tokio::test]
async fn no_link_is_followed_and_no_fifo_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(&folder, false);
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "not for logs").unwrap();
    symlink(&secret, &fake.log).unwrap();
    rotate(&fake, LIMITS, at(0)).await;
    assert_eq!(*fake.reopened.lock().unwrap(), 0);
    std::fs::remove_file(&fake.log).unwrap();

    // A foreign file with a rotated log's name does not prevent the rotation.
    std::fs::write(&fake.log, "a text that is long").unwrap();
    symlink(&secret, folder.path().join("0.log.20260101-000000")).unwrap();
    let fifo = folder.path().join("0.log.20260101-000001");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    rotate(&fake, LIMITS, at(5)).await;
    let found = names(&folder);
    assert!(found.contains("0.log.20260101-000005"), "{found:?}");
    assert!(!found.iter().any(|name| name.ends_with(".gz") || name.ends_with(".tmp")), "{found:?}");
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "not for logs");
}

#[tokio::test]
async fn nothing_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let fake = fake(&folder, false);
    std::fs::write(&fake.log, "a text that is long").unwrap();
    std::fs::create_dir(folder.path().join("0.log.20260101-000005")).unwrap();
    rotate(&fake, LIMITS, at(5)).await;
    assert_eq!(std::fs::read_to_string(&fake.log).unwrap(), "a text that is long");
}

#[test]
fn only_names_of_this_log_are_meant() {
    for (name, is) in [
        ("0.log.20260101-000000", true),
        ("0.log.20260101-000000.gz", true),
        ("0.log.20260101-000000.tmp", true),
        ("0.log", false),
        ("0.log.", false),
        ("0.log.old", false),
        ("0.log.20260101-00000", false),
        ("0.log.20260101-000000.gz.tmp", false),
        ("0.log.20260101_000000", false),
        ("10.log.20260101-000000", false),
        ("1.log.20260101-000000", false),
        ("0.log.2026é101-00000", false),
    ] {
        assert_eq!(is_rotated("0.log", name), is, "{name}");
    }
}

#[test]
fn a_plan_makes_room_for_one_more() {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let all = names(&[
        "0.log",
        "1.log.20260101-000009",
        "0.log.20260101-000001.gz",
        "0.log.20260101-000002",
        "0.log.20260101-000002.gz",
        "0.log.20260101-000003.tmp",
        "0.log.20260101-000004",
    ]);
    let made = plan("0.log", &all, 4);
    assert_eq!(
        made.remove,
        ["0.log.20260101-000002", "0.log.20260101-000003.tmp", "0.log.20260101-000001.gz"]
    );
    assert_eq!(made.compress, ["0.log.20260101-000004"]);
    assert_eq!(plan("0.log", &names(&["0.log"]), 5), Plan::default());
    assert_eq!(plan("0.log", &names(&["0.log.20260101-000001"]), 2).remove.len(), 1);
    assert_eq!(plan("0.log", &names(&["0.log.20260101-000001"]), 0).remove.len(), 1);
}

proptest! {
    #[test]
    fn a_plan_never_keeps_too_many_and_never_touches_others(
        stamps in prop::collection::btree_set((0u32..40, 0usize..3), 0..30),
        files in 0usize..8,
    ) {
        let mut names: Vec<String> = stamps
            .iter()
            .map(|(at, end)| format!("0.log.20260101-0000{at:02}{}", ["", ".gz", ".tmp"][*end]))
            .collect();
        names.extend(["0.log".to_owned(), "0.log.mine".to_owned()]);
        let plan = plan("0.log", &names, files);
        let left = names.iter().filter(|name| !plan.remove.contains(name)).count();
        prop_assert!(left - 2 <= files.saturating_sub(2));
        for name in plan.remove.iter().chain(&plan.compress) {
            prop_assert!(is_rotated("0.log", name));
        }
        for name in &plan.compress {
            prop_assert!(!plan.remove.contains(name));
        }
    }
}
