//! The daemon itself: features, reports, and being down.

use std::time::Duration;

use containerd_client::services::v1::sandbox::StoreListRequest;
use containerd_client::services::v1::sandbox::store_client::StoreClient;
use containerd_client::tonic::Request;
use containerd_client::with_namespace;
use futures::StreamExt;
use futures::stream::BoxStream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podbay::backend::containerd::{Containerd, Options};
use podbay::backend::{
    CallDeadlines, ErrorKind, HandlerFeatures, Images, Process, Runtime, RuntimeEvent,
    RuntimeHandler, Stdio, TaskState,
};
use serde_json::{Value, json};

use crate::containerd::{Line, PrivateContainerd};
use crate::image::TestImage;
use crate::rig::{NAMESPACE, Rig, SNAPSHOTTER, random_id, until};

pub async fn it_says_what_it_can(rig: &mut Rig) {
    let backend = &rig.backend;
    let info = backend.probe().await.unwrap();
    let expected = if rig.daemon.line() == Line::V1 { "1." } else { "2." };
    let version = info.version.trim_start_matches('v');
    assert!(version.starts_with(expected), "{version}");
    assert!(!info.uuid.is_empty());
    assert!(!info.cri_plugin_enabled);
    let overlay = info.snapshotters.iter().find(|found| found.name == SNAPSHOTTER).unwrap();
    assert!(overlay.root.starts_with(rig.daemon.root()), "{}", overlay.root.display());

    let features = backend.features(&rig.handler()).await.unwrap();
    assert!(features.seccomp);
    assert!(features.oci_version_max.starts_with("1."), "{}", features.oci_version_max);
    assert!(features.recursive_read_only_mounts);
    assert_eq!(features.user_namespaces, rig.daemon.line() == Line::V2);
    if rig.daemon.line() == Line::V1 {
        let missing = RuntimeHandler { binary: "no-such-runtime".into(), ..rig.handler() };
        assert_eq!(backend.features(&missing).await.unwrap(), HandlerFeatures::default());
        let other = RuntimeHandler { runtime_type: "io.other.v1".into(), ..rig.handler() };
        assert_eq!(backend.features(&other).await.unwrap(), HandlerFeatures::default());
    }

    let daemon = PrivateContainerd::start_with(rig.daemon.line(), true);
    let options = Options {
        address: daemon.address(),
        namespace: NAMESPACE.into(),
        deadlines: CallDeadlines::default(),
    };
    let backend = Containerd::connect(options).unwrap();
    assert!(backend.probe().await.unwrap().cri_plugin_enabled);
}

/// The next event that is wanted; others may come before it.
async fn next(events: &mut BoxStream<'static, RuntimeEvent>, wanted: &RuntimeEvent) {
    let look = async { while events.next().await.as_ref() != Some(wanted) {} };
    let found = tokio::time::timeout(Duration::from_secs(30), look).await;
    assert!(found.is_ok(), "never came: {wanted:?}");
}

pub async fn events_hurry(rig: &mut Rig) {
    let mut events = rig.backend.events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Connected));
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    next(&mut events, &RuntimeEvent::ImagesChanged).await;

    rig.exec(&id, "e-1", &["/bin/true"], Stdio::default()).await;
    rig.backend.start(Process::exec(&id, "e-1")).await.unwrap();
    let exit = |exec: Option<&str>| RuntimeEvent::Exit {
        container: id.clone(),
        exec: exec.map(str::to_owned),
    };
    next(&mut events, &exit(Some("e-1"))).await;
    rig.backend.delete_task(Process::exec(&id, "e-1"), false).await.unwrap();
    rig.backend.kill(Process::init(&id), 9, false).await.unwrap();
    next(&mut events, &exit(None)).await;
    rig.remove(&id).await;

    rig.daemon.kill9();
    next(&mut events, &RuntimeEvent::Disconnected).await;
    rig.daemon.restart();
    next(&mut events, &RuntimeEvent::Connected).await;
    rig.backend.delete_image(TestImage::NAME, false).await.unwrap();
    next(&mut events, &RuntimeEvent::ImagesChanged).await;
}

pub async fn memory_limits_are_reported(rig: &mut Rig) {
    let mut events = rig.backend.events();
    assert_eq!(events.next().await, Some(RuntimeEvent::Connected));
    let chain = TestImage::busybox().store(&rig.backend).await;
    let limit = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    // The shim of 1.6 begins to watch the memory cgroup a moment after the start: a process that
    // is killed before that is not told of.
    let hog = "sleep 1; exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let hog = ["/bin/sh", "-c", hog];
    let limited = |spec: &mut Value| spec["linux"]["resources"] = limit;
    let id = rig.container_on(&chain, &hog, limited).await;
    rig.create(&id, Stdio::default()).await;
    rig.backend.start(Process::init(&id)).await.unwrap();
    next(&mut events, &RuntimeEvent::Oom { container: id.clone() }).await;
    assert_eq!(rig.backend.wait(Process::init(&id)).await.unwrap().code, 128 + 9);
    rig.remove(&id).await;
}

/// Two running containers of one pod, as podbay runs them, with one shim for both; and one that is
/// alone in its shim. The first stays, the others end with code 9 once they have a file `/end`.
async fn staying_ending_and_alone(rig: &Rig) -> [String; 3] {
    let chain = TestImage::busybox().store(&rig.backend).await;
    let pod = random_id();
    let in_pod = |spec: &mut Value| {
        spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": pod});
    };
    let told = ["/bin/sh", "-c", "while ! test -e /end; do sleep 0.05; done; exit 9"];
    let ids = [
        rig.container_on(&chain, &["/bin/sleep", "1000"], in_pod).await,
        rig.container_on(&chain, &told, in_pod).await,
        rig.container(&told).await,
    ];
    for id in &ids {
        rig.create(id, Stdio::default()).await;
        rig.backend.start(Process::init(id)).await.unwrap();
    }
    assert_eq!(rig.daemon.shims().len(), 2);
    ids
}

pub async fn a_wait_survives_a_killed_daemon(rig: &mut Rig) {
    let [staying, ending, alone] = staying_ending_and_alone(rig).await;
    let mut pids = Vec::new();
    for id in [&ending, &alone] {
        pids.push(rig.backend.task(Process::init(id)).await.unwrap().unwrap().pid);
    }
    let waiter = |id: &str| {
        let (backend, id) = (rig.backend.clone(), id.to_owned());
        async move { backend.wait(Process::init(&id)).await }
    };
    // A wait cannot be seen from outside, but it is sent before the daemon is killed: the call
    // after it goes over the same connection.
    let mut waits = Box::pin(futures::future::join(waiter(&staying), waiter(&ending)));
    assert!(futures::poll!(&mut waits).is_pending());
    tokio::select! {
        ended = &mut waits => panic!("{ended:?}"),
        probed = rig.backend.probe() => drop(probed.unwrap()),
    }
    rig.daemon.kill9();
    let (one, two) = waits.await;
    assert_eq!(one.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(two.unwrap_err().kind, ErrorKind::Unavailable);
    let away = rig.backend.probe().await.unwrap_err();
    assert_eq!(away.kind, ErrorKind::Unavailable, "{away:?}");

    // These end while nobody looks.
    for pid in pids {
        std::fs::write(format!("/proc/{pid}/root/end"), "").unwrap();
        let gone = || async { std::fs::read_link(format!("/proc/{pid}/exe")).is_err() };
        until("it has ended", gone).await;
    }
    // The second start finds what the first one left.
    for _ in 0..2 {
        rig.daemon.restart();
        until("the daemon is back", || async { rig.backend.probe().await.is_ok() }).await;
        for id in [&ending, &alone] {
            let exit = rig.backend.wait(Process::init(id)).await.unwrap();
            assert_eq!(exit.code, 9, "kept by the shim");
        }
    }
    let running = rig.backend.task(Process::init(&staying)).await.unwrap().unwrap();
    assert_eq!(running.state, TaskState::Running);
    let init = Process::init(&staying);
    let (ended, sent) = tokio::join!(rig.backend.wait(init), rig.backend.kill(init, 9, false));
    sent.unwrap();
    assert_eq!(ended.unwrap().code, 128 + 9);
    for id in [&ending, &staying, &alone] {
        assert!(rig.backend.delete_task(Process::init(id), false).await.unwrap().is_some());
        rig.backend.remove_rootfs(SNAPSHOTTER, id).await.unwrap();
        rig.backend.delete_container(id).await.unwrap();
    }
    until("the shims have ended", || async { rig.daemon.shims().is_empty() }).await;
    if rig.daemon.line() == Line::V2 {
        assert_eq!(marks(rig).await, 0, "marks stay behind");
    }
}

/// Records in the daemon's sandbox store.
async fn marks(rig: &Rig) -> usize {
    let channel = containerd_client::connect(rig.daemon.address()).await.unwrap();
    let request = with_namespace!(StoreListRequest::default(), NAMESPACE);
    StoreClient::new(channel).list(request).await.unwrap().into_inner().list.len()
}

pub async fn a_dead_shim_is_cleaned_up(rig: &mut Rig) {
    let id = rig.running(&["/bin/sleep", "1000"]).await;
    let (backend, init) = (rig.backend.clone(), Process::init(&id));
    let pid = backend.task(init).await.unwrap().unwrap().pid;
    let shims = rig.daemon.shims();
    assert_eq!(shims.len(), 1);
    let shim = Pid::from_raw(i32::try_from(shims[0]).unwrap());
    let kill_it = async {
        kill(shim, Signal::SIGKILL).unwrap();
    };
    let (ended, ()) = tokio::join!(backend.wait(init), kill_it);
    let error = ended.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::NotFound), "{error:?}");
    until("the task is given up", || async {
        matches!(backend.delete_task(init, true).await, Ok(None))
    })
    .await;
    assert_eq!(backend.task(init).await.unwrap(), None);
    let gone = || async { std::fs::read_link(format!("/proc/{pid}/exe")).is_err() };
    until("its process has ended", gone).await;
    rig.remove(&id).await;
}
