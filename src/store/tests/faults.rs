use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A closed store with a few rows.
async fn filled(options: &Options) -> Revision {
    let store = Store::open(options.clone()).unwrap().store;
    for number in 0..20 {
        let name = number.to_string();
        store.write(put(&name, &name.repeat(100))).await.unwrap();
    }
    let revision = store.revision();
    store.close().await;
    revision
}

/// Opens a store whose file was damaged. Either its rows are complete, or it is fresh and the
/// damaged file was kept. Returns whether it is fresh.
async fn open_damaged(options: &Options, before: &Revision, what: &str) -> bool {
    let damaged = fs::read(&options.path).unwrap();
    let opened = Store::open(options.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let store = opened.store;
    match &opened.quarantined {
        Some(aside) => {
            assert!(opened.fresh, "{what}");
            assert_eq!(fs::read(aside).unwrap().len(), damaged.len(), "{what}");
            assert_ne!(store.revision().epoch, before.epoch, "{what}");
            assert!(texts(&store).is_empty());
            fs::remove_file(aside).unwrap();
        }
        None if opened.fresh => assert!(damaged.is_empty(), "{what}: silently afresh"),
        None => {
            assert_eq!(&store.revision(), before, "{what}");
            assert_eq!(texts(&store).len(), 20, "{what}");
        }
    }
    store.write(put("new", "row")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    store.close().await;
    opened.fresh
}

#[tokio::test]
async fn a_flipped_bit_in_any_page_is_harmless_or_leads_to_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    let before = filled(&options).await;
    let good = fs::read(&options.path).unwrap();
    let mut quarantined = 0;
    for page in 0..good.len() / 4096 {
        for byte in [0, 1, 9, 70, 133, 2048, 4095] {
            let mut bad = good.clone();
            bad[page * 4096 + byte] ^= 1 << (byte % 8);
            fs::write(&options.path, bad).unwrap();
            let what = format!("page {page}, byte {byte}");
            quarantined += usize::from(open_damaged(&options, &before, &what).await);
        }
    }
    assert!(quarantined > 3, "only {quarantined} flips were noticed");
}

#[tokio::test]
async fn a_truncated_or_overwritten_file_leads_to_quarantine() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    let before = filled(&options).await;
    let good = fs::read(&options.path).unwrap();
    for len in [0, 1, 100, 4096, 4097, good.len() / 2, good.len() - 4096, good.len() - 1] {
        fs::write(&options.path, &good[..len]).unwrap();
        assert!(open_damaged(&options, &before, &format!("length {len}")).await);
    }
    for len in [8, 512, 4096, good.len()] {
        let mut bad = good.clone();
        bad[..len].fill(0);
        fs::write(&options.path, bad).unwrap();
        assert!(open_damaged(&options, &before, &format!("{len} zeros")).await);
    }
}

#[tokio::test]
async fn a_deleted_file_starts_a_new_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    let before = filled(&options).await;
    fs::remove_file(&options.path).unwrap();
    let opened = Store::open(options).unwrap();
    assert!(opened.fresh);
    assert_eq!(opened.store.revision().number, 0);
    assert_ne!(opened.store.revision().epoch, before.epoch);
}

/// Changes the store's own row as another program version would.
fn set_meta(path: &Path, key: &str, value: &str) {
    let database = redb::Database::open(path).unwrap();
    let txn = database.begin_write().unwrap();
    txn.open_table(file::META).unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_the_file_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    filled(&options).await;
    set_meta(&options.path, "schema", "2");
    let before = fs::read(&options.path).unwrap();
    let error = Store::open(options.clone()).unwrap_err();
    assert!(
        matches!(&error, Error::NewerSchema { found: 2, known: 1, path } if *path == options.path)
    );
    assert_eq!(fs::read(&options.path).unwrap(), before);
    assert_eq!(
        names(options.path.parent().unwrap()),
        ["podbay.redb", "podbay.redb.lock", "podbay.redb.reserve"]
    );
}

#[tokio::test]
async fn a_newer_file_format_is_refused_and_the_file_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    filled(&options).await;
    let mut newer = fs::read(&options.path).unwrap();
    for slot in [64, 192] {
        assert_eq!(newer[slot], 3, "the format that the database writes today");
        newer[slot] = 4;
    }
    fs::write(&options.path, &newer).unwrap();
    let error = Store::open(options.clone()).unwrap_err();
    assert!(
        matches!(&error, Error::NewerFormat { found: 4, known: 3, path } if *path == options.path),
        "{error:?}"
    );
    assert_eq!(fs::read(&options.path).unwrap(), newer);
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_second_agent_is_refused_until_the_first_has_closed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(at(&folder)).unwrap().store;
    let error = Store::open(at(&folder)).unwrap_err();
    let text = format!(
        "the state store {} is in use by another podbay (pid {})",
        at(&folder).path.display(),
        std::process::id()
    );
    assert_eq!(error.to_string(), text);
    assert!(matches!(error, Error::Locked { .. }));
    store.close().await;
    Store::open(at(&folder)).unwrap();
}

#[tokio::test]
async fn a_lock_that_a_child_still_has_before_its_exec_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    filled(&at(&folder)).await;
    let path = at(&folder).path.with_extension("redb.lock");
    let lock = fs::OpenOptions::new().write(true).open(path).unwrap();
    lock.try_lock().unwrap();
    let copy = lock.try_clone().unwrap();
    drop(lock);
    let options = at(&folder);
    let opening = tokio::task::spawn_blocking(move || Store::open(options).map(drop));
    tokio::task::yield_now().await;
    drop(copy);
    opening.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_cannot_be_opened_is_not_taken_for_damage() {
    let folder = tempfile::tempdir().unwrap();
    let options = at(&folder);
    fs::create_dir_all(&options.path).unwrap();
    assert!(matches!(Store::open(options.clone()), Err(Error::Io { .. })));
    fs::remove_dir(&options.path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &options.path).unwrap();
    assert!(matches!(Store::open(options), Err(Error::Io { .. })), "followed a link");
}

/// A tmpfs mount, unmounted at the end.
struct SmallDisk(PathBuf, #[expect(dead_code, reason = "removes the folder")] tempfile::TempDir);

impl SmallDisk {
    fn new(kib: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        let size = std::ffi::CString::new(format!("size={kib}k")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("tmpfs", &path, "tmpfs", flags, Some(size.as_c_str())).unwrap();
        Self(path, folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test]
async fn on_a_full_disk_creates_fail_and_deletes_go_on() {
    if !rustix::process::geteuid().is_root() {
        return; // Mounting takes root; the model disk covers the rest.
    }
    let disk = SmallDisk::new(4096);
    let options = Options { path: disk.0.join("podbay.redb") };
    let store = Store::open(options.clone()).unwrap().store;
    let text = "x".repeat(8 << 10);
    let mut written = 0_u64;
    let error = loop {
        match store.write(put(&format!("{written:04}"), &text)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(written > 20, "{written}");
    assert!(store.health().is_err());
    assert_eq!(texts(&store).len() as u64, written, "reads go on");
    for number in 0..written {
        let name = format!("{number:04}");
        let new = store.write(put("new work", &text)).await;
        if number < 3 {
            assert!(matches!(new, Err(Error::Full { .. })), "{new:?}");
        }
        let ended = put(&name, "ended").ends_work();
        store.write(ended).await.unwrap_or_else(|error| panic!("{number}: {error:?}"));
        let gone = Batch::new().delete::<Note>(&name);
        store.write(gone).await.unwrap_or_else(|error| panic!("{number}: {error:?}"));
    }
    store.close().await;
    let store = Store::open(options).unwrap().store;
    store.write(put("new work", &text)).await.expect("space was freed");
    assert!(store.health().is_ok());
    assert_eq!(texts(&store).len(), 1);
}

#[tokio::test]
async fn the_store_opens_on_a_disk_that_others_filled() {
    if !rustix::process::geteuid().is_root() {
        return; // As above.
    }
    let disk = SmallDisk::new(4096);
    let options = Options { path: disk.0.join("podbay.redb") };
    filled(&options).await;
    let filler = disk.0.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let store = Store::open(options).unwrap().store;
    assert_eq!(texts(&store).len(), 20);
    store.write(Batch::new().delete::<Note>("3")).await.expect("deleting uses the reserve");
    store.write(put("4", "ended").ends_work()).await.expect("ending uses the reserve");
    let error = store.write(put("new", "work")).await.unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(store.health().is_err());
    drop(file);
    fs::remove_file(filler).unwrap();
    store.write(put("new", &"x".repeat(200 << 10))).await.unwrap();
    assert!(store.health().is_ok());
}
