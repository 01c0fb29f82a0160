//! The CPU time of a side including everything it starts: shims, OCI runtimes, CNI plugins.
//!
//! The daemons run in a separate cgroup, which their children inherit. On a busy machine this is
//! more meaningful than wall time, because it does not include waiting for a core.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A cgroup that counts CPU time; removed when it is dropped and empty.
pub struct CpuMeter {
    folder: PathBuf,
}

impl CpuMeter {
    /// Makes the cgroup, in the cpuacct hierarchy where there is one.
    pub fn new(name: &str) -> Result<Self> {
        let cpuacct = Path::new("/sys/fs/cgroup/cpuacct");
        let root = if cpuacct.is_dir() { cpuacct } else { Path::new("/sys/fs/cgroup") };
        let folder = root.join(name);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("cannot make {}", folder.display()));
            }
            _ => {}
        }
        Ok(Self { folder })
    }

    /// From now on what this process and its later children use is counted.
    pub fn take(&self, pid: u32) -> Result<()> {
        let path = self.folder.join("cgroup.procs");
        fs::write(&path, pid.to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Milliseconds used so far.
    pub fn millis(&self) -> Result<f64> {
        if let Ok(nanos) = fs::read_to_string(self.folder.join("cpuacct.usage")) {
            return Ok(nanos.trim().parse::<f64>()? / 1e6);
        }
        let path = self.folder.join("cpu.stat");
        let text = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(line.context("no usage_usec in cpu.stat")?.parse::<f64>()? / 1e3)
    }
}

impl Drop for CpuMeter {
    fn drop(&mut self) {
        // A process that outlives its side holds it; the next run takes it over.
        let _ = fs::remove_dir(&self.folder);
    }
}
