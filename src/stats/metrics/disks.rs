//! Block devices and file systems.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::super::cgroup::Controller::Blkio;
use super::super::usage::Layer;
use super::families;
use super::{Files, Samples};

/// Major and minor number of a block device.
type Number = (u32, u32);

/// A cgroup's I/O on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Io {
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// A file system, queried once for all containers of a call.
#[derive(Debug, Clone, Copy)]
struct FileSystem {
    device: Number,
    bytes: u64,
    inodes: u64,
    free_inodes: u64,
}

/// Device names, and the file systems queried so far.
pub(super) struct Disks {
    names: HashMap<Number, String>,
    file_systems: HashMap<PathBuf, Option<FileSystem>>,
}

impl Disks {
    /// `proc` is the path of `/proc`.
    pub fn read(proc: &Path) -> Self {
        let table = std::fs::read_to_string(proc.join("partitions")).unwrap_or_default();
        Self { names: names(&table), file_systems: HashMap::new() }
    }

    /// Adds a container's device I/O and file system usage.
    pub fn add(&mut self, samples: &mut Samples, files: &Files<'_>, layer: &Layer) {
        let found = *self
            .file_systems
            .entry(layer.mountpoint.clone())
            .or_insert_with(|| file_system(&layer.mountpoint));
        let mut devices = if files.is_v1() {
            let text = |name| files.text(Blkio, name).unwrap_or_default();
            io_v1(
                &text("blkio.throttle.io_service_bytes_recursive"),
                &text("blkio.throttle.io_serviced_recursive"),
            )
        } else {
            io_v2(&files.text(Blkio, "io.stat").unwrap_or_default())
        };
        if let Some(file_system) = found {
            // The kernel lists a device only after its first use.
            devices.entry(file_system.device).or_default();
            let device = &*self.name(file_system.device);
            samples.add(&families::FS_USAGE, [device], layer.bytes);
            samples.add(&families::FS_LIMIT, [device], file_system.bytes);
            samples.add(&families::FS_INODES_TOTAL, [device], file_system.inodes);
            samples.add(&families::FS_INODES_FREE, [device], file_system.free_inodes);
        }
        for (number, io) in devices {
            self.add_io(samples, number, &io);
        }
    }

    fn add_io(&self, samples: &mut Samples, number: Number, io: &Io) {
        let device = &*self.name(number);
        samples.add(&families::FS_READS_BYTES, [device], io.read_bytes);
        samples.add(&families::FS_READS, [device], io.reads);
        samples.add(&families::FS_WRITES_BYTES, [device], io.written_bytes);
        samples.add(&families::FS_WRITES, [device], io.writes);
        let (major, minor) = (number.0.to_string(), number.1.to_string());
        let usage = &families::BLKIO_USAGE;
        samples.add(usage, [device, &major, &minor, "Read"], io.read_bytes);
        samples.add(usage, [device, &major, &minor, "Write"], io.written_bytes);
    }

    /// A device without a name in the kernel (of some file systems) is named by its numbers.
    fn name(&self, (major, minor): Number) -> String {
        match self.names.get(&(major, minor)) {
            Some(name) => format!("/dev/{name}"),
            None => format!("{major}:{minor}"),
        }
    }
}

/// Parses `/proc/partitions`: major, minor, blocks, name.
fn names(table: &str) -> HashMap<Number, String> {
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let number = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some((number, fields.nth(1)?.to_owned()))
    };
    table.lines().filter_map(row).collect()
}

fn file_system(folder: &Path) -> Option<FileSystem> {
    let device = rustix::fs::stat(folder).ok()?.st_dev;
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(FileSystem {
        device: (rustix::fs::major(device), rustix::fs::minor(device)),
        bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        inodes: stat.f_files,
        free_inodes: stat.f_ffree,
    })
}

/// Parses lines of `MAJOR:MINOR Operation number`; the last line is the total.
pub(super) fn io_v1(bytes: &[u8], operations: &[u8]) -> BTreeMap<Number, Io> {
    let mut devices = BTreeMap::<Number, Io>::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in String::from_utf8_lossy(text).lines() {
            let mut words = line.split_ascii_whitespace();
            let Some(number) = words.next().and_then(number) else { continue };
            let (Some(operation), Some(Ok(value))) = (words.next(), words.next().map(str::parse))
            else {
                continue;
            };
            let io = devices.entry(number).or_default();
            match (operation, counts_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.written_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    devices
}

/// Parses lines of `MAJOR:MINOR key=number …`.
pub(super) fn io_v2(text: &[u8]) -> BTreeMap<Number, Io> {
    let mut devices = BTreeMap::<Number, Io>::new();
    for line in String::from_utf8_lossy(text).lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(number) = words.next().and_then(number) else { continue };
        let io = devices.entry(number).or_default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.written_bytes = value,
                "rios" => io.reads = value,
                "wios" => io.writes = value,
                _ => {}
            }
        }
    }
    devices
}

fn number(text: &str) -> Option<Number> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
