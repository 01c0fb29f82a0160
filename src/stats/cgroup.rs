//! Finds the cgroup of a process and reads its usage.
//!
//! Files are kept open: reading an open file costs a quarter of opening it, and a file of a removed
//! cgroup answers ENODEV for ever, even after another cgroup takes its path.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::time::Instant;

use super::parse::{self, MemoryStat, UNLIMITED};
use super::usage::{Cpu, Memory, Pressure, Swap, Usage};
use crate::backend::CgroupVersion;
use crate::clock::now;
use crate::locks::{Mutex, MutexGuard};

/// Maximum size of a file read here, in bytes: the kernel limits them to a page.
const BUFFER: usize = 16 << 10;

/// How deep cgroups below a container's are looked for, and how many of them.
const DEPTH: usize = 16;
const MOST: usize = 1024;

/// Maximum number of files that a group keeps open.
pub const FILES: usize = 9;

/// The cgroup tree of this host.
#[derive(Debug, Clone)]
pub struct Tree {
    /// cgroup version of the host.
    pub version: CgroupVersion,
    /// `/sys/fs/cgroup`, or a directory in tests.
    pub root: PathBuf,
    /// `/proc`, or a directory in tests.
    pub proc: PathBuf,
}

/// Controllers whose files are read. In v2 all share one directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// CPU limits.
    Cpu,
    /// CPU time (v1).
    Cpuacct,
    /// Memory.
    Memory,
    /// Block devices.
    Blkio,
    /// Number of tasks.
    Pids,
    /// Huge pages.
    Hugetlb,
    /// The unified hierarchy; on a v1 host only its pressure files are used.
    Unified,
}

const CONTROLLERS: [(Controller, &str); 7] = [
    (Controller::Cpu, "cpu"),
    (Controller::Cpuacct, "cpuacct"),
    (Controller::Memory, "memory"),
    (Controller::Blkio, "blkio"),
    (Controller::Pids, "pids"),
    (Controller::Hugetlb, "hugetlb"),
    (Controller::Unified, ""),
];

/// The directories of one cgroup.
#[derive(Debug, Clone, Default)]
pub struct Folders {
    version: CgroupVersion,
    /// Path inside its hierarchy, as the kernel reports it.
    pub path: String,
    found: Vec<(Controller, PathBuf)>,
}

impl Folders {
    /// The directory with the files of a controller.
    pub fn of(&self, controller: Controller) -> Option<&Path> {
        let wanted = match self.version {
            CgroupVersion::V1 => controller,
            CgroupVersion::V2 => Controller::Unified,
        };
        self.found.iter().find(|(found, _)| *found == wanted).map(|(_, path)| path.as_path())
    }

    /// Whether the files have v1 names.
    pub fn is_v1(&self) -> bool {
        self.version == CgroupVersion::V1
    }

    /// The processes in the cgroup and in those below it: crun with systemd, and init systems in
    /// containers, keep none in the cgroup itself. Cgroups that cannot be read are left out, such
    /// as those of threads, whose processes are listed above them.
    pub fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        let mut level: Vec<PathBuf> =
            self.of(Controller::Memory).map(Path::to_owned).into_iter().collect();
        let mut left = MOST;
        for _ in 0..DEPTH {
            level.truncate(left);
            left -= level.len();
            for folder in &level {
                let listed = std::fs::read_to_string(folder.join("cgroup.procs"));
                let listed = listed.unwrap_or_default();
                found.extend(listed.lines().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            level = level.iter().flat_map(|folder| children(folder)).collect();
        }
        found
    }

    /// The parent cgroup.
    #[must_use]
    pub fn parent(mut self) -> Self {
        for (_, path) in &mut self.found {
            path.pop();
        }
        let parent = self.path.rfind('/').unwrap_or_default();
        self.path.truncate(parent);
        self
    }
}

/// The folders in a folder. One without any has two links, which is quicker to see than its files.
fn children(folder: &Path) -> Vec<PathBuf> {
    if std::fs::metadata(folder).is_ok_and(|metadata| metadata.nlink() == 2) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

impl Tree {
    /// The cgroup of container `id`, whose first process is `pid`: the directory named by the id.
    /// This also finds it if the process moved itself to a child cgroup, and does not mistake a
    /// process of another container that reused the PID.
    ///
    /// # Errors
    /// `NotFound` when the process is gone. `None` when its cgroup path does not contain the id.
    pub fn folders(&self, pid: u32, id: &str) -> io::Result<Option<Folders>> {
        let membership = std::fs::read_to_string(self.proc.join(format!("{pid}/cgroup")));
        let membership =
            membership.map_err(|error| if is_gone(&error) { gone() } else { error })?;
        let mut folders = Folders { version: self.version, ..Folders::default() };
        for line in membership.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
            let Some(path) = up_to(path, id) else { continue };
            let mounted = |(_, name): &&(Controller, &str)| names.split(',').any(|it| it == *name);
            for (controller, name) in CONTROLLERS.iter().filter(mounted) {
                let folder = self.mount(name).join(path.trim_start_matches('/'));
                folders.found.push((*controller, folder));
            }
            if folders.path.is_empty() {
                path.clone_into(&mut folders.path);
            }
        }
        Ok(Some(folders).filter(|folders| !folders.found.is_empty()))
    }

    fn mount(&self, controller: &str) -> PathBuf {
        match (self.version, controller) {
            (CgroupVersion::V2, _) => self.root.clone(),
            (CgroupVersion::V1, "") => self.root.join("unified"),
            (CgroupVersion::V1, name) => self.root.join(name),
        }
    }
}

/// The path up to the component that contains the id.
fn up_to<'a>(path: &'a str, id: &str) -> Option<&'a str> {
    let at = path.find(id)?;
    let end = path[at..].find('/').map_or(path.len(), |length| at + length);
    // If the agent is in a cgroup namespace, paths outside of it look like this and are
    // inaccessible.
    let climbs = path.split('/').any(|part| part == "..");
    (!climbs).then_some(&path[..end])
}

/// Whether an error means that a process or a cgroup no longer exists.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(Errno::from_io_error(error), Some(Errno::NODEV | Errno::SRCH))
}

fn gone() -> io::Error {
    io::ErrorKind::NotFound.into()
}

/// A file of a cgroup.
enum Source {
    /// Kept open.
    Open(OwnedFd),
    /// Opened for each read, because too many would be kept open.
    Closed(PathBuf),
    /// The kernel or this cgroup does not have it.
    Absent,
}

impl Source {
    fn new(folder: Option<&Path>, name: &str, keep: bool) -> io::Result<Self> {
        let Some(path) = folder.map(|folder| folder.join(name)) else { return Ok(Self::Absent) };
        match open(&path) {
            Ok(file) if keep => Ok(Self::Open(file)),
            Ok(_) => Ok(Self::Closed(path)),
            // If pressure accounting is disabled, opening the file fails.
            Err(Errno::NOENT | Errno::OPNOTSUPP) => Ok(Self::Absent),
            Err(error) => Err(error.into()),
        }
    }

    fn read<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let length = match self {
            Self::Open(file) => rustix::io::pread(file, &mut *buffer, 0),
            Self::Closed(path) => {
                open(path).and_then(|file| rustix::io::pread(&file, &mut *buffer, 0))
            }
            Self::Absent => return Ok(None),
        };
        match length {
            Ok(length) => Ok(Some(&buffer[..length])),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// A cgroup: its files and its earlier CPU usage.
pub struct Group {
    /// The process by which it was found.
    pub pid: u32,
    version: CgroupVersion,
    cpu: Source,
    memory: Source,
    memory_stat: Source,
    memory_limit: Source,
    swap: Source,
    swap_limit: Source,
    /// CPU, memory, I/O, in this order.
    pressure: [Source; 3],
    points: Mutex<Points>,
    /// Highest memory usage seen.
    most_memory: AtomicU64,
}

impl Group {
    /// Opens the files of a cgroup that was created `age` ago, if known; `keep` keeps them open.
    ///
    /// # Errors
    /// [`is_gone`] when the cgroup does not exist.
    pub fn open(
        pid: u32,
        folders: &Folders,
        age: Option<Duration>,
        keep: bool,
    ) -> io::Result<Self> {
        let at = |controller, name| Source::new(folders.of(controller), name, keep);
        let swap = |name| match folders.version {
            CgroupVersion::V1 => Ok(Source::Absent),
            CgroupVersion::V2 => at(Controller::Memory, name),
        };
        let [cpu, memory, limit] = match folders.version {
            CgroupVersion::V1 => {
                ["cpuacct.usage", "memory.usage_in_bytes", "memory.limit_in_bytes"]
            }
            CgroupVersion::V2 => ["cpu.stat", "memory.current", "memory.max"],
        };
        let group = Self {
            pid,
            version: folders.version,
            cpu: at(Controller::Cpuacct, cpu)?,
            memory: at(Controller::Memory, memory)?,
            memory_stat: at(Controller::Memory, "memory.stat")?,
            memory_limit: at(Controller::Memory, limit)?,
            swap: swap("memory.swap.current")?,
            swap_limit: swap("memory.swap.max")?,
            pressure: [
                at(Controller::Unified, "cpu.pressure")?,
                at(Controller::Unified, "memory.pressure")?,
                at(Controller::Unified, "io.pressure")?,
            ],
            points: Mutex::new(Points::since(age)),
            most_memory: AtomicU64::new(0),
        };
        let nothing = matches!((&group.cpu, &group.memory), (Source::Absent, Source::Absent));
        if nothing { Err(gone()) } else { Ok(group) }
    }

    /// Reads all values. CPU usage is averaged over at least `window`.
    ///
    /// # Errors
    /// [`is_gone`] when the cgroup was removed.
    pub fn read(&self, window: Duration) -> io::Result<Usage> {
        let mut buffer = [0; BUFFER];
        let at = now();
        let cpu = match self.cpu_time(&mut buffer)? {
            Some(usage) => Some(Cpu {
                usage,
                nano_cores: self.points().rate(usage, window),
                pressure: self.pressure(0, &mut buffer)?,
            }),
            None => None,
        };
        let (memory, swap) = self.memory(&mut buffer)?;
        Ok(Usage { at, cpu, memory, swap, io: self.pressure(2, &mut buffer)? })
    }

    /// Records the current CPU time and memory usage.
    ///
    /// # Errors
    /// [`is_gone`] when the cgroup was removed.
    pub fn sample(&self) -> io::Result<()> {
        let mut buffer = [0; BUFFER];
        if let Some(usage) = self.cpu_time(&mut buffer)? {
            self.points().add(usage);
        }
        self.memory_in_use(&mut buffer).map(drop)
    }

    /// CPU time since the cgroup was created, in nanoseconds.
    ///
    /// # Errors
    /// [`is_gone`] when the cgroup was removed.
    pub fn cpu_so_far(&self) -> io::Result<Option<u64>> {
        self.cpu_time(&mut [0; BUFFER])
    }

    /// Highest memory usage seen in any reading so far.
    pub fn most_memory(&self) -> u64 {
        self.most_memory.load(Ordering::Relaxed)
    }

    fn memory_in_use(&self, buffer: &mut [u8]) -> io::Result<Option<u64>> {
        let usage = self.memory.read(buffer)?.and_then(parse::number);
        self.most_memory.fetch_max(usage.unwrap_or_default(), Ordering::Relaxed);
        Ok(usage)
    }

    fn points(&self) -> MutexGuard<'_, Points> {
        self.points.lock()
    }

    /// CPU time in nanoseconds.
    fn cpu_time(&self, buffer: &mut [u8]) -> io::Result<Option<u64>> {
        let text = self.cpu.read(buffer)?;
        Ok(text.and_then(|text| match self.version {
            CgroupVersion::V1 => parse::number(text),
            CgroupVersion::V2 => {
                parse::value_of(text, "usage_usec").map(|usage| usage.saturating_mul(1000))
            }
        }))
    }

    fn pressure(&self, which: usize, buffer: &mut [u8]) -> io::Result<Option<Pressure>> {
        Ok(self.pressure[which].read(buffer)?.and_then(parse::pressure))
    }

    fn memory(&self, buffer: &mut [u8]) -> io::Result<(Option<Memory>, Option<Swap>)> {
        let Some(usage) = self.memory_in_use(buffer)? else { return Ok((None, None)) };
        let limit = self.memory_limit.read(buffer)?.and_then(parse::number).unwrap_or(u64::MAX);
        let text = self.memory_stat.read(buffer)?.unwrap_or_default();
        let stat = match self.version {
            CgroupVersion::V1 => parse::memory_stat_v1(text),
            CgroupVersion::V2 => parse::memory_stat_v2(text),
        };
        let swap = match self.version {
            CgroupVersion::V1 => swap_v1(&stat),
            CgroupVersion::V2 => self.swap_v2(buffer)?,
        };
        let working_set = working_set(usage, &stat);
        let memory = Memory {
            usage,
            working_set,
            available: left_of(limit, working_set).unwrap_or_default(),
            rss: stat.rss,
            page_faults: stat.page_faults,
            major_page_faults: stat.major_page_faults,
            pressure: self.pressure(1, buffer)?,
        };
        Ok((Some(memory), swap))
    }

    fn swap_v2(&self, buffer: &mut [u8]) -> io::Result<Option<Swap>> {
        let Some(usage) = self.swap.read(buffer)?.and_then(parse::number) else { return Ok(None) };
        let limit = self.swap_limit.read(buffer)?.and_then(parse::number).unwrap_or(u64::MAX);
        Ok(Some(Swap { usage, available: left_of(limit, usage) }))
    }
}

/// v1 limits memory and swap together, so the part above the memory limit is the swap limit.
fn swap_v1(stat: &MemoryStat) -> Option<Swap> {
    let usage = stat.swap?;
    let limit = match (stat.limit, stat.swap_limit) {
        (Some(memory), Some(both)) if both <= UNLIMITED => both.saturating_sub(memory),
        _ => u64::MAX,
    };
    Some(Swap { usage, available: left_of(limit, usage) })
}

/// Working set as cAdvisor defines it: memory that cannot be reclaimed at once.
pub fn working_set(usage: u64, stat: &MemoryStat) -> u64 {
    usage.saturating_sub(stat.inactive_file)
}

fn left_of(limit: u64, used: u64) -> Option<u64> {
    (limit <= UNLIMITED).then(|| limit.saturating_sub(used))
}

/// CPU time at two earlier points in time.
#[derive(Debug, Default)]
struct Points {
    older: Option<Point>,
    newer: Option<Point>,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    at: Instant,
    usage: u64,
}

impl Points {
    /// At its creation a cgroup had used nothing.
    fn since(age: Option<Duration>) -> Self {
        let made = age.and_then(|age| Instant::now().checked_sub(age));
        Self { older: None, newer: made.map(|at| Point { at, usage: 0 }) }
    }

    fn add(&mut self, usage: u64) {
        self.older = self.newer.replace(Point { at: Instant::now(), usage });
    }

    /// Nanoseconds used per second, since the latest point that is at least `window` old.
    fn rate(&self, usage: u64, window: Duration) -> Option<u64> {
        let points = [self.newer, self.older].into_iter().flatten();
        let mut long_ago = points.map(|point| (point.at.elapsed(), point.usage));
        let (time, before) = long_ago.find(|(time, _)| *time >= window)?;
        // The counter is monotonic, but the kernel sums it over cores without a lock.
        let used = u128::from(usage.checked_sub(before)?);
        u64::try_from(used * 1_000_000_000 / time.as_nanos().max(1)).ok()
    }
}

#[cfg(test)]
mod tests;
