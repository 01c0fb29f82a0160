//! The file in which a container may say why it ends.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Container;

use super::mounts::MountContext;
use super::{Error, Volumes, file_name};
use crate::model::container::Mount;

/// Whoever the container runs as may write it.
const MODE: u32 = 0o666;
/// The most that is read of it, in bytes: its end, as the kubelet has it.
const LONGEST: usize = 4096;
const DEFAULT_PATH: &str = "/dev/termination-log";

impl Volumes {
    /// What a container of so many restarts has left as its termination message: at most the last
    /// 4096 bytes, with U+FFFD for what is no UTF-8. `None` without a file, e.g. before its
    /// creation.
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

    /// Makes the file and removes those of the containers before the last one.
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
        // One that is there is of an earlier try, or of a container that runs already.
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
        Ok(self.pod_dir(uid)?.join("containers").join(file_name("container", container)?))
    }
}

fn failed(container: &str, source: crate::backend::Error) -> Error {
    Error::Termination { container: container.to_owned(), source }
}
