//! An image that is larger than the disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use podbay::backend::{FsUsage, Images as _};
use podbay::image::{Error, Images, LoadOptions, Options};
use podbay::lifecycle::Tasks;
use podbay::model::image::Digest;
use serde_json::json;

use crate::rig::{Rig, SNAPSHOTTER, until};

const MIB: usize = 1 << 20;

/// A small disk for snapshots.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: PathBuf) -> Self {
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=256m"))
            .expect("a file system");
        Self(path)
    }

    /// Its use in bytes.
    fn used(&self) -> u64 {
        let stat = nix::sys::statvfs::statvfs(&self.0).expect("its state");
        (stat.blocks() - stat.blocks_free()) * stat.fragment_size()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A layer of half a megabyte with one file of this many megabytes of zeros.
fn bomb(mib: usize) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size((mib * MIB) as u64);
    header.set_cksum();
    // The members of a gzip file are unpacked one after the other.
    [gzip(header.as_bytes()), gzip(&vec![0; MIB]).repeat(mib), gzip(&[0; 1024])].concat()
}

/// A docker archive of an image with this layer.
fn archive(layer: &[u8], diff_id: &Digest) -> Vec<u8> {
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    let names = ["example.test/large:1"];
    let manifest = json!([{ "Config": "c.json", "RepoTags": names, "Layers": ["l.tar.gz"] }]);
    let mut tar = tar::Builder::new(Vec::new());
    let (config, manifest) = (config.to_string(), manifest.to_string());
    let files: [(&str, &[u8]); 3] = [
        ("c.json", config.as_bytes()),
        ("l.tar.gz", layer),
        ("manifest.json", manifest.as_bytes()),
    ];
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, path, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

fn folder(rig: &Rig) -> PathBuf {
    let plugin = Path::new("root").join(format!("io.containerd.snapshotter.v1.{SNAPSHOTTER}"));
    rig.daemon.root().join(plugin)
}

pub async fn a_layer_larger_than_the_disk_is_ended(rig: &mut Rig) {
    rig.daemon.kill9();
    let disk = SmallDisk::new(folder(rig));
    rig.daemon.restart();
    let below = Arc::new(rig.backend.clone());
    let options = Options { min_free_percent: 50, ..Options::default() };
    let images = Images::new(below.clone(), below, Tasks::new(), options);
    let before = disk.used();
    // Its digest does not matter: it is known only at the end.
    let bytes = archive(&bomb(512), &Digest::of(b"unpacked"));
    let pieces: Vec<_> = bytes.chunks(MIB).map(|it| Ok(it.to_vec().into())).collect();
    let upload = futures::stream::iter(pieces).boxed();
    let loaded = images.load(upload, LoadOptions::default()).await;
    assert!(matches!(loaded, Err(Error::NoRoom { what: "bytes", .. })), "{loaded:?}");

    assert_eq!(rig.backend.list_leases().await.unwrap(), []);
    assert_eq!(rig.backend.content_usage().await.unwrap(), FsUsage::default());
    assert_eq!(rig.backend.snapshots_usage(SNAPSHOTTER).await.unwrap(), FsUsage::default());
    assert!(images.list(None).await.unwrap().is_empty());
    until("the disk is as before", || async { disk.used() <= before + (1 << 20) }).await;
}
