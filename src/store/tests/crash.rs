use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::model_disk::{Fault, ModelDisk};
use super::*;

const CHILD: &str = "PODBAY_TEST_STORE_CHILD";

/// Two rows that must be written and deleted together.
fn pair(number: u64) -> Batch {
    let text = number.to_string();
    put("left", &text).put(&note("right", &text)).unwrap()
}

/// The number both rows hold, 0 when there are none.
fn pair_in(store: &Store) -> u64 {
    let texts = texts(store);
    match texts.as_slice() {
        [] => 0,
        [left, right] if left == right => left.parse().unwrap(),
        other => panic!("torn: {other:?}"),
    }
}

/// Writes pairs until `last`; returns the last number that was acknowledged.
async fn write_pairs(store: &Store, from: u64, last: u64) -> u64 {
    let mut acknowledged = 0;
    for number in from..=last {
        if store.write(pair(number)).await.is_ok() {
            acknowledged = number;
        }
    }
    acknowledged
}

/// How many disk operations the writes of the tests below take.
async fn operations_of(last: u64) -> u64 {
    let disk = ModelDisk::default();
    let (store, _) = disk.store().unwrap();
    let before = disk.operations();
    write_pairs(&store, 1, last).await;
    disk.operations() - before
}

#[tokio::test]
async fn no_acknowledged_write_is_lost_in_a_power_cut() {
    let total = operations_of(6).await;
    assert!(total > 20, "{total} operations are too few to try");
    for at in 0..total {
        for seed in 0..4 {
            let disk = ModelDisk::default();
            let (store, _) = disk.store().unwrap();
            disk.fail_after(at, Fault::PowerCut);
            let acknowledged = write_pairs(&store, 1, 6).await;
            let mut random = SmallRng::seed_from_u64(seed);
            // With seed 0 all unflushed changes are lost.
            let image = disk.after_power_cut(|| seed > 0 && random.random());
            let (store, fresh) = ModelDisk::of(image).store().unwrap();
            let found = pair_in(&store);
            assert!(!fresh && found >= acknowledged, "operation {at}, seed {seed}: {found}");
            assert!(store.revision().number >= acknowledged);
        }
    }
}

#[tokio::test]
async fn the_store_recovers_from_a_fault_at_every_operation() {
    let faults = [
        Fault::Once(std::io::ErrorKind::StorageFull),
        Fault::Once(std::io::ErrorKind::Other),
        Fault::Panic,
    ];
    let total = operations_of(4).await;
    for fault in faults {
        for at in 0..total {
            let disk = ModelDisk::default();
            let (store, _) = disk.store().unwrap();
            disk.fail_after(at, fault);
            let acknowledged = write_pairs(&store, 1, 4).await;
            assert!(!disk.is_fault_ahead(), "operation {at} was never reached");
            let last = wait_until_written(&store, 5).await;
            assert!(last > acknowledged);
            assert_eq!(pair_in(&store), last, "{fault:?} at operation {at}");
            assert!(store.health().is_ok());
            store.close().await;
            let (store, fresh) = disk.store().unwrap();
            assert_eq!((pair_in(&store), fresh), (last, false));
        }
    }
}

async fn wait_until_written(store: &Store, from: u64) -> u64 {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    for number in from.. {
        if store.write(pair(number)).await.is_ok() {
            return number;
        }
        assert!(tokio::time::Instant::now() < deadline, "{:?}", store.health());
        tokio::task::yield_now().await;
    }
    unreachable!("the loop has no end")
}

#[tokio::test]
async fn a_failed_write_says_whether_the_disk_is_full() {
    let full = Fault::Once(std::io::ErrorKind::StorageFull);
    for (fault, is_full) in [(full, true), (Fault::Once(std::io::ErrorKind::Other), false)] {
        let disk = ModelDisk::default();
        let (store, _) = disk.store().unwrap();
        disk.fail_after(0, fault);
        let error = store.write(pair(1)).await.unwrap_err();
        assert_eq!(matches!(error, Error::Full { .. }), is_full, "{error:?}");
        assert_eq!(matches!(error, Error::Io { .. }), !is_full, "{error:?}");
    }
}

#[tokio::test]
async fn while_the_disk_is_gone_writes_fail_at_once_and_later_go_on() {
    let disk = ModelDisk::default();
    let (store, _) = disk.store().unwrap();
    store.write(pair(1)).await.unwrap();
    disk.fail_after(0, Fault::PowerCut);
    for number in 2..50 {
        store.write(pair(number)).await.unwrap_err();
    }
    assert!(store.health().is_err());
    assert_eq!(store.revision().number, 1);
    assert!(store.load::<Note>().is_err());
    disk.heal();
    // Even though writes never stop.
    assert_eq!(wait_until_written(&store, 50).await, pair_in(&store));
    assert!(store.health().is_ok());
}

/// Runs itself as a child that writes and acknowledges numbers, and kills it in the middle.
#[tokio::test]
async fn no_acknowledged_write_is_lost_when_the_agent_is_killed() {
    if let Some(path) = std::env::var_os(CHILD) {
        return write_until_killed(path.into()).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut known = 0;
    for round in 0..20 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--test-threads=1"])
            .arg("store::tests::crash::no_acknowledged_write_is_lost_when_the_agent_is_killed")
            .env(CHILD, at(&folder).path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let numbers = lines.map_while(Result::ok).filter_map(|line| line.parse::<u64>().ok());
        let mut acknowledged = 0;
        for (count, number) in numbers.enumerate() {
            acknowledged = number;
            if count == 3 + round * 2 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(acknowledged > known, "the child of round {round} wrote nothing");
        let opened = Store::open(at(&folder)).unwrap();
        assert_eq!((opened.quarantined, opened.fresh), (None, false));
        known = pair_in(&opened.store);
        assert!(known >= acknowledged, "round {round}: {known} < {acknowledged}");
        opened.store.close().await;
    }
}

async fn write_until_killed(path: std::path::PathBuf) {
    let store = Store::open(Options { path }).unwrap().store;
    let mut number = pair_in(&store);
    loop {
        number += 1;
        store.write(pair(number)).await.unwrap();
        // Starts a new line, whatever the test harness printed before.
        let mut out = std::io::stdout();
        if writeln!(out, "\n{number}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
