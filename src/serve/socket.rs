//! Binds a unix socket that has the right owner and mode from the start.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Maximum number of pending connections; more than the concurrent calls would be useless.
const BACKLOG: u32 = 512;

/// Path of a socket, and who may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOptions {
    /// Absolute path of at most 107 bytes.
    pub path: PathBuf,
    /// Mode bits, e.g. `0o660`.
    pub mode: u32,
    /// Owning group; `None` keeps the agent's.
    pub gid: Option<u32>,
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process serves this socket.
    #[error("another process listens on {0}")]
    InUse(PathBuf),
    /// The path is not a socket, so it is not removed.
    #[error("{0} exists and is not a socket")]
    NotASocket(PathBuf),
    /// A step failed.
    #[error("{step} {path}")]
    Io {
        /// The step that failed.
        step: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Binds and listens. Missing parent directories are created with mode 0711. A stale socket is
/// replaced. No client can connect before mode and group are set.
pub async fn bind(options: &SocketOptions) -> Result<UnixListener, SocketError> {
    let path = options.path.as_path();
    let failed = |step| move |source| SocketError::Io { step, path: path.to_owned(), source };
    if let Some(folder) = path.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
        made.map_err(failed("make the folder of"))?;
    }
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream().map_err(failed("make a socket for"))?;
    socket.bind(path).map_err(failed("bind"))?;
    let mode = std::fs::Permissions::from_mode(options.mode);
    std::fs::set_permissions(path, mode).map_err(failed("set the mode of"))?;
    if options.gid.is_some() {
        std::os::unix::fs::chown(path, None, options.gid).map_err(failed("set the group of"))?;
    }
    socket.listen(BACKLOG).map_err(failed("listen on"))
}

async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |step| move |source| SocketError::Io { step, path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("connect to")(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn options(folder: &Path) -> SocketOptions {
        SocketOptions { path: folder.join("run/podbay/podbay.sock"), mode: 0o660, gid: Some(0) }
    }

    #[tokio::test]
    async fn mode_and_folders_are_as_asked_and_a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        for _ in 0..2 {
            let listener = bind(&options).await.unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
            assert_eq!(mode(&options.path), 0o660);
            assert_eq!(mode(options.path.parent().unwrap()), 0o711);
            UnixStream::connect(&options.path).await.unwrap();
            // The file remains, as after a crash.
            drop(listener);
        }
    }

    #[tokio::test]
    async fn a_live_socket_and_a_foreign_file_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path());
        let _listener = bind(&options).await.unwrap();
        assert!(matches!(bind(&options).await, Err(SocketError::InUse(_))));
        UnixStream::connect(&options.path).await.unwrap();

        let file = SocketOptions { path: folder.path().join("file"), ..options };
        std::fs::write(&file.path, "mine").unwrap();
        assert!(matches!(bind(&file).await, Err(SocketError::NotASocket(_))));
        assert_eq!(std::fs::read(&file.path).unwrap(), b"mine");
    }
}
