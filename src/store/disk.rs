//! The file below redb, with space that is really there.

use std::fs::File;
use std::io;
use std::ops::Bound;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// A file that grows by allocated blocks instead of holes: a full disk then refuses to let the
/// file grow, and never fails a write inside it. So what needs no growth, such as deleting
/// records, goes on with the pages that are free in the file.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    inner: FileBackend,
}

impl Disk {
    pub(super) fn new(file: File) -> Result<Self, redb::Error> {
        let second = file.try_clone().map_err(redb::Error::Io)?;
        Ok(Self { file, inner: FileBackend::new(second)? })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.inner.len()?;
        if len <= now {
            return self.inner.set_len(len);
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), now, len - now) {
            Ok(()) => Ok(()),
            // The file system cannot allocate ahead.
            Err(Errno::OPNOTSUPP) => self.inner.set_len(len),
            Err(errno) => {
                // A part may have been allocated; a failure here changes nothing for the caller.
                let _ = self.inner.set_len(now);
                Err(errno.into())
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
