use std::os::unix::fs::{FileTypeExt, symlink};

use super::*;

#[test]
fn writes_whole_files_with_private_parents_and_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/hosts");
    write(&path, b"one", 0o644).unwrap();
    write(&path, b"two", 0o600).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(dir.path().join("a")).unwrap().permissions().mode() & 0o7777, 0o700);
    let victim = dir.path().join("victim");
    fs::write(&victim, b"safe").unwrap();
    let link = dir.path().join("link");
    symlink(&victim, &link).unwrap();
    write(&link, b"new", 0o644).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"safe");
    assert_eq!(list(&dir.path().join("a/b")).unwrap(), ["hosts"], "no temp file is left");
}

#[test]
fn a_failed_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("taken/x")).unwrap();
    write(&dir.path().join("taken"), b"x", 0o644).unwrap_err();
    assert_eq!(list(dir.path()).unwrap(), ["taken"]);
}

#[test]
fn reads_only_regular_files_up_to_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    assert_eq!(read(&path, 10).unwrap(), None);
    fs::write(&path, b"12345").unwrap();
    assert_eq!(read(&path, 5).unwrap().unwrap(), b"12345");
    assert_eq!(read(&path, 4).unwrap_err().kind, ErrorKind::ResourceExhausted);
    assert!(read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_some());
    make_fifos(&[dir.path().join("p")]).unwrap();
    assert_eq!(read(&dir.path().join("p"), 5).unwrap_err().kind, ErrorKind::FailedPrecondition);
    assert_eq!(read(Path::new("a/b"), 5).unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(read(Path::new("/a/../b"), 5).unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[test]
fn what_others_may_write_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cdi");
    assert!(trusted(&folder, 10).unwrap().is_empty());
    fs::create_dir(&folder).unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for name in ["good", "group", "all", "long"] {
        fs::write(folder.join(name), if name == "long" { "0123456789x" } else { "x" }).unwrap();
        mode(name, 0o644);
    }
    mode("group", 0o664);
    mode("all", 0o646);
    symlink(folder.join("good"), folder.join("link")).unwrap();
    fs::create_dir(folder.join("sub")).unwrap();
    mode("sub", 0o755);
    mode("", 0o755);
    let found = trusted(&folder, 10).unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|file| (file.name.as_str(), file.content.as_deref().map_err(|e| e.kind)))
        .collect();
    let refused = Err(ErrorKind::FailedPrecondition);
    assert_eq!(
        told,
        [
            ("all", refused),
            ("good", Ok(&b"x"[..])),
            ("group", refused),
            ("link", refused),
            ("long", Err(ErrorKind::ResourceExhausted)),
            ("sub", refused),
        ]
    );
    mode("", 0o777);
    assert_eq!(trusted(&folder, 10).unwrap_err().kind, ErrorKind::FailedPrecondition);
}

#[test]
fn fifos_are_made_all_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("io/1"), dir.path().join("io/2"));
    make_fifos(&[one.clone(), two.clone()]).unwrap();
    let meta = fs::metadata(&one).unwrap();
    assert!(meta.file_type().is_fifo());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    fs::remove_file(&one).unwrap();
    let error = make_fifos(&[one.clone(), two]).unwrap_err();
    assert!(error.is_already_exists());
    assert!(!one.exists());
}

#[test]
fn a_folder_is_not_made_over_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), b"").unwrap();
    assert!(create_dir(&dir.path().join("f"), 0o755).unwrap_err().is_already_exists());
    create_dir(&dir.path().join("g/h"), 0o711).unwrap();
    create_dir(&dir.path().join("g/h"), 0o700).unwrap();
    let mode = fs::metadata(dir.path().join("g/h")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o711);
}
