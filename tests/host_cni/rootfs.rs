//! Reading from malicious images.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use podbay::backend::{ErrorKind, Host, RootfsMount};

use super::ground::Ground;

/// An overlay snapshot with a writable layer over one lower layer.
struct Image {
    lower: PathBuf,
    upper: PathBuf,
    mounts: Vec<RootfsMount>,
}

impl Image {
    fn new(ground: &Ground) -> Self {
        let (lower, upper) = (ground.path("lower"), ground.path("upper"));
        let work = ground.path("work");
        for dir in [&lower.join("etc"), &upper.join("etc"), &work] {
            fs::create_dir_all(dir).unwrap();
        }
        let options = vec![
            "index=off".to_owned(),
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", lower.display()),
        ];
        let mount = RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options,
        };
        Self { lower, upper, mounts: vec![mount] }
    }
}

fn bind(source: &Path) -> Vec<RootfsMount> {
    vec![RootfsMount {
        kind: "bind".into(),
        source: source.display().to_string(),
        target: String::new(),
        options: vec!["ro".into(), "rbind".into()],
    }]
}

fn assert_clean(ground: &Ground) {
    assert!(ground.stray_mounts().is_empty(), "{:?}", ground.stray_mounts());
    assert_eq!(fs::read_dir(ground.path("scratch")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_upper_layer_wins_and_a_whiteout_hides() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    fs::write(image.lower.join("etc/passwd"), "lower").unwrap();
    fs::write(image.lower.join("etc/group"), "lower").unwrap();
    fs::write(image.upper.join("etc/passwd"), "upper").unwrap();
    mknod(&image.upper.join("etc/group"), SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
    let files = ground.host.read_user_files(&image.mounts).await.unwrap();
    assert_eq!(files.passwd.as_deref(), Some(&b"upper"[..]));
    assert_eq!(files.group, None);
    assert_clean(&ground);
}

#[tokio::test]
async fn links_stay_inside_the_image() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    let secret = ground.path("secret");
    fs::write(&secret, "of the host").unwrap();
    let climbing = format!("../../../../../../..{}", secret.display());
    let passwd = image.upper.join("etc/passwd");
    for target in [secret.display().to_string(), climbing, "/proc/1/root/etc/passwd".into()] {
        symlink(&target, &passwd).unwrap();
        let files = ground.host.read_user_files(&image.mounts).await.unwrap();
        assert_eq!(files.passwd, None, "{target}");
        let files = ground.host.read_user_files(&bind(&image.upper)).await.unwrap();
        assert_eq!(files.passwd, None, "{target}");
        fs::remove_file(&passwd).unwrap();
    }
    // What does lead somewhere inside works: absolute, as some distributions have it, and climbing.
    fs::create_dir(image.lower.join("store")).unwrap();
    fs::write(image.lower.join("store/passwd"), "inside").unwrap();
    for target in ["/store/passwd", "../../../store/passwd"] {
        symlink(target, &passwd).unwrap();
        let files = ground.host.read_user_files(&image.mounts).await.unwrap();
        assert_eq!(files.passwd.as_deref(), Some(&b"inside"[..]), "{target}");
        fs::remove_file(&passwd).unwrap();
    }
    assert_clean(&ground);
}

#[tokio::test]
async fn what_is_no_small_regular_file_is_refused_at_once() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    let passwd = image.upper.join("etc/passwd");
    let refused = async |what: &str| {
        for mounts in [&image.mounts, &bind(&image.upper)] {
            let started = Instant::now();
            let error = ground.host.read_user_files(mounts).await.unwrap_err();
            assert!(started.elapsed() < Duration::from_secs(5), "{what}");
            assert!(error.to_string().contains("/etc/passwd of the image"), "{what}: {error}");
            assert_ne!(error.kind, ErrorKind::Other, "{what}");
        }
        fs::remove_file(&passwd).unwrap();
    };
    nix::unistd::mkfifo(&passwd, Mode::S_IRWXU).unwrap();
    refused("FIFO").await;
    mknod(&passwd, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 5)).unwrap();
    refused("/dev/zero").await;
    let _socket = std::os::unix::net::UnixListener::bind(&passwd).unwrap();
    refused("socket").await;
    File::create(&passwd).unwrap().set_len(1 << 30).unwrap();
    refused("sparse GiB").await;
    symlink("passwd", &passwd).unwrap();
    refused("link to itself").await;
    assert_clean(&ground);
}

#[tokio::test]
async fn more_layers_than_fit_into_one_page_of_options() {
    let ground = Ground::new();
    let layers: Vec<PathBuf> =
        (0..100).map(|n| ground.path(&format!("{}-{n}/fs", "layer".repeat(20)))).collect();
    for layer in &layers {
        fs::create_dir_all(layer.join("etc")).unwrap();
    }
    fs::write(layers[99].join("etc/passwd"), "bottom").unwrap();
    fs::write(layers[0].join("etc/group"), "top").unwrap();
    let list: Vec<String> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let mount = RootfsMount {
        kind: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec!["index=off".into(), format!("lowerdir={}", list.join(":"))],
    };
    let files = ground.host.read_user_files(&[mount]).await.unwrap();
    assert_eq!(files.passwd.as_deref(), Some(&b"bottom"[..]));
    assert_eq!(files.group.as_deref(), Some(&b"top"[..]));
    assert_clean(&ground);
}

#[tokio::test]
async fn a_copy_is_faithful() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    let data = image.lower.join("data");
    fs::create_dir_all(data.join("sub/empty")).unwrap();
    fs::write(data.join("tool"), "program").unwrap();
    std::os::unix::fs::chown(data.join("tool"), Some(1000), Some(1001)).unwrap();
    fs::set_permissions(data.join("tool"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(data.join("tool"), data.join("sub/same")).unwrap();
    symlink("/etc/shadow", data.join("link")).unwrap();
    nix::unistd::mkfifo(&data.join("fifo"), Mode::S_IRWXU).unwrap();
    let sparse = File::create(data.join("sparse")).unwrap();
    sparse.set_len(8 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 5 << 30).unwrap();
    std::os::unix::fs::chown(&data, Some(7), Some(8)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o2770)).unwrap();
    fs::write(image.upper.join("etc/x"), "").unwrap();

    let dest = ground.path("volumes/1");
    ground.host.copy_from_rootfs(&image.mounts, "/data", &dest).await.unwrap();
    let meta = |path: &str| fs::symlink_metadata(dest.join(path)).unwrap();
    let root = fs::symlink_metadata(&dest).unwrap();
    assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (7, 8, 0o2770));
    let tool = meta("tool");
    assert_eq!((tool.uid(), tool.gid(), tool.mode() & 0o7777), (1000, 1001, 0o4751));
    assert_eq!(tool.mtime(), fs::metadata(data.join("tool")).unwrap().mtime());
    assert_eq!(meta("sub/same").ino(), tool.ino());
    assert_eq!(fs::read_link(dest.join("link")).unwrap(), Path::new("/etc/shadow"));
    assert!(meta("fifo").file_type().is_fifo());
    assert!(meta("sub/empty").is_dir());
    assert_eq!(meta("sparse").len(), 8 << 30);
    assert!(meta("sparse").blocks() < 10_000, "holes stay holes");
    let mut end = [0; 3];
    let copied = File::open(dest.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&copied, &mut end, 5 << 30).unwrap();
    assert_eq!(&end, b"end");
    assert_clean(&ground);
}

#[tokio::test]
async fn a_copy_never_leaves_the_image() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    fs::write(image.lower.join("etc/mine"), "x").unwrap();
    let secret = ground.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("f"), "of the host").unwrap();
    symlink("/etc", image.lower.join("etc-link")).unwrap();
    symlink(&secret, image.lower.join("host-link")).unwrap();
    fs::write(image.lower.join("file"), "").unwrap();
    let copied = async |path: &str, dest: &str| -> Result<Vec<String>, ErrorKind> {
        let dest = ground.path(dest);
        let done = ground.host.copy_from_rootfs(&image.mounts, path, &dest).await;
        match done {
            Ok(()) => Ok(ground.host.list_dir(&dest).await.unwrap()),
            Err(error) => {
                assert!(!dest.exists(), "{path}");
                Err(error.kind)
            }
        }
    };
    assert_eq!(copied("/etc-link", "1").await.unwrap(), ["mine"]);
    assert_eq!(copied("/../../etc", "2").await.unwrap(), ["mine"]);
    assert!(copied("/host-link", "3").await.unwrap().is_empty());
    assert!(copied(&format!("../../..{}", secret.display()), "4").await.unwrap().is_empty());
    assert!(copied("/missing", "5").await.unwrap().is_empty());
    assert_eq!(copied("/file", "6").await.unwrap_err(), ErrorKind::FailedPrecondition);
    let taken = ground.host.copy_from_rootfs(&image.mounts, "/etc", &ground.path("1")).await;
    assert!(taken.unwrap_err().is_already_exists());
    assert_clean(&ground);
}

#[tokio::test]
async fn an_image_is_mounted_read_only_and_nothing_leads_out_of_it() {
    let ground = Ground::new();
    let image = Image::new(&ground);
    let (secret, target) = (ground.path("secret"), ground.path("volume"));
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("f"), "of the host").unwrap();
    fs::create_dir_all(image.lower.join("data/deep")).unwrap();
    fs::write(image.upper.join("etc/file"), "of the image").unwrap();
    symlink("/etc/file", image.lower.join("data/absolute")).unwrap();
    symlink(&secret, image.lower.join("data/host")).unwrap();
    symlink("../../../../../..", image.lower.join("data/up")).unwrap();
    symlink("loop", image.lower.join("data/loop")).unwrap();
    mknod(&image.lower.join("data/null"), SFlag::S_IFCHR, Mode::all(), makedev(1, 3)).unwrap();
    let view = vec![RootfsMount {
        options: vec![format!("lowerdir={}:{}", image.upper.display(), image.lower.display())],
        ..image.mounts[0].clone()
    }];
    for mounts in [&image.mounts, &view, &bind(&image.lower)] {
        fs::create_dir_all(&target).unwrap();
        // Half of the work of a host that died: mounted, but writable.
        nix::mount::mount(
            Some(&image.lower),
            &target,
            None::<&str>,
            nix::mount::MsFlags::MS_BIND,
            None::<&str>,
        )
        .unwrap();
        for _ in 0..2 {
            ground.host.mount_image(mounts, &target, None).await.unwrap();
            assert_eq!(ground.mounts().iter().filter(|point| **point == target).count(), 1);
        }
        let refused = fs::write(target.join("data/new"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let device = File::open(target.join("data/null")).unwrap_err();
        assert_eq!(device.kind(), std::io::ErrorKind::PermissionDenied);
        let find = |path: &str| {
            let path = path.to_owned();
            let (host, target) = (&ground.host, &target);
            async move { host.find_inside(target, &path).await.map_err(|error| error.kind) }
        };
        assert_eq!(find("data/deep/").await, Ok(target.join("data/deep")));
        assert_eq!(find("../../data").await, Ok(target.join("data")));
        assert_eq!(find("data/up").await, Ok(target.clone()));
        assert_eq!(find("data/host").await, Err(ErrorKind::NotFound));
        assert_eq!(find("data/host/f").await, Err(ErrorKind::NotFound));
        assert_eq!(find("data/loop").await, Err(ErrorKind::FailedPrecondition));
        assert_eq!(find("data/null").await, Err(ErrorKind::FailedPrecondition));
        assert_eq!(find("data/none").await, Err(ErrorKind::NotFound));
        ground.host.remove_tree(&target).await.unwrap();
        assert!(image.lower.join("data/deep").exists());
    }
    assert_clean(&ground);
}
