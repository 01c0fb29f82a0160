use std::os::unix::fs::{PermissionsExt, symlink};

use tar::Header;

use super::*;

/// One entry of a hostile archive, its name written as it is.
fn entry(archive: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().expect("gnu").linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o4755);
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.append(&header, data).expect("append");
}

fn arrived(bytes: Vec<u8>) -> mpsc::Receiver<Bytes> {
    let pieces: Vec<_> = bytes.chunks(700).map(Bytes::copy_from_slice).collect();
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    pieces.into_iter().for_each(|piece| sender.try_send(piece).expect("room"));
    receiver
}

fn unpacked(into: &Path, entries: &[(EntryType, &str, &str, &[u8])]) -> io::Result<Unpacked> {
    let mut archive = Builder::new(Vec::new());
    for (kind, name, link, data) in entries {
        entry(&mut archive, *kind, name, link, data);
    }
    unpack(arrived(archive.into_inner().expect("archive")), into, "a", Some("a"))
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;

/// Kind, path, target of a link, content.
type Member = (EntryType, &'static str, &'static str, &'static [u8]);

#[test]
fn cp_refuses_hostile_archives() {
    let rows: &[(&str, &[Member])] = &[
        ("above", &[(FILE, "a/../../evil", "", b"x")]),
        ("absolute", &[(FILE, "/evil", "", b"x")]),
        ("absolute folder", &[(FOLDER, "/tmp/evil", "", b"")]),
        ("beside", &[(FILE, "evil", "", b"x")]),
        ("parent only", &[(FOLDER, "..", "", b"")]),
        ("through a link that was there", &[(FILE, "a/out/evil", "", b"x")]),
        ("a folder at a link that was there", &[(FOLDER, "a/out", "", b"")]),
    ];
    for (what, entries) in rows {
        let world = tempfile::tempdir().expect("temporary folder");
        let into = world.path().join("into");
        std::fs::create_dir_all(into.join("a")).expect("into");
        std::fs::create_dir(world.path().join("outside")).expect("outside");
        symlink(world.path().join("outside"), into.join("a/out")).expect("link");
        unpacked(&into, entries).expect_err(what);
        let outside = std::fs::read_dir(world.path().join("outside")).expect("outside").count();
        assert_eq!(outside, 0, "{what}");
        assert!(!world.path().join("evil").exists() && !into.join("evil").exists(), "{what}");
    }
}

#[test]
fn links_and_devices_are_skipped_and_lead_nowhere() {
    let world = tempfile::tempdir().expect("temporary folder");
    let into = world.path().join("into");
    std::fs::create_dir(&into).expect("into");
    let done = unpacked(
        &into,
        &[
            (FOLDER, "a", "", b""),
            (EntryType::Symlink, "a/link", "..", b""),
            (EntryType::Link, "a/hard", "/etc/passwd", b""),
            (EntryType::Char, "a/null", "", b""),
            (EntryType::Fifo, "a/pipe", "", b""),
            (FILE, "a/link/evil", "", b"x"),
        ],
    )
    .expect("unpack");
    assert_eq!((done.files, done.skipped.len()), (2, 4), "{done:?}");
    assert!(into.join("a/link/evil").is_file(), "the link was not made: a folder is there");
    assert!(!into.join("evil").exists());
    let kinds = ["hard", "null", "pipe"].map(|name| into.join("a").join(name).exists());
    assert_eq!(kinds, [false; 3]);
}

#[test]
fn a_link_that_is_there_is_replaced_not_written_through() {
    let world = tempfile::tempdir().expect("temporary folder");
    let secret = world.path().join("secret");
    std::fs::write(&secret, "mine").expect("secret");
    let into = world.path().join("into");
    std::fs::create_dir(&into).expect("into");
    symlink(&secret, into.join("a")).expect("link");
    unpacked(&into, &[(FILE, "a", "", b"theirs")]).expect("unpack");
    assert_eq!(std::fs::read_to_string(&secret).expect("secret"), "mine");
    assert_eq!(std::fs::read_to_string(into.join("a")).expect("a"), "theirs");
    let mode = std::fs::metadata(into.join("a")).expect("a").permissions().mode();
    assert_eq!(mode & 0o7000, 0, "no set-user-ID");
}

#[test]
fn a_broken_archive_is_an_error() {
    let world = tempfile::tempdir().expect("temporary folder");
    let mut archive = Builder::new(Vec::new());
    entry(&mut archive, FILE, "a", "", &[7; 2000]);
    let mut bytes = archive.into_inner().expect("archive");
    bytes.truncate(1000);
    unpack(arrived(bytes), world.path(), "a", None).expect_err("cut short");
    unpack(arrived(vec![0xab; 4096]), world.path(), "a", None).expect_err("noise");
}

#[test]
fn what_is_packed_is_what_is_unpacked() {
    let world = tempfile::tempdir().expect("temporary folder");
    let from = world.path().join("from");
    std::fs::create_dir_all(from.join("deep/empty")).expect("from");
    std::fs::write(from.join("deep/file"), vec![5; 200_000]).expect("file");
    std::fs::write(from.join("run"), "#!").expect("run");
    std::fs::set_permissions(from.join("run"), PermissionsExt::from_mode(0o750)).expect("mode");
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).expect("socket");
    let into = world.path().join("into");
    std::fs::create_dir(&into).expect("into");
    let (sender, receiver) = mpsc::channel(2);
    let packing = std::thread::spawn(move || pack(&from, "x", sender));
    let done = unpack(receiver, &into, "x", Some("y")).expect("unpack");
    let skipped = packing.join().expect("thread").expect("pack");
    assert_eq!(skipped.len(), 1, "{skipped:?}");
    assert_eq!(done, Unpacked { files: 5, skipped: vec![] });
    assert_eq!(std::fs::read(into.join("y/deep/file")).expect("file"), vec![5; 200_000]);
    assert!(into.join("y/deep/empty").is_dir());
    let mode = std::fs::metadata(into.join("y/run")).expect("run").permissions().mode();
    assert_eq!(mode & 0o700, 0o700);
}
