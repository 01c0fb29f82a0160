use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use super::*;

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Store::open(at(&folder)).unwrap();
    assert!(opened.fresh);
    let store = opened.store;
    assert_eq!(store.write(put("b", "two")).await.unwrap(), 1);
    let batch = put("a", "one").delete::<Note>("b").delete::<Note>("never there").boot_id("boot-7");
    assert_eq!(store.write(batch.put(&note("c", "three")).unwrap()).await.unwrap(), 2);
    assert_eq!(texts(&store), ["one", "three"]);
    let before = store.revision();
    assert_eq!(before.number, 2);
    let other = store.clone();
    store.close().await;
    assert!(matches!(other.write(put("d", "")).await, Err(Error::Closed)));

    let opened = Store::open(at(&folder)).unwrap();
    assert!(!opened.fresh);
    assert_eq!(opened.quarantined, None);
    assert_eq!(opened.boot_id.as_deref(), Some("boot-7"));
    assert_eq!(opened.store.revision(), before);
    assert_eq!(texts(&opened.store), ["one", "three"]);
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let opened = Store::open(at(&folder)).unwrap();
    let mode = |name: &str| {
        std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode("state"), 0o700);
    assert_eq!(mode("state/podbay.redb"), 0o600);
    assert_eq!(mode("state/podbay.redb.lock"), 0o600);
    drop(opened);
}

#[tokio::test]
async fn waiting_batches_share_a_commit_and_keep_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(at(&folder)).unwrap().store;
    let writes = (0..200).map(|number| {
        let store = store.clone();
        async move { store.write(put("same key", &number.to_string())).await.unwrap() }
    });
    let numbers = futures::future::join_all(writes).await;
    // `join_all` starts them in order, so the queue and the revisions are in order too.
    assert_eq!(numbers, (1..=200).collect::<Vec<u64>>());
    assert_eq!(texts(&store), ["199"]);
    assert_eq!(store.revision().number, 200);
    let commits = store.shared.commits.load(Ordering::Relaxed);
    assert!(commits < 100, "{commits} commits for 200 batches that waited together");
}

#[tokio::test]
async fn a_record_of_an_older_version_is_upgraded() {
    let store = Store::in_memory();
    let old = OldNote::<1> { name: "n".into(), title: "old".into() };
    store.write(Batch::new().put(&old).unwrap()).await.unwrap();
    assert_eq!(texts(&store), ["old"]);
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_kept_and_reported() {
    let store = Store::in_memory();
    let newer = OldNote::<3> { name: "n".into(), title: "new".into() };
    store.write(Batch::new().put(&newer).unwrap()).await.unwrap();
    store.write(put("readable", "yes")).await.unwrap();
    let loaded = store.load::<Note>().unwrap();
    assert_eq!(loaded.records, [note("readable", "yes")]);
    assert_eq!(loaded.faults[0].key, "n");
    assert_eq!(loaded.faults[0].problem.to_string(), r#"notes row "n": version 3"#);
    // The default refuses as well, and the row is still there for the version that knows it.
    let refused = store.load::<OldNote<1>>().unwrap();
    assert_eq!(refused.faults.len(), 2);
    let kept = store.load::<OldNote<3>>().unwrap().records;
    assert_eq!(kept[0].title, "new");
}

#[test]
fn every_flipped_bit_of_a_row_is_noticed() {
    let batch = put("key", "value");
    let row = batch.changes[0].row.clone().unwrap();
    assert_eq!(record::decode::<Note>("key", &row).unwrap(), note("key", "value"));
    for bit in 0..row.len() * 8 {
        let mut bad = row.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(record::decode::<Note>("key", &bad).is_err(), "bit {bit}");
    }
    for len in 0..row.len() {
        assert!(record::decode::<Note>("key", &row[..len]).is_err(), "length {len}");
    }
    assert!(record::decode::<Note>("other", &row).is_err(), "moved to another key");
}

#[test]
fn a_row_has_always_the_same_bytes() {
    let head = "01020043e7c64418cb8e7b7f1bff3a55bfd0d4";
    let row = [&hex::decode(head).unwrap()[..], br#"{"name":"a","text":"b"}"#].concat();
    assert_eq!(put("a", "b").changes[0].row, Some(row));
}

#[test]
fn refuses_records_that_cannot_be_stored() {
    for (name, text, part) in [
        (String::new(), String::new(), "1 to 512 bytes"),
        ("k".repeat(513), String::new(), "1 to 512 bytes"),
        ("k".into(), "x".repeat(9 << 20), "over the limit"),
    ] {
        let error = Batch::new().put(&note(&name, &text)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}
