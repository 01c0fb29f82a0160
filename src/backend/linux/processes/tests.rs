use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

#[test]
fn a_hostile_command_name_changes_nothing() {
    let line = b"7 (a) 1 2 (b)) S 1 7 6 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
    let expected = Stat { pid: 7, state: b'S', parent: 1, session: 6, start_time: 4711 };
    assert_eq!(Stat::parse(7, line), Some(expected));
    assert_eq!(Stat::parse(7, b"garbage"), None);
    assert_eq!(Stat::parse(7, b"7 (a) S 1"), None);
    assert!(start_time(std::process::id()).unwrap().unwrap() > 0);
    assert_eq!(start_time(u32::MAX).unwrap(), None);
}

#[test]
fn a_tree_has_descendants_and_sessions_and_nobody_else() {
    let stat = |pid, parent, session| Stat { pid, state: b'S', parent, session, start_time: 1 };
    let all = [
        stat(1, 0, 1),
        stat(9, 8, 5),
        stat(5, 1, 5),
        stat(6, 5, 5),
        // Its parent has ended; it is found by its session.
        stat(7, 1, 5),
        // The session of a descendant, with a member that lost its parent.
        stat(8, 6, 8),
        stat(10, 1, 8),
        stat(11, 10, 11),
        // An unrelated process.
        stat(12, 1, 1),
    ];
    let pids = |root| tree([root].into(), &all).iter().map(|stat| stat.pid).collect::<Vec<_>>();
    assert_eq!(pids(5), [9, 5, 6, 7, 8, 10, 11]);
    assert_eq!(pids(8), [9, 8, 10, 11]);
    assert_eq!(pids(12), [12]);
}

#[test]
fn a_session_without_its_leader_has_orphans() {
    let stat = |pid, session| Stat { pid, state: b'S', parent: 1, session, start_time: 1 };
    let all = [stat(1, 1), stat(20, 19), stat(21, 19), stat(22, 1), stat(23, 0), stat(24, 0)];
    let pids = |root: usize| orphans(&all[root], &all).map(|stat| stat.pid).collect::<Vec<_>>();
    assert_eq!(pids(1), [20, 21]);
    // Led by process 1, and by one that cannot be seen from here.
    assert_eq!((pids(3), pids(4)), (vec![], vec![]));
    // The agent's own namespace is none of a pod's.
    assert!(!Inside::of(std::process::id()).has(std::process::id()));
}

/// Number of processes whose command line contains this word.
fn living(word: &str) -> usize {
    let has = |stat: &Stat| {
        let line = fs::read(format!("/proc/{}/cmdline", stat.pid)).unwrap_or_default();
        stat.state != b'Z' && line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    all().unwrap().iter().filter(|stat| has(stat)).count()
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "too late: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn children_orphans_and_sessions_die_with_their_leader() {
    // A number that no other test uses with sleep.
    let seconds = (1_000_000 + std::process::id()).to_string();
    let script = format!(
        "sleep {seconds} & (sleep {seconds} &) ; setsid sh -c 'sleep {seconds} & wait' & \
         while :; do sh -c : ; done"
    );
    let mut leader = Command::new("setsid")
        .args(["sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .expect("setsid and sh");
    eventually("all run", || living(&seconds) == 3);
    let began = start_time(leader.id()).unwrap().expect("it lives");
    kill_tree(leader.id(), began + 1).unwrap();
    assert!(leader.try_wait().unwrap().is_none(), "a process of another start time was hit");
    assert_eq!(living(&seconds), 3);
    kill_tree(leader.id(), began).unwrap();
    eventually("all are gone", || living(&seconds) == 0);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&leader.wait().unwrap()), Some(9));
    kill_tree(leader.id(), began).unwrap();
}
