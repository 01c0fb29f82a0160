use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

fn files(list: &[(&str, &str, u32)]) -> VolumeFiles {
    let one = |(path, content, mode): &(&str, &str, u32)| {
        let file = VolumeFile { content: content.as_bytes().to_vec(), mode: *mode, uid: None };
        ((*path).to_owned(), file)
    };
    VolumeFiles { files: list.iter().map(one).collect(), gid: None }
}

/// Names in a volume, except the directory whose name changes.
fn listed(volume: &Path) -> Vec<String> {
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
    let mut names: Vec<String> =
        fs::read_dir(volume).unwrap().map(|entry| name(entry).unwrap()).collect();
    names.retain(|name| !name.starts_with("..2"));
    names.sort();
    names
}

fn folders(volume: &Path) -> usize {
    fs::read_dir(volume).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count()
}

#[test]
fn files_appear_through_one_link_and_are_left_alone_when_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = files(&[("a", "one", 0o644), ("deep/b", "two", 0o400), ("deep/er/c", "", 0o600)]);
    assert!(write(dir.path(), &wanted).unwrap());
    assert_eq!(listed(dir.path()), ["..data", "a", "deep"]);
    assert_eq!(fs::read_link(dir.path().join("deep")).unwrap(), Path::new("..data/deep"));
    assert_eq!(fs::read(dir.path().join("deep/b")).unwrap(), b"two");
    assert_eq!(fs::metadata(dir.path().join("deep/b")).unwrap().mode() & 0o7777, 0o400);
    assert_eq!(fs::metadata(dir.path().join("deep/er")).unwrap().mode() & 0o7777, 0o755);
    let before = fs::read_link(dir.path().join(DATA)).unwrap();
    assert!(!write(dir.path(), &wanted).unwrap());
    assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), before);
}

#[test]
fn every_kind_of_change_is_seen_and_leaves_nothing_old() {
    let dir = tempfile::tempdir().unwrap();
    let steps = [
        files(&[("a", "one", 0o644), ("b", "x", 0o644)]),
        files(&[("a", "two", 0o644), ("b", "x", 0o644)]),
        files(&[("a", "two", 0o600), ("b", "x", 0o644)]),
        files(&[("a", "two", 0o600)]),
        files(&[("a", "two", 0o600), ("c/d", "y", 0o644)]),
        files(&[("a/b", "two", 0o600)]),
        files(&[]),
    ];
    for wanted in &steps {
        assert!(write(dir.path(), wanted).unwrap(), "{wanted:?}");
        assert!(!write(dir.path(), wanted).unwrap(), "{wanted:?}");
        for (path, file) in &wanted.files {
            assert_eq!(fs::read(dir.path().join(path)).unwrap(), file.content);
        }
        let visible = visible(wanted).len();
        assert_eq!(listed(dir.path()).len(), visible + 1, "{:?}", listed(dir.path()));
    }
}

#[test]
fn what_a_container_plants_is_replaced_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("key"), b"host").unwrap();
    let wanted = files(&[("key", "one", 0o644), ("more/x", "y", 0o644)]);
    for round in 0..50 {
        // The data link, a visible name and a leftover name point to host files.
        let _ = fs::remove_file(volume.join(DATA));
        symlink(&outside, volume.join(DATA)).unwrap();
        let _ = fs::remove_file(volume.join("key"));
        symlink(outside.join("key"), volume.join("key")).unwrap();
        let _ = fs::remove_file(volume.join("more"));
        symlink(&outside, volume.join("more")).unwrap();
        symlink(&outside, volume.join(format!("..2020_{round}"))).unwrap();
        symlink(&outside, volume.join(format!("planted{round}"))).unwrap();
        assert!(write(&volume, &wanted).unwrap());
        assert_eq!(fs::read(volume.join("key")).unwrap(), b"one");
        assert_eq!(fs::read(volume.join("more/x")).unwrap(), b"y");
        assert_eq!(fs::read(outside.join("key")).unwrap(), b"host");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(listed(&volume), ["..data", "key", "more"]);
    }
}

#[test]
fn links_and_pipes_inside_the_current_folder_are_a_difference() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = files(&[("key", "one", 0o644), ("d/x", "y", 0o644)]);
    write(dir.path(), &wanted).unwrap();
    let current = || dir.path().join(fs::read_link(dir.path().join(DATA)).unwrap());
    let elsewhere = dir.path().join("..data/key");
    for plant in 0..4 {
        let key = current().join("key");
        match plant {
            0 => {
                fs::remove_file(&key).unwrap();
                symlink(&elsewhere, &key).unwrap();
            }
            1 => {
                fs::remove_file(&key).unwrap();
                rustix::fs::mkfifoat(rustix::fs::CWD, &key, Mode::RWXU).unwrap();
            }
            2 => fs::write(current().join("d/more"), b"").unwrap(),
            _ => {
                fs::remove_dir_all(current().join("d")).unwrap();
                symlink("/", current().join("d")).unwrap();
            }
        }
        assert!(write(dir.path(), &wanted).unwrap(), "{plant}");
        assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"one");
        assert!(!write(dir.path(), &wanted).unwrap(), "{plant}");
    }
}

#[test]
fn folders_in_the_place_of_links_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("..data/x")).unwrap();
    fs::create_dir(dir.path().join("key")).unwrap();
    fs::create_dir(dir.path().join("a-sub-path")).unwrap();
    let wanted = files(&[("key", "one", 0o644)]);
    assert!(write(dir.path(), &wanted).unwrap());
    assert_eq!(fs::read(dir.path().join("key")).unwrap(), b"one");
    assert_eq!(listed(dir.path()), ["..data", "a-sub-path", "key"]);
}

#[test]
fn a_reader_never_sees_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = |n: u32| files(&[("a", &n.to_string(), 0o644), ("b", &n.to_string(), 0o644)]);
    write(dir.path(), &wanted(0)).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // A reader that resolves the directory once sees a consistent state.
                let Ok(now) = fs::canonicalize(dir.path().join(DATA)) else { continue };
                let pair = (fs::read(now.join("a")), fs::read(now.join("b")));
                if let (Ok(a), Ok(b)) = pair {
                    assert_eq!(a, b);
                    seen += 1;
                }
            }
            seen
        });
        for n in 1..200 {
            assert!(write(dir.path(), &wanted(n)).unwrap());
            assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), n.to_string());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
    // The link and the directory to which it points.
    assert_eq!(folders(dir.path()), 2);
}

#[test]
fn paths_that_lead_out_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["", "/etc/x", "../x", "a/../../x", "..data/x", "..x", "./a", "a\0b"] {
        let error = write(dir.path(), &files(&[(bad, "x", 0o644)])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let missing = write(&dir.path().join("gone"), &files(&[])).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
}

#[test]
fn a_path_that_is_a_file_and_a_folder_leaves_the_old_files() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &files(&[("a", "one", 0o644)])).unwrap();
    write(dir.path(), &files(&[("a", "two", 0o644), ("a/b", "x", 0o644)])).unwrap_err();
    assert_eq!(fs::read(dir.path().join("a")).unwrap(), b"one");
    assert_eq!(folders(dir.path()), 2, "the new folder was left behind");
}
