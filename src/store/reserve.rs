//! Disk space reserved for the case that the disk is full.
//!
//! Even a deletion needs free space, since the database never overwrites committed pages. So a file
//! of zeros is kept next to it. While the disk is too full to create that file, new work is
//! refused; batches that end work may use its space.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::Error;

/// Size in bytes: enough for some hundred small commits. A commit's space is free again one commit
/// later.
const SIZE: usize = 1 << 20;

/// The reserve file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    there: bool,
}

impl Reserve {
    /// A reserve at `path`; an existing file is used.
    pub(super) fn new(path: PathBuf) -> Self {
        let there = fs::symlink_metadata(&path).is_ok_and(|found| found.len() == SIZE as u64);
        Self { path, there }
    }

    /// Creates the reserve unless it exists.
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
            // A partial reserve would occupy space that the teardown needs.
            let _ = fs::remove_file(&self.path);
            Error::io("keep a reserve for the state store", error)
        })?;
        self.there = true;
        Ok(())
    }

    /// Deletes the file, which frees its space.
    pub(super) fn release(&mut self) {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot release the reserve of the state store"
                );
            }
            _ => self.there = false,
        }
    }
}
