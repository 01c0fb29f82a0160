//! Space kept for the time when the disk is full.
//!
//! Even a deletion needs room first, since the database never overwrites what is committed. So a
//! file of zeros stands beside it. When the disk is full new work is refused while the file
//! cannot be made; what ends work gets its space.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::Error;

/// Bytes: some hundred small commits, whose space is free again one commit later.
const SIZE: usize = 1 << 20;

/// The reserve file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    there: bool,
}

impl Reserve {
    /// A reserve at `path`; takes over one that is there.
    pub(super) fn new(path: PathBuf) -> Self {
        let there = fs::symlink_metadata(&path).is_ok_and(|found| found.len() == SIZE as u64);
        Self { path, there }
    }

    /// Makes the reserve unless it is there.
    pub(super) fn ensure(&mut self) -> Result<(), Error> {
        if self.there {
            return Ok(());
        }
        let made = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&self.path)
            .and_then(|mut file| file.write_all(&vec![0; SIZE]).and_then(|()| file.sync_all()));
        made.map_err(|error| {
            // Half a reserve would take what the teardown needs.
            let _ = fs::remove_file(&self.path);
            Error::io("keep a reserve for the state store", error)
        })?;
        self.there = true;
        Ok(())
    }

    /// Gives the space back to the disk.
    pub(super) fn release(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(error = &error as &dyn std::error::Error, "state store: reserve");
            }
            _ => self.there = false,
        }
    }
}
