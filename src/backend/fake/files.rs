//! The real files of the fake host, in one directory.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{ErrorKind as IoKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::Mode;

use super::super::{Error, ErrorKind, Result};

/// File operations that stay below `root`.
#[derive(Debug, Clone)]
pub(super) struct Files {
    root: PathBuf,
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("{what} {}", path.display()), error)
}

impl Files {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Refuses paths outside the test's directory.
    pub(super) fn within(&self, path: &Path) -> Result<()> {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if path.starts_with(&self.root) && !climbs {
            return Ok(());
        }
        let tried = format!("path: {} is not below {}", path.display(), self.root.display());
        Err(Error::new(ErrorKind::InvalidArgument, tried))
    }

    pub(super) fn write(&self, path: &Path, content: &[u8], mode: u32) -> Result<()> {
        self.within(path)?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let temp = path.with_file_name(format!(".{}.tmp", name.unwrap_or_default()));
        if let Some(parent) = path.parent() {
            self.create_dir(parent, 0o700)?;
        }
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temp)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.set_permissions(Permissions::from_mode(mode))
            })
            .and_then(|()| fs::rename(&temp, path));
        written.map_err(|error| {
            // The first error is returned.
            let _ = fs::remove_file(&temp);
            failed("write", path, error)
        })
    }

    /// Reads a file; files outside the directory do not exist.
    pub(super) fn read(&self, path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
        if self.within(path).is_err() {
            return Ok(None);
        }
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
            found => found.map_err(|error| failed("read", path, error))?,
        };
        let tried = || format!("read {}", path.display());
        if !found.is_file() {
            return Err(Error::new(ErrorKind::FailedPrecondition, tried())
                .because("it is not a regular file"));
        }
        if found.len() > max as u64 {
            return Err(Error::new(ErrorKind::ResourceExhausted, tried())
                .because(format!("it is larger than {max} bytes")));
        }
        fs::read(path).map(Some).map_err(|error| failed("read", path, error))
    }

    pub(super) fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        self.within(path)?;
        let mut missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
        while let Some(dir) = missing.pop() {
            DirBuilder::new()
                .mode(mode)
                .create(dir)
                .and_then(|()| fs::set_permissions(dir, Permissions::from_mode(mode)))
                .map_err(|error| failed("make folder", dir, error))?;
        }
        self.must_be_dir(path)
    }

    pub(super) fn must_be_dir(&self, path: &Path) -> Result<()> {
        self.within(path)?;
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(failed("use folder", path, IoKind::NotADirectory.into())),
            Err(error) => Err(failed("use folder", path, error)),
        }
    }

    pub(super) fn must_be_there(&self, path: &Path) -> Result<()> {
        self.within(path)?;
        fs::symlink_metadata(path).map(drop).map_err(|error| failed("use", path, error))
    }

    pub(super) fn must_be_absent(&self, path: &Path) -> Result<()> {
        self.within(path)?;
        if fs::symlink_metadata(path).is_ok() {
            return Err(failed("make", path, IoKind::AlreadyExists.into()));
        }
        Ok(())
    }

    pub(super) fn remove_tree(&self, path: &Path) -> Result<()> {
        self.within(path)?;
        let removed = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != IoKind::NotFound => Err(failed("remove", path, error)),
            _ => Ok(()),
        }
    }

    pub(super) fn list(&self, path: &Path) -> Result<Vec<String>> {
        self.within(path)?;
        let entries = match fs::read_dir(path) {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| failed("list", path, error))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed("list", path, error))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn resolve(&self, path: &Path, create_missing: bool) -> Result<PathBuf> {
        match fs::canonicalize(path) {
            Err(error) if error.kind() == IoKind::NotFound && create_missing => {
                self.create_dir(path, 0o755)?;
                fs::canonicalize(path)
            }
            resolved => resolved,
        }
        .map_err(|error| failed("resolve host_path", path, error))
    }

    /// Makes all FIFOs or none.
    pub(super) fn make_fifos(&self, paths: &[PathBuf]) -> Result<()> {
        for (index, path) in paths.iter().enumerate() {
            if let Err(error) = self.make_fifo(path) {
                for made in &paths[..index] {
                    // The first error is returned.
                    let _ = fs::remove_file(made);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn make_fifo(&self, path: &Path) -> Result<()> {
        self.within(path)?;
        if let Some(parent) = path.parent() {
            self.create_dir(parent, 0o700)?;
        }
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|errno| failed("make FIFO", path, errno.into()))
    }
}
