//! These tests run the real program.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The file that is embedded.
const FILE: &str = concat!(env!("OUT_DIR"), "/pause");

async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, found).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

/// Waits until the program sleeps, which it does only where it waits for signals.
async fn wait_ready(pid: u32) {
    wait_for("sleeping pause program", || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let is = |field| status.lines().any(|line: &str| line.starts_with(field));
        (is("Name:\tpause") && is("State:\tS")).then_some(())
    })
    .await;
}

fn children(pid: u32) -> Vec<u32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .map(|pid| pid.parse().expect("pid"))
        .collect()
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("pid")).expect("pid");
    kill_process(pid, signal).expect("kill");
}

/// A process that is killed when dropped, also when the test fails.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn is_a_small_static_program_for_this_machine() {
    assert_eq!(super::PROGRAM, fs::read(FILE).expect("read"));
    assert!(super::PROGRAM.starts_with(b"\x7fELF"));
    assert!(super::PROGRAM.len() < 16 * 1024, "{} bytes", super::PROGRAM.len());
    // No interpreter and no dynamic linking: types 3 and 2 of the program headers.
    let half =
        |at: usize| usize::from(super::PROGRAM[at]) | usize::from(super::PROGRAM[at + 1]) << 8;
    let (table, size, count) = (half(32), half(54), half(56));
    for header in 0..count {
        assert!(![2, 3].contains(&half(table + header * size)), "program header {header}");
    }
}

#[test]
fn prints_its_version() {
    let output = Command::new(FILE).arg("-v").output().expect("run");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text, concat!("podbay pause ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[tokio::test]
async fn ends_with_code_0_at_either_signal() {
    for end in [Signal::TERM, Signal::INT] {
        let mut pause = Killed(Command::new(FILE).spawn().expect("run"));
        wait_ready(pause.0.id()).await;
        signal(pause.0.id(), end);
        assert_eq!(pause.0.wait().expect("wait").code(), Some(0), "{end:?}");
    }
}

#[tokio::test]
async fn as_pid_1_it_reaps_orphans_and_ends_at_sigterm() {
    let unshare = Command::new("unshare").args(["--pid", "--fork", "--kill-child", FILE]).spawn();
    let mut unshare = Killed(unshare.expect("unshare (needs root)"));
    let pause = wait_for("pause process", || children(unshare.0.id()).first().copied()).await;
    wait_ready(pause).await;

    // The shell exits and leaves its child to PID 1; the child lives until its input ends.
    let mut shell = Command::new("nsenter")
        .args(["--pid", &format!("--target={pause}"), "sh", "-c", "exec 3<&0; cat <&3 & exit 0"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nsenter");
    let input = shell.stdin.take();
    assert!(shell.wait().expect("wait").success());
    let orphan = wait_for("orphan", || children(pause).first().copied()).await;
    drop(input);
    // Not only ended but reaped: an unreaped process would still be listed.
    wait_for("reaping", || (!children(pause).contains(&orphan)).then_some(())).await;

    signal(pause, Signal::TERM);
    assert_eq!(unshare.0.wait().expect("wait").code(), Some(0));
}
