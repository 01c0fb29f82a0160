//! The contract of [`Runtime`].

use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use podbay::backend::{
    ErrorKind, NewExec, NewTask, Process, RootfsOptions, Runtime, RuntimeContainer, RuntimeEvent,
    Stdio, TaskState,
};
use podbay::ids::ContainerId;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

use super::{Env, Run, kind, new_path, soon};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// The suite's view of a backend.
struct Suite<'a> {
    runtime: &'a Arc<dyn Runtime>,
    env: &'a dyn Env,
}

/// Everything at once.
pub async fn runtime_contract(runtime: &Arc<dyn Runtime>, env: &dyn Env) {
    let suite = Suite { runtime, env };
    suite.says_what_it_is().await;
    suite.roots().await;
    suite.records().await;
    suite.life_of_a_task().await;
    suite.exits_are_kept_until_deleted().await;
    suite.signals().await;
    suite.a_created_task_can_be_deleted().await;
    suite.execs().await;
    suite.standard_streams().await;
    suite.terminals().await;
    suite.events().await;
}

impl Suite<'_> {
    async fn says_what_it_is(&self) {
        let info = self.runtime.probe().await.unwrap();
        assert!(!info.version.is_empty() && !info.uuid.is_empty());
        let handler = self.env.handler();
        assert!(info.snapshotters.iter().any(|found| found.name == handler.snapshotter));
        self.runtime.features(&handler).await.unwrap();
    }

    async fn roots(&self) {
        let (runtime, name) = (self.runtime, self.env.handler().snapshotter);
        let (chain, key) = (self.env.chain(), ContainerId::random().to_string());
        let options = RootfsOptions::default();
        let mounts = runtime.prepare_rootfs(&name, &key, Some(&chain), &options).await.unwrap();
        assert!(!mounts.is_empty());
        assert_eq!(runtime.rootfs_mounts(&name, &key).await.unwrap(), mounts);
        let again = runtime.prepare_rootfs(&name, &key, Some(&chain), &options).await;
        assert_eq!(kind(again), ErrorKind::AlreadyExists);
        assert!(runtime.list_rootfs(&name).await.unwrap().contains(&key));
        runtime.rootfs_usage(&name, &key).await.unwrap();

        let view = ContainerId::random().to_string();
        assert!(!runtime.view_rootfs(&name, &view, &chain).await.unwrap().is_empty());
        assert!(runtime.list_rootfs(&name).await.unwrap().contains(&view));

        let nowhere = podbay::model::image::Digest::of(view.as_bytes());
        let orphan = ContainerId::random().to_string();
        let missing = runtime.prepare_rootfs(&name, &orphan, Some(&nowhere), &options).await;
        assert_eq!(kind(missing), ErrorKind::NotFound);

        for key in [&key, &view] {
            runtime.remove_rootfs(&name, key).await.unwrap();
            runtime.remove_rootfs(&name, key).await.expect("gone is fine");
        }
        let left = runtime.list_rootfs(&name).await.unwrap();
        assert!(!left.contains(&key) && !left.contains(&view) && !left.contains(&orphan));
        assert_eq!(kind(runtime.rootfs_mounts(&name, &key).await), ErrorKind::NotFound);
        assert_eq!(kind(runtime.rootfs_usage(&name, &key).await), ErrorKind::NotFound);
    }

    async fn records(&self) {
        let id = ContainerId::random().to_string();
        let record = self.record(&id, Run::UntilTerm);
        assert_eq!(kind(self.runtime.container(&id).await), ErrorKind::NotFound);
        self.runtime.create_container(&record).await.unwrap();
        let again = self.runtime.create_container(&record).await;
        assert_eq!(kind(again), ErrorKind::AlreadyExists);

        let found = self.runtime.container(&id).await.unwrap();
        assert_eq!((&found.id, &found.spec), (&record.id, &record.spec));
        assert_eq!(found.extension, record.extension);
        assert_eq!(found.labels.get("contract"), Some(&"yes".to_owned()));
        let all = self.runtime.list_containers().await.unwrap();
        let listed = all.iter().find(|found| found.id == id).expect("listed");
        assert_eq!((&listed.spec, &listed.extension), (&record.spec, &record.extension));
        assert!(self.runtime.container_ids().await.unwrap().contains(&id));

        let spec = self.env.spec(&id, Run::Exit(5));
        self.runtime.update_container_spec(&id, &spec).await.unwrap();
        assert_eq!(self.runtime.container(&id).await.unwrap().spec, spec);

        self.runtime.delete_container(&id).await.unwrap();
        self.runtime.delete_container(&id).await.expect("gone is fine");
        let gone = self.runtime.update_container_spec(&id, &spec).await;
        assert_eq!(kind(gone), ErrorKind::NotFound);
        let all = self.runtime.list_containers().await.unwrap();
        assert!(all.iter().all(|found| found.id != id));
        assert!(!self.runtime.container_ids().await.unwrap().contains(&id));
    }

    async fn life_of_a_task(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        let init = Process::init(&id);
        assert_eq!(runtime.task(init).await.unwrap(), None);
        assert_eq!(kind(runtime.wait(init).await), ErrorKind::NotFound);
        assert_eq!(kind(runtime.kill(init, SIGKILL, false).await), ErrorKind::NotFound);
        assert_eq!(runtime.delete_task(init, true).await.unwrap(), None);

        let pid = self.create(&id, Run::UntilTerm, Stdio::default()).await;
        assert!(pid > 0);
        let status = runtime.task(init).await.unwrap().expect("created");
        assert_eq!((status.pid, status.state), (pid, TaskState::Created));
        assert_eq!(status.id, id);
        let again = NewTask { id: id.clone(), rootfs: Vec::new(), stdio: Stdio::default() };
        assert_eq!(kind(runtime.create_task(&again).await), ErrorKind::AlreadyExists);

        assert_eq!(runtime.start(init).await.unwrap(), pid);
        kind(runtime.start(init).await);
        let tasks = runtime.list_tasks().await.unwrap();
        let listed = tasks.iter().find(|task| task.id == id).expect("listed");
        assert_eq!((listed.pid, listed.state), (pid, TaskState::Running));
        assert!(runtime.pids(&id).await.unwrap().contains(&pid));
        let limits = json!({ "cpu": { "shares": 512 } });
        runtime.update_resources(&id, &limits).await.unwrap();

        kind(runtime.delete_task(init, false).await);
        assert!(runtime.task(init).await.unwrap().is_some(), "a live task was deleted");
        let exit = runtime.delete_task(init, true).await.unwrap().expect("its end");
        assert_eq!(exit.code, 137);
        assert_eq!(runtime.task(init).await.unwrap(), None);
        self.remove(&id).await;
    }

    async fn exits_are_kept_until_deleted(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        let init = Process::init(&id);
        self.create(&id, Run::Exit(3), Stdio::default()).await;
        let waiting = {
            let (runtime, id) = (Arc::clone(runtime), id.clone());
            async move { runtime.wait(Process::init(&id)).await }
        };
        let (early, started) = tokio::join!(soon("early wait", waiting), runtime.start(init));
        started.unwrap();
        let exit = early.expect("a wait from before the start");
        assert_eq!(exit.code, 3);
        assert_eq!(soon("late wait", runtime.wait(init)).await.unwrap(), exit);
        let status = runtime.task(init).await.unwrap().expect("kept");
        assert_eq!((status.pid, status.state), (0, TaskState::Stopped(exit)));
        assert_eq!(kind(runtime.kill(init, SIGKILL, false).await), ErrorKind::NotFound);

        assert_eq!(runtime.delete_task(init, false).await.unwrap(), Some(exit));
        assert_eq!(runtime.delete_task(init, false).await.unwrap(), None);
        assert_eq!(kind(runtime.wait(init).await), ErrorKind::NotFound);
        self.remove(&id).await;
    }

    async fn signals(&self) {
        for (run, signals, code) in
            [(Run::UntilTerm, &[SIGTERM][..], 143), (Run::UntilKill, &[SIGTERM, SIGKILL], 137)]
        {
            let (runtime, id) = (self.runtime, ContainerId::random().to_string());
            let init = Process::init(&id);
            self.create(&id, run, Stdio::default()).await;
            runtime.start(init).await.unwrap();
            self.is_up(&id, run).await;
            for (place, signal) in signals.iter().enumerate() {
                if place > 0 {
                    let status = runtime.task(init).await.unwrap().expect("still there");
                    assert_eq!(status.state, TaskState::Running);
                }
                runtime.kill(init, *signal, false).await.unwrap();
            }
            assert_eq!(soon("its end", runtime.wait(init)).await.unwrap().code, code);
            runtime.delete_task(init, false).await.unwrap();
            self.remove(&id).await;
        }
    }

    async fn a_created_task_can_be_deleted(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        self.create(&id, Run::UntilTerm, Stdio::default()).await;
        runtime.delete_task(Process::init(&id), true).await.unwrap();
        assert_eq!(runtime.task(Process::init(&id)).await.unwrap(), None);
        self.remove(&id).await;
    }

    async fn execs(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        let missing = self.new_exec(&id, "early", Run::Exit(0), Stdio::default());
        assert_eq!(kind(runtime.exec(&missing).await), ErrorKind::NotFound);
        self.create(&id, Run::UntilTerm, Stdio::default()).await;
        runtime.start(Process::init(&id)).await.unwrap();

        let quick = Process::exec(&id, "quick");
        let new = self.new_exec(&id, "quick", Run::Exit(9), Stdio::default());
        runtime.exec(&new).await.unwrap();
        assert_eq!(kind(runtime.exec(&new).await), ErrorKind::AlreadyExists);
        assert!(runtime.start(quick).await.unwrap() > 0);
        let exit = soon("exec", runtime.wait(quick)).await.unwrap();
        assert_eq!(exit.code, 9);
        assert_eq!(runtime.delete_task(quick, false).await.unwrap(), Some(exit));
        assert_eq!(runtime.delete_task(quick, false).await.unwrap(), None);
        assert_eq!(runtime.task(quick).await.unwrap(), None);

        let long = Process::exec(&id, "long");
        let new = self.new_exec(&id, "long", Run::UntilKill, Stdio::default());
        runtime.exec(&new).await.unwrap();
        let pid = runtime.start(long).await.unwrap();
        let status = runtime.task(long).await.unwrap().expect("running");
        assert_eq!((status.pid, status.state), (pid, TaskState::Running));
        assert!(runtime.pids(&id).await.unwrap().contains(&pid));
        let exit = runtime.delete_task(long, true).await.unwrap().expect("its end");
        assert_eq!(exit.code, 137);

        let unstarted = self.new_exec(&id, "unstarted", Run::Exit(0), Stdio::default());
        runtime.exec(&unstarted).await.unwrap();
        runtime.delete_task(Process::exec(&id, "unstarted"), true).await.unwrap();

        let status = runtime.task(Process::init(&id)).await.unwrap().expect("init");
        assert_eq!(status.state, TaskState::Running, "execs end alone");
        runtime.delete_task(Process::init(&id), true).await.unwrap();
        self.remove(&id).await;
    }

    async fn standard_streams(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        let stdio = self.fifos(true);
        let mut stdout = reader(&stdio.stdout);
        let _stderr = reader(&stdio.stderr);
        self.create(&id, Run::Cat, stdio.clone()).await;
        let init = Process::init(&id);
        assert_eq!(runtime.task(init).await.unwrap().expect("created").stdio, stdio);
        runtime.start(init).await.unwrap();
        let mut stdin = pipe::OpenOptions::new()
            .open_sender(stdio.stdin.as_ref().expect("stdin"))
            .expect("somebody reads stdin");
        stdin.write_all(b"to and fro").await.unwrap();
        let mut buffer = [0; 10];
        soon("echo", stdout.read_exact(&mut buffer)).await.unwrap();
        assert_eq!(&buffer, b"to and fro");

        let exec_stdio = self.fifos(false);
        let mut exec_stdout = reader(&exec_stdio.stdout);
        let _exec_stderr = reader(&exec_stdio.stderr);
        let exec = Process::exec(&id, "echo");
        runtime.exec(&self.new_exec(&id, "echo", Run::Echo("words"), exec_stdio)).await.unwrap();
        runtime.start(exec).await.unwrap();
        let mut text = String::new();
        soon("exec output", exec_stdout.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "words\n");
        assert_eq!(soon("exec end", runtime.wait(exec)).await.unwrap().code, 0);
        runtime.delete_task(exec, false).await.unwrap();

        // Our end alone does not end stdin: the shim keeps one too.
        drop(stdin);
        runtime.close_stdin(init).await.unwrap();
        assert_eq!(soon("cat's end", runtime.wait(init)).await.unwrap().code, 0);
        runtime.delete_task(init, false).await.unwrap();
        let mut rest = Vec::new();
        soon("end of output", stdout.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.is_empty());
        self.remove(&id).await;
    }

    async fn terminals(&self) {
        let (runtime, id) = (self.runtime, ContainerId::random().to_string());
        self.create(&id, Run::UntilTerm, Stdio::default()).await;
        runtime.start(Process::init(&id)).await.unwrap();
        let stdio = Stdio { stderr: None, terminal: true, ..self.fifos(true) };
        let mut stdout = reader(&stdio.stdout);
        let stdin = stdio.stdin.clone().expect("stdin");
        let exec = Process::exec(&id, "terminal");
        let mut new = self.new_exec(&id, "terminal", Run::Cat, stdio);
        new.process["terminal"] = true.into();
        runtime.exec(&new).await.unwrap();
        runtime.start(exec).await.unwrap();
        runtime.resize(exec, 100, 30).await.unwrap();
        runtime.resize(exec, 0, 0).await.expect("a size that is not known");
        let opened = async {
            loop {
                match pipe::OpenOptions::new().open_sender(&stdin) {
                    Ok(sender) => return sender,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        let mut stdin = soon("stdin is read", opened).await;
        stdin.write_all(b"word\n").await.unwrap();
        let mut text = Vec::new();
        let heard = async {
            // A real terminal says it a second time, the way it was typed.
            while !text.ends_with(b"word\n") && !text.ends_with(b"word\r\n") {
                text.push(stdout.read_u8().await.unwrap());
            }
        };
        soon("its word", heard).await;
        assert_eq!(runtime.delete_task(exec, true).await.unwrap().expect("its end").code, 137);
        runtime.delete_task(Process::init(&id), true).await.unwrap();
        self.remove(&id).await;
    }

    async fn events(&self) {
        let mut events = self.runtime.events();
        let first = soon("first event", events.next()).await;
        assert_eq!(first, Some(RuntimeEvent::Connected));
        let id = ContainerId::random().to_string();
        self.create(&id, Run::Exit(0), Stdio::default()).await;
        self.runtime.start(Process::init(&id)).await.unwrap();
        let ended = RuntimeEvent::Exit { container: id.clone(), exec: None };
        let seen = async { while events.next().await.expect("endless") != ended {} };
        soon("exit event", seen).await;
        self.runtime.delete_task(Process::init(&id), true).await.unwrap();
        self.remove(&id).await;
    }

    fn record(&self, id: &str, run: Run) -> RuntimeContainer {
        RuntimeContainer {
            id: id.to_owned(),
            image: "contract.example/image:1".into(),
            labels: [("contract".to_owned(), "yes".to_owned())].into(),
            sandbox: None,
            handler: self.env.handler(),
            spec: self.env.spec(id, run),
            snapshot_key: Some(id.to_owned()),
            extension: json!({ "version": 1, "note": "kept with the record" }),
        }
    }

    /// A root, a record and a task.
    async fn create(&self, id: &str, run: Run, stdio: Stdio) -> u32 {
        let (name, chain) = (self.env.handler().snapshotter, self.env.chain());
        let options = RootfsOptions::default();
        let rootfs = self.runtime.prepare_rootfs(&name, id, Some(&chain), &options).await.unwrap();
        self.runtime.create_container(&self.record(id, run)).await.unwrap();
        let task = NewTask { id: id.to_owned(), rootfs, stdio };
        self.runtime.create_task(&task).await.unwrap()
    }

    /// The record and root of a task that was deleted.
    async fn remove(&self, id: &str) {
        self.runtime.delete_container(id).await.unwrap();
        self.runtime.remove_rootfs(&self.env.handler().snapshotter, id).await.unwrap();
    }

    /// Waits until a process had the time to set its signal handlers: an exec that starts after
    /// it and ends is proof enough for the programs of the suite.
    async fn is_up(&self, id: &str, run: Run) {
        if matches!(run, Run::UntilTerm | Run::UntilKill) {
            for number in 0..2 {
                let name = format!("probe-{number}");
                let new = self.new_exec(id, &name, Run::Exit(0), Stdio::default());
                let exec = Process::exec(id, &name);
                self.runtime.exec(&new).await.unwrap();
                self.runtime.start(exec).await.unwrap();
                soon("probe", self.runtime.wait(exec)).await.unwrap();
                self.runtime.delete_task(exec, false).await.unwrap();
            }
        }
    }

    fn new_exec(&self, id: &str, exec_id: &str, run: Run, stdio: Stdio) -> NewExec {
        let process = self.env.process(run);
        NewExec { id: id.to_owned(), exec_id: exec_id.to_owned(), process, stdio }
    }

    fn fifos(&self, stdin: bool) -> Stdio {
        let make = |name: &str| -> PathBuf {
            let path = new_path(self.env.folder(), name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        };
        Stdio {
            stdin: stdin.then(|| make("stdin")),
            stdout: Some(make("stdout")),
            stderr: Some(make("stderr")),
            terminal: false,
        }
    }
}

/// The agent's end of an output, open before the process is made.
fn reader(path: &Option<PathBuf>) -> pipe::Receiver {
    pipe::OpenOptions::new().open_receiver(path.as_ref().expect("a path")).unwrap()
}
