use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn root(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

#[test]
fn missing_folders_are_made_with_the_mode_of_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2777)).unwrap();
    open_or_make(&root(dir.path()), Path::new("a/b/c")).unwrap();
    for path in ["a", "a/b", "a/b/c"] {
        assert_eq!(fs::metadata(dir.path().join(path)).unwrap().mode() & 0o7777, 0o2777);
    }
    open_or_make(&root(dir.path()), Path::new("a/b/c")).expect("it is there");
}

#[test]
fn links_are_followed_inside_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join("..2020/deep")).unwrap();
    fs::write(volume.join("..2020/key"), b"x").unwrap();
    symlink("..2020", volume.join("..data")).unwrap();
    symlink("..data/key", volume.join("key")).unwrap();
    let inside = open_or_make(&root(&volume), Path::new("key")).unwrap();
    let key = fs::metadata(volume.join("..2020/key")).unwrap();
    assert_eq!(rustix::fs::fstat(&inside).unwrap().st_ino, key.ino());
    symlink("/", volume.join("absolute")).unwrap();
    symlink("..", volume.join("up")).unwrap();
    symlink("../../..", volume.join("..2020/up")).unwrap();
    symlink("/proc/self/root", volume.join("magic")).unwrap();
    for bad in ["absolute", "absolute/etc", "absolute/new", "up", "up/new", "..data/up", "magic"] {
        let error = open_or_make(&root(&volume), Path::new(bad)).unwrap_err();
        assert!(matches!(error, Errno::XDEV | Errno::LOOP), "{bad}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "something was made outside");
}

#[test]
fn a_link_to_nowhere_is_not_filled() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    symlink("gone", volume.join("link")).unwrap();
    open_or_make(&root(&volume), Path::new("link")).unwrap_err();
    open_or_make(&root(&volume), Path::new("link/a")).unwrap_err();
    assert!(!volume.join("gone").exists());
}

#[test]
fn a_file_is_read_when_it_is_one_and_lies_in_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("volume");
    fs::create_dir_all(volume.join("deep")).unwrap();
    fs::write(volume.join("deep/file"), b"12345").unwrap();
    fs::write(dir.path().join("secret"), b"secret").unwrap();
    symlink("deep/file", volume.join("link")).unwrap();
    symlink("../secret", volume.join("out")).unwrap();
    symlink("/proc/self/environ", volume.join("magic")).unwrap();
    symlink("loop", volume.join("loop")).unwrap();
    let fifo = Mode::RUSR | Mode::WUSR;
    rustix::fs::mkfifoat(CWD, volume.join("fifo"), fifo).unwrap();
    for path in ["deep/file", "./deep/file", "link"] {
        assert_eq!(read(&volume, Path::new(path), 5).unwrap().as_deref(), Some(&b"12345"[..]));
    }
    assert_eq!(read(&volume, Path::new("deep/gone"), 5).unwrap(), None);
    for (path, kind) in [
        ("out", ErrorKind::FailedPrecondition),
        ("magic", ErrorKind::FailedPrecondition),
        ("loop", ErrorKind::FailedPrecondition),
        ("deep", ErrorKind::FailedPrecondition),
        ("fifo", ErrorKind::FailedPrecondition),
        ("../secret", ErrorKind::InvalidArgument),
        ("/etc/hostname", ErrorKind::InvalidArgument),
    ] {
        let error = read(&volume, Path::new(path), 5).expect_err(path);
        assert_eq!(error.kind, kind, "{path}: {error}");
    }
    let large = read(&volume, Path::new("deep/file"), 4).expect_err("too large");
    assert_eq!(large.kind, ErrorKind::ResourceExhausted);
}

#[test]
fn paths_that_climb_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for bad in ["..", "a/../..", "/etc"] {
        let error = bind(dir.path(), Path::new(bad), &dir.path().join("t")).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad}");
    }
    let missing = bind(&dir.path().join("gone"), Path::new("a"), &dir.path().join("t"));
    assert!(missing.unwrap_err().is_not_found());
    assert!(!dir.path().join("t").exists());
}
