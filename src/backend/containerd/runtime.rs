//! Implements [`Runtime`]: every call is delegated to the file of its service.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde_json::Value;

use super::checkpoints::Snapshot;
use super::{Containerd, checkpoints, containers, events, introspect, snapshots, tasks};
use crate::backend::{
    Exit, FsUsage, HandlerFeatures, NewExec, NewTask, Process, Result, RootfsMount, RootfsOptions,
    Runtime, RuntimeContainer, RuntimeEvent, RuntimeHandler, RuntimeInfo, TaskStatus,
};
use crate::model::image::ChainId;

#[async_trait]
impl Runtime for Containerd {
    async fn probe(&self) -> Result<RuntimeInfo> {
        self.0.holds.forget();
        introspect::probe(&self.0.client).await
    }

    async fn features(&self, handler: &RuntimeHandler) -> Result<HandlerFeatures> {
        introspect::features(&self.0.client, handler).await
    }

    async fn prepare_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: Option<&ChainId>,
        options: &RootfsOptions,
    ) -> Result<Vec<RootfsMount>> {
        snapshots::prepare(&self.0.client, snapshotter, key, parent, options).await
    }

    async fn view_rootfs(
        &self,
        snapshotter: &str,
        key: &str,
        parent: &ChainId,
    ) -> Result<Vec<RootfsMount>> {
        snapshots::view(&self.0.client, snapshotter, key, parent).await
    }

    async fn rootfs_mounts(&self, snapshotter: &str, key: &str) -> Result<Vec<RootfsMount>> {
        snapshots::existing_mounts(&self.0.client, snapshotter, key).await
    }

    async fn remove_rootfs(&self, snapshotter: &str, key: &str) -> Result<()> {
        snapshots::remove(&self.0.client, snapshotter, key).await
    }

    async fn list_rootfs(&self, snapshotter: &str) -> Result<Vec<String>> {
        snapshots::list_ours(&self.0.client, snapshotter).await
    }

    async fn rootfs_usage(&self, snapshotter: &str, key: &str) -> Result<FsUsage> {
        snapshots::usage(&self.0.client, snapshotter, key).await
    }

    async fn create_container(&self, container: &RuntimeContainer) -> Result<()> {
        containers::create(&self.0.client, container).await
    }

    async fn container(&self, id: &str) -> Result<RuntimeContainer> {
        containers::get(&self.0.client, id).await
    }

    async fn list_containers(&self) -> Result<Vec<RuntimeContainer>> {
        containers::list(&self.0.client).await
    }

    async fn container_ids(&self) -> Result<Vec<String>> {
        containers::ids(&self.0.client).await
    }

    async fn update_container_spec(&self, id: &str, spec: &Value) -> Result<()> {
        containers::update_spec(&self.0.client, id, spec).await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        let (unmarked, deleted) = tokio::join!(
            self.0.holds.remove(&self.0.client, id),
            containers::delete(&self.0.client, id),
        );
        deleted.and(unmarked)
    }

    async fn create_task(&self, task: &NewTask) -> Result<u32> {
        // The mark is created while the shim starts, which takes far longer.
        let (created, ()) = tokio::join!(
            tasks::create(&self.0.client, task),
            self.0.holds.add(&self.0.client, &task.id),
        );
        created
    }

    async fn exec(&self, exec: &NewExec) -> Result<()> {
        tasks::exec(&self.0.client, exec).await
    }

    async fn start(&self, process: Process<'_>) -> Result<u32> {
        tasks::start(&self.0.client, process).await
    }

    async fn wait(&self, process: Process<'_>) -> Result<Exit> {
        tasks::wait(&self.0.client, process).await
    }

    async fn kill(&self, process: Process<'_>, signal: i32, all: bool) -> Result<()> {
        tasks::kill(&self.0.client, process, signal, all).await
    }

    async fn delete_task(&self, process: Process<'_>, kill: bool) -> Result<Option<Exit>> {
        tasks::delete(&self.0.client, process, kill).await
    }

    async fn task(&self, process: Process<'_>) -> Result<Option<TaskStatus>> {
        tasks::get(&self.0.client, process).await
    }

    async fn list_tasks(&self) -> Result<Vec<TaskStatus>> {
        tasks::list(&self.0.client).await
    }

    async fn close_stdin(&self, process: Process<'_>) -> Result<()> {
        tasks::close_stdin(&self.0.client, process).await
    }

    async fn resize(&self, process: Process<'_>, width: u32, height: u32) -> Result<()> {
        tasks::resize(&self.0.client, process, width, height).await
    }

    async fn update_resources(&self, id: &str, resources: &Value) -> Result<()> {
        tasks::update(&self.0.client, id, resources).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        tasks::pause(&self.0.client, id).await
    }

    async fn resume(&self, id: &str) -> Result<()> {
        tasks::resume(&self.0.client, id).await
    }

    async fn checkpoint(
        &self,
        id: &str,
        images: &Path,
        work: &Path,
        limit: Duration,
    ) -> Result<()> {
        checkpoints::dump(&self.0.client, id, images, work, limit).await
    }

    async fn export_changes(&self, snapshotter: &str, key: &str, file: &Path) -> Result<()> {
        checkpoints::changes(&self.0.client, Snapshot { snapshotter, key }, file).await
    }

    async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        tasks::pids(&self.0.client, id).await
    }

    fn shim_arguments(&self) -> Vec<String> {
        let client = &self.0.client;
        let (namespace, address) = (client.namespace(), client.address().to_string_lossy());
        ["-namespace", namespace, "-address", &address].map(str::to_owned).to_vec()
    }

    fn events(&self) -> BoxStream<'static, RuntimeEvent> {
        events::stream(Arc::clone(&self.0))
    }
}
