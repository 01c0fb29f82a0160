//! The file for a container's termination message.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;

use super::mounts::MountContext;
use super::{Error, Volumes, file_name};
use crate::model::container::Mount;

/// Writable for any user of the container.
const MODE: u32 = 0o666;
/// Maximum number of bytes read, from its end, as in the kubelet.
const LONGEST: usize = 4096;
const DEFAULT_PATH: &str = "/dev/termination-log";

impl Volumes {
    /// The termination message of a container with this many restarts: at most the last 4096 bytes,
    /// with U+FFFD for invalid UTF-8. `None` if there is no file, e.g. before its creation.
    pub async fn termination_message(
        &self,
        uid: &str,
        container: &str,
        restart_count: u32,
    ) -> Result<Option<String>, Error> {
        let path = self.messages(uid, container)?.join(restart_count.to_string());
        let read = self.host.read_tail(&path, LONGEST).await;
        let tail = read.map_err(|source| failed(container, source))?;
        Ok(tail.map(|tail| String::from_utf8_lossy(&tail).into_owned()))
    }

    /// The directory of the termination messages of all containers of a pod.
    pub fn messages_of(&self, uid: &str) -> Result<PathBuf, Error> {
        Ok(self.pod_dir(uid)?.join("containers"))
    }

    /// Creates the file, and removes those of containers before the last one.
    pub(super) async fn termination_mount(
        &self,
        uid: &str,
        container: &Container,
        context: &MountContext<'_>,
    ) -> Result<Option<Mount>, Error> {
        let inside = container.termination_message_path.as_deref().unwrap_or(DEFAULT_PATH);
        if inside.is_empty() {
            return Ok(None);
        }
        let folder = self.messages(uid, &container.name)?;
        let path = folder.join(context.restart_count.to_string());
        let wrong = |source| failed(&container.name, source);
        for name in self.host.list_dir(&folder).await.map_err(wrong)? {
            if name
                .parse()
                .is_ok_and(|number: u32| number.saturating_add(1) < context.restart_count)
            {
                self.host.remove_tree(&folder.join(name)).await.map_err(wrong)?;
            }
        }
        // An existing file is from an earlier attempt, or of a running container.
        if self.host.read_tail(&path, 0).await.map_err(wrong)?.is_none() {
            self.host.write_file(&path, b"", MODE).await.map_err(wrong)?;
        }
        Ok(Some(Mount {
            container_path: inside.to_owned(),
            host_path: path.to_string_lossy().into_owned(),
            selinux_relabel: true,
            ..Mount::default()
        }))
    }

    fn messages(&self, uid: &str, container: &str) -> Result<PathBuf, Error> {
        Ok(self.messages_of(uid)?.join(file_name("container", container)?))
    }
}

fn failed(container: &str, source: crate::backend::Error) -> Error {
    Error::Termination { container: container.to_owned(), source }
}
