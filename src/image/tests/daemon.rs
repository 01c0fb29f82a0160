//! The runtime half of containerd, of which this room needs one call.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::backend::*;
use crate::model::image::ChainId;

/// A runtime that only reports its snapshotters.
pub struct Daemon;

fn unknown<T>() -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, "call a double"))
}

#[async_trait]
impl Runtime for Daemon {
    async fn probe(&self) -> Result<RuntimeInfo> {
        let of = |name: &str| SnapshotterInfo {
            name: name.into(),
            root: format!("/snapshots/{name}").into(),
            capabilities: Vec::new(),
        };
        Ok(RuntimeInfo { snapshotters: vec![of("otherfs"), of("testfs")], ..Default::default() })
    }
    async fn features(&self, _: &RuntimeHandler) -> Result<HandlerFeatures> {
        unknown()
    }
    async fn prepare_rootfs(
        &self,
        _: &str,
        _: &str,
        _: Option<&ChainId>,
        _: &RootfsOptions,
    ) -> Result<Vec<RootfsMount>> {
        unknown()
    }
    async fn view_rootfs(&self, _: &str, _: &str, _: &ChainId) -> Result<Vec<RootfsMount>> {
        unknown()
    }
    async fn rootfs_mounts(&self, _: &str, _: &str) -> Result<Vec<RootfsMount>> {
        unknown()
    }
    async fn remove_rootfs(&self, _: &str, _: &str) -> Result<()> {
        unknown()
    }
    async fn list_rootfs(&self, _: &str) -> Result<Vec<String>> {
        unknown()
    }
    async fn rootfs_usage(&self, _: &str, _: &str) -> Result<FsUsage> {
        unknown()
    }
    async fn create_container(&self, _: &RuntimeContainer) -> Result<()> {
        unknown()
    }
    async fn container(&self, _: &str) -> Result<RuntimeContainer> {
        unknown()
    }
    async fn list_containers(&self) -> Result<Vec<RuntimeContainer>> {
        unknown()
    }
    async fn container_ids(&self) -> Result<Vec<String>> {
        unknown()
    }
    async fn update_container_spec(&self, _: &str, _: &serde_json::Value) -> Result<()> {
        unknown()
    }
    async fn delete_container(&self, _: &str) -> Result<()> {
        unknown()
    }
    async fn create_task(&self, _: &NewTask) -> Result<u32> {
        unknown()
    }
    async fn exec(&self, _: &NewExec) -> Result<()> {
        unknown()
    }
    async fn start(&self, _: Process<'_>) -> Result<u32> {
        unknown()
    }
    async fn wait(&self, _: Process<'_>) -> Result<Exit> {
        unknown()
    }
    async fn kill(&self, _: Process<'_>, _: i32, _: bool) -> Result<()> {
        unknown()
    }
    async fn delete_task(&self, _: Process<'_>, _: bool) -> Result<Option<Exit>> {
        unknown()
    }
    async fn task(&self, _: Process<'_>) -> Result<Option<TaskStatus>> {
        unknown()
    }
    async fn list_tasks(&self) -> Result<Vec<TaskStatus>> {
        unknown()
    }
    async fn close_stdin(&self, _: Process<'_>) -> Result<()> {
        unknown()
    }
    async fn resize(&self, _: Process<'_>, _: u32, _: u32) -> Result<()> {
        unknown()
    }
    async fn update_resources(&self, _: &str, _: &serde_json::Value) -> Result<()> {
        unknown()
    }
    async fn pause(&self, _: &str) -> Result<()> {
        unknown()
    }
    async fn resume(&self, _: &str) -> Result<()> {
        unknown()
    }
    async fn checkpoint(&self, _: &str, _: &Path, _: &Path, _: Duration) -> Result<()> {
        unknown()
    }
    async fn export_changes(&self, _: &str, _: &str, _: &Path) -> Result<()> {
        unknown()
    }
    async fn pids(&self, _: &str) -> Result<Vec<u32>> {
        unknown()
    }
    fn shim_arguments(&self) -> Vec<String> {
        Vec::new()
    }
    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        Box::pin(futures::stream::pending())
    }
}
