//! Checks of programs that run with the agent's privileges: only root may be able to change them.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Whether only root (or the agent's own user) can change a file or directory.
pub(super) fn is_trusted(path: &Path) -> Result<(), &'static str> {
    let found = std::fs::metadata(path).map_err(|_| "it cannot be inspected")?;
    let ours = nix::unistd::geteuid().as_raw();
    if found.uid() != 0 && found.uid() != ours {
        return Err("not owned by root");
    }
    if found.mode() & 0o022 != 0 {
        return Err("writable by users other than its owner");
    }
    Ok(())
}

/// Whether a program may be executed: checks the file and its directory, with links resolved.
pub(super) fn is_trusted_program(path: &Path) -> Result<(), String> {
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    let folders = [path.parent(), real.parent()].into_iter().flatten();
    is_trusted(&real)?;
    for folder in folders {
        is_trusted(folder).map_err(|problem| format!("{}: {problem}", folder.display()))?;
    }
    Ok(())
}

/// Finds a program: in the directories of `PATH`, unless the name is an absolute path.
///
/// # Errors
/// `NotFound` when there is none, `PermissionDenied` when it must not be executed.
pub(super) fn program(name: &str) -> io::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    program_in(name, std::env::split_paths(&path))
}

fn program_in(name: &str, folders: impl Iterator<Item = PathBuf>) -> io::Result<PathBuf> {
    let is_program = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = match Path::new(name).is_absolute() {
        true => Some(PathBuf::from(name)),
        false if name.contains('/') => None,
        false => folders.filter(|f| f.is_absolute()).map(|f| f.join(name)).find(is_program),
    };
    let path = found.filter(is_program).ok_or(io::ErrorKind::NotFound)?;
    match is_trusted_program(&path) {
        Ok(()) => Ok(path),
        Err(problem) => {
            let problem = format!("refusing to execute {}: {problem}", path.display());
            Err(io::Error::new(io::ErrorKind::PermissionDenied, problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn only_what_nobody_else_can_change_is_executed() {
        let world = tempfile::tempdir().unwrap();
        let folder = world.path().join("bin");
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("tool");
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        let find = |name: &str| program_in(name, [folder.clone()].into_iter());
        for (file, dir, expected) in [
            (0o755, 0o755, None),
            (0o700, 0o700, None),
            (0o775, 0o755, Some(io::ErrorKind::PermissionDenied)),
            (0o757, 0o755, Some(io::ErrorKind::PermissionDenied)),
            (0o755, 0o775, Some(io::ErrorKind::PermissionDenied)),
            (0o755, 0o1777, Some(io::ErrorKind::PermissionDenied)),
            (0o644, 0o755, Some(io::ErrorKind::NotFound)),
        ] {
            set_permissions(&path, Permissions::from_mode(file)).unwrap();
            set_permissions(&folder, Permissions::from_mode(dir)).unwrap();
            for name in ["tool", path.to_str().unwrap()] {
                let found = find(name).map_err(|error| error.kind());
                assert_eq!(found.err(), expected, "{file:o} in {dir:o} as {name}");
            }
        }
        set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find("bin/tool").unwrap_err().kind(), io::ErrorKind::NotFound);
        // For a link, both its target and its own location are checked.
        let link = world.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(is_trusted_program(&link).is_ok());
        set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        assert!(is_trusted_program(&link).is_err());
        set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert_eq!(find("tool").unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        }
    }
}
