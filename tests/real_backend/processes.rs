//! Tasks and execs.

use std::fs::File;
use std::io::Write;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbay::backend::{ErrorKind, NewTask, Process, Runtime, Stdio, TaskState};
use serde_json::json;

use crate::rig::{Rig, SNAPSHOTTER, read_all, until};

const KILL: i32 = 9;

pub async fn a_process_runs_to_its_end(rig: &mut Rig) {
    let id = rig.container(&["/bin/sh", "-c", "echo out; echo err >&2; exit 7"]).await;
    let init = Process::init(&id);
    let stdio =
        Stdio { stdout: Some(rig.fifo("out")), stderr: Some(rig.fifo("err")), ..Stdio::default() };
    let out = read_all(stdio.stdout.clone().unwrap());
    let err = read_all(stdio.stderr.clone().unwrap());
    let backend = &rig.backend;
    assert_eq!(backend.task(init).await.unwrap(), None);
    rig.create(&id, stdio.clone()).await;
    let created = backend.task(init).await.unwrap().unwrap();
    assert_eq!((created.id.as_str(), created.state), (id.as_str(), TaskState::Created));
    assert_eq!(created.stdio, stdio);

    // The wait is there before the start.
    let (early, pid) = tokio::join!(backend.wait(init), backend.start(init));
    assert_eq!(pid.unwrap(), created.pid);
    let early = early.unwrap();
    assert_eq!(early.code, 7);
    let now = time::OffsetDateTime::now_utc().unix_timestamp_nanos();
    assert!((now - i128::from(early.at)).abs() < 60_000_000_000, "ended at {}", early.at);
    assert_eq!(backend.wait(init).await.unwrap(), early, "a wait after the end");
    let ended = backend.task(init).await.unwrap().unwrap();
    assert_eq!((ended.pid, ended.state), (0, TaskState::Stopped(early)));

    assert_eq!(backend.delete_task(init, false).await.unwrap(), Some(early));
    assert_eq!(out.join().unwrap(), "out\n");
    assert_eq!(err.join().unwrap(), "err\n");
    assert_eq!(backend.delete_task(init, false).await.unwrap(), None);
    assert_eq!(backend.wait(init).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(backend.task(init).await.unwrap(), None);
    rig.remove(&id).await;
}

pub async fn a_process_is_killed(rig: &mut Rig) {
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let (backend, init) = (&rig.backend, Process::init(&id));
    let busy = backend.delete_task(init, false).await.unwrap_err();
    assert_eq!(busy.kind, ErrorKind::FailedPrecondition, "{busy:?}");
    let bad = backend.kill(init, -1, false).await.unwrap_err();
    assert_eq!(bad.kind, ErrorKind::InvalidArgument);
    let (ended, sent) = tokio::join!(backend.wait(init), backend.kill(init, KILL, false));
    sent.unwrap();
    assert_eq!(ended.unwrap().code, 128 + 9);
    let late = backend.kill(init, KILL, false).await.unwrap_err();
    assert_eq!(late.kind, ErrorKind::NotFound, "{late:?}");
    assert_eq!(backend.delete_task(init, true).await.unwrap().unwrap().code, 128 + 9);
    rig.remove(&id).await;

    // All at once: kill, wait, delete.
    let id = rig.running(&["/bin/sh", "-c", "sleep 1000 & sleep 1000"]).await;
    let exit = rig.backend.delete_task(Process::init(&id), true).await.unwrap();
    assert_eq!(exit.unwrap().code, 128 + 9);
    rig.remove(&id).await;
}

pub async fn many_waits_hold_up_nothing(rig: &mut Rig) {
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let init = Process::init(&id);
    let waits = futures::future::join_all((0..300).map(|_| rig.backend.wait(init)));
    let killed = async {
        for _ in 0..20 {
            assert!(rig.backend.task(init).await.unwrap().is_some());
        }
        rig.backend.kill(init, KILL, false).await.unwrap();
    };
    let (ended, ()) = tokio::join!(waits, killed);
    assert!(ended.iter().all(|exit| exit.as_ref().unwrap().code == 128 + 9));
    rig.remove(&id).await;
}

pub async fn an_unstarted_task_is_deleted(rig: &mut Rig) {
    for with_kill in [false, true] {
        let id = rig.container(&["/bin/true"]).await;
        rig.create(&id, Stdio::default()).await;
        let pid = rig.backend.task(Process::init(&id)).await.unwrap().unwrap().pid;
        assert!(rig.backend.delete_task(Process::init(&id), with_kill).await.unwrap().is_some());
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        until("its process is gone", || async { kill(pid, None::<Signal>).is_err() }).await;
        rig.remove(&id).await;
    }
}

pub async fn execs_have_output_and_codes(rig: &mut Rig) {
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let backend = &rig.backend;
    let exec = Process::exec(&id, "e-1");
    let stdio = Stdio { stdout: Some(rig.fifo("e1")), ..Stdio::default() };
    let out = read_all(stdio.stdout.clone().unwrap());
    rig.exec(&id, "e-1", &["/bin/sh", "-c", "echo hello; exit 3"], stdio).await;
    let pid = backend.start(exec).await.unwrap();
    assert!(pid > 1);
    let exit = backend.wait(exec).await.unwrap();
    assert_eq!(exit.code, 3);
    assert_eq!(backend.task(exec).await.unwrap().unwrap().state, TaskState::Stopped(exit));
    assert_eq!(backend.delete_task(exec, false).await.unwrap(), Some(exit));
    assert_eq!(out.join().unwrap(), "hello\n");
    assert_eq!(backend.delete_task(exec, false).await.unwrap(), None);
    assert_eq!(backend.wait(exec).await.unwrap_err().kind, ErrorKind::NotFound);

    // A running one is killed with its deletion, and init lives on.
    let exec = Process::exec(&id, "e-2");
    rig.exec(&id, "e-2", &["/bin/sleep", "1000"], Stdio::default()).await;
    backend.start(exec).await.unwrap();
    assert_eq!(backend.delete_task(exec, true).await.unwrap().unwrap().code, 128 + 9);
    let init = backend.task(Process::init(&id)).await.unwrap().unwrap();
    assert_eq!(init.state, TaskState::Running);

    // One that was only registered is deleted without waiting for an end that never comes.
    rig.exec(&id, "e-3", &["/bin/true"], Stdio::default()).await;
    backend.delete_task(Process::exec(&id, "e-3"), true).await.unwrap();
    assert_eq!(backend.task(Process::exec(&id, "e-3")).await.unwrap(), None);

    // A program that is not there fails at its start, with a reason.
    rig.exec(&id, "e-4", &["/bin/nothing"], Stdio::default()).await;
    let error = backend.start(Process::exec(&id, "e-4")).await.unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("/bin/nothing"), "{reason}");
    backend.delete_task(Process::exec(&id, "e-4"), true).await.unwrap();
    rig.remove(&id).await;
}

pub async fn stdin_ends_and_terminals_are_resized(rig: &mut Rig) {
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let backend = &rig.backend;
    let stdio = Stdio {
        stdin: Some(rig.fifo("cat-in")),
        stdout: Some(rig.fifo("cat-out")),
        ..Stdio::default()
    };
    let out = read_all(stdio.stdout.clone().unwrap());
    let write_end = stdio.stdin.clone().unwrap();
    rig.exec(&id, "cat", &["/bin/cat"], stdio).await;
    let cat = Process::exec(&id, "cat");
    backend.start(cat).await.unwrap();
    let mut input = File::options().write(true).open(write_end).unwrap();
    input.write_all(b"to the end").unwrap();
    drop(input);
    backend.close_stdin(cat).await.unwrap();
    assert_eq!(backend.wait(cat).await.unwrap().code, 0);
    backend.delete_task(cat, false).await.unwrap();
    assert_eq!(out.join().unwrap(), "to the end");

    let stdio = Stdio {
        stdin: Some(rig.fifo("tty-in")),
        stdout: Some(rig.fifo("tty-out")),
        stderr: None,
        terminal: true,
    };
    let out = read_all(stdio.stdout.clone().unwrap());
    let write_end = stdio.stdin.clone().unwrap();
    rig.exec(&id, "tty", &["/bin/sh", "-c", "read line; stty size"], stdio).await;
    let tty = Process::exec(&id, "tty");
    backend.start(tty).await.unwrap();
    backend.resize(tty, 0, 0).await.unwrap();
    backend.resize(tty, 100, 30).await.unwrap();
    let mut input = File::options().write(true).open(write_end).unwrap();
    input.write_all(b"go\n").unwrap();
    assert_eq!(backend.wait(tty).await.unwrap().code, 0);
    backend.delete_task(tty, false).await.unwrap();
    let text = out.join().unwrap();
    assert!(text.contains("30 100"), "{text:?}");
    rig.remove(&id).await;
}

pub async fn limits_change_and_processes_are_listed(rig: &mut Rig) {
    let id = rig.running(&["/bin/sh", "-c", "sleep 1000 & sleep 1000; exit"]).await;
    let other = rig.container(&["/bin/true"]).await;
    let backend = &rig.backend;
    let tasks = backend.list_tasks().await.unwrap();
    let init = backend.task(Process::init(&id)).await.unwrap().unwrap();
    assert_eq!(tasks, std::slice::from_ref(&init), "and none of {other}");
    until("all its processes are there", || async {
        let pids = backend.pids(&id).await.unwrap();
        pids.len() == 3 && pids.contains(&init.pid)
    })
    .await;
    let file = rig.cgroup_file(&id, "cpu", "cpu.shares", "cpu.weight");
    let before = std::fs::read_to_string(&file).unwrap();
    backend.update_resources(&id, &json!({"cpu": {"shares": 512}})).await.unwrap();
    let after = std::fs::read_to_string(&file).unwrap();
    assert_ne!(after, before);
    if file.ends_with("cpu.shares") {
        assert_eq!(after.trim(), "512");
    }
    rig.remove(&id).await;
    assert_eq!(backend.list_tasks().await.unwrap(), []);
}

pub async fn bad_requests_are_told_apart(rig: &mut Rig) {
    let backend = &rig.backend;
    let nobody = Process::init("nobody");
    for error in [
        backend.start(nobody).await.unwrap_err(),
        backend.wait(nobody).await.unwrap_err(),
        backend.kill(nobody, KILL, true).await.unwrap_err(),
        backend.close_stdin(nobody).await.unwrap_err(),
        backend.resize(nobody, 80, 25).await.unwrap_err(),
        backend.pids("nobody").await.unwrap_err(),
        backend.update_resources("nobody", &json!({})).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::NotFound, "{error:?}");
    }
    assert_eq!(backend.task(nobody).await.unwrap(), None);
    assert_eq!(backend.delete_task(nobody, true).await.unwrap(), None);

    let id = rig.container(&["/bin/nothing"]).await;
    let rootfs = backend.rootfs_mounts(SNAPSHOTTER, &id).await.unwrap();
    let task = NewTask { id: id.clone(), rootfs, stdio: Stdio::default() };
    let error = match backend.create_task(&task).await {
        // Where the missing program shows depends on the OCI runtime.
        Ok(_) => backend.start(Process::init(&id)).await.unwrap_err(),
        Err(error) => error,
    };
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert!(reason.contains("/bin/nothing"), "{reason}");
    rig.remove(&id).await;

    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let rootfs = backend.rootfs_mounts(SNAPSHOTTER, &id).await.unwrap();
    let twice = NewTask { id: id.clone(), rootfs, stdio: Stdio::default() };
    let error = backend.create_task(&twice).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::AlreadyExists, "{error:?}");
    rig.remove(&id).await;
}
