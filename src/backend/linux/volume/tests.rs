use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn a_folder_has_its_mode_and_is_left_alone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volumes/empty-dir/v");
    let wanted = VolumeDir { mode: 0o1777, ..VolumeDir::default() };
    create(&path, wanted).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o7777, 0o700);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(path.join("kept"), b"x").unwrap();
    create(&path, wanted).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
    assert!(path.join("kept").exists());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn a_link_in_the_place_of_a_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v");
    symlink("/", &path).unwrap();
    create(&path, VolumeDir { mode: 0o777, ..VolumeDir::default() }).unwrap_err();
    create(Path::new("relative"), VolumeDir::default()).unwrap_err();
}

#[test]
fn huge_pages_of_a_size_that_no_host_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = VolumeDir { medium: Medium::HugePages(12 << 10), ..VolumeDir::default() };
    let error = create(&dir.path().join("v"), wanted).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(!dir.path().join("v").exists());
}

#[test]
fn each_kind_of_host_path_is_told_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("dir")).unwrap();
    fs::write(path("file"), b"").unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    for (name, target) in [("to-dir", "dir"), ("to-file", "file"), ("to-nowhere", "nowhere")] {
        symlink(path(target), path(name)).unwrap();
    }
    symlink("/dev/null", path("to-null")).unwrap();
    let all = [
        ("dir", HostPathKind::Directory),
        ("to-dir", HostPathKind::Directory),
        ("file", HostPathKind::File),
        ("to-file", HostPathKind::File),
        ("socket", HostPathKind::Socket),
        ("to-null", HostPathKind::CharDevice),
    ];
    let kinds = [
        HostPathKind::Directory,
        HostPathKind::File,
        HostPathKind::Socket,
        HostPathKind::CharDevice,
        HostPathKind::BlockDevice,
    ];
    for (name, kind) in all {
        for asked in kinds {
            let found = check_host_path(&path(name), asked).unwrap();
            assert_eq!(found, asked == kind, "{name} as {asked:?}");
        }
    }
    for asked in kinds {
        assert!(!check_host_path(&path("gone"), asked).unwrap());
    }
    assert!(!path("gone").exists(), "only those that say so make something");
}

#[test]
fn missing_host_paths_are_made_with_their_mode() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let (folder, file) = (dir.path().join("a/b"), dir.path().join("a/file"));
    assert!(check_host_path(&folder, HostPathKind::DirectoryOrCreate).unwrap());
    assert_eq!(mode(&folder), 0o755);
    assert!(check_host_path(&file, HostPathKind::FileOrCreate).unwrap());
    assert_eq!(mode(&file), 0o644);
    fs::write(&file, b"kept").unwrap();
    assert!(check_host_path(&file, HostPathKind::FileOrCreate).unwrap());
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    assert!(!check_host_path(&file, HostPathKind::DirectoryOrCreate).unwrap());
    assert!(!check_host_path(&folder, HostPathKind::FileOrCreate).unwrap());
    let nowhere = dir.path().join("no/such/folder/file");
    assert!(check_host_path(&nowhere, HostPathKind::FileOrCreate).unwrap_err().is_not_found());
    check_host_path(Path::new("relative"), HostPathKind::File).unwrap_err();
}
