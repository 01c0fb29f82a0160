//! Shutdown notifications over a real bus, from a fake logind.

mod support;

use std::time::Duration;

use podbay::backend::linux::Logind as Adapter;
use podbay::backend::{Error, ErrorKind, Notice, Shutdown};
use support::logind::{Bus, Logind, say};
use support::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

fn adapter(bus: &Bus) -> Adapter {
    Adapter { bus: Some(bus.address.clone()) }
}

async fn next(notice: &mut dyn Notice) -> Result<bool, Error> {
    tokio::time::timeout(LIMIT, notice.next()).await.expect("it is told in time")
}

fn refused(result: podbay::backend::Result<Box<dyn Notice>>) -> ErrorKind {
    result.err().expect("nobody tells").kind
}

#[tokio::test]
async fn a_shutdown_is_told_and_held_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let logind = Logind::serve(&bus, Duration::from_millis(5500)).await;
    let mut notice = adapter(&bus).notice().await.expect("it is promised");
    assert_eq!(notice.patience(), Duration::from_millis(5500));
    assert!(!next(&mut *notice).await.expect("the state now"));
    assert!(logind.held().is_empty());
    for _ in 0..2 {
        notice.hold().await.expect("held up");
    }
    let [[what, who, _, mode]] = &logind.held()[..] else { panic!("not held up once") };
    assert_eq!([what, who, mode], ["shutdown", "podbay", "delay"]);
    logind.say(true).await;
    assert!(next(&mut *notice).await.expect("told"));
    assert_eq!(logind.held().len(), 1);
    notice.release();
    wait_until(LIMIT, "let go", async || logind.held().is_empty()).await;
    logind.say(false).await;
    assert!(!next(&mut *notice).await.expect("told"));
    notice.hold().await.expect("held up again");
    drop(notice);
    wait_until(LIMIT, "let go with the promise", async || logind.held().is_empty()).await;
}

#[tokio::test]
async fn who_comes_late_is_told_of_the_shutdown_under_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let logind = Logind::serve(&bus, Duration::from_secs(5)).await;
    logind.say(true).await;
    let mut notice = adapter(&bus).notice().await.expect("it is promised");
    assert!(next(&mut *notice).await.expect("the state now"));
}

#[tokio::test]
async fn only_logind_is_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let bus = Bus::start(folder.path()).await;
    let logind = Logind::serve(&bus, Duration::from_secs(5)).await;
    let mut notice = adapter(&bus).notice().await.expect("it is promised");
    assert!(!next(&mut *notice).await.expect("the state now"));
    // To everybody, and to each who listens: the first clients of a bus are numbered.
    let stranger = bus.connect().await;
    say(&stranger, None, true).await;
    for number in 0..8 {
        say(&stranger, Some(&format!(":1.{number}")), true).await;
    }
    // The bus keeps the order of all that it passes on.
    logind.say(false).await;
    assert!(!next(&mut *notice).await.expect("told"));
}

#[tokio::test]
async fn a_host_without_logind_is_told_from_one_that_lost_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = format!("unix:path={}", folder.path().join("none").display());
    let nobody = Adapter { bus: Some(nowhere) }.notice().await;
    assert_eq!(refused(nobody), ErrorKind::Unsupported);
    let mut bus = Bus::start(folder.path()).await;
    assert_eq!(refused(adapter(&bus).notice().await), ErrorKind::Unsupported);
    let _logind = Logind::serve(&bus, Duration::from_secs(5)).await;
    let mut notice = adapter(&bus).notice().await.expect("it is promised");
    assert!(!next(&mut *notice).await.expect("the state now"));
    bus.kill9();
    let lost = next(&mut *notice).await.expect_err("the bus is gone");
    assert_eq!(lost.kind, ErrorKind::Unavailable);
}
