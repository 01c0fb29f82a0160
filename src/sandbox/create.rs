//! RunPodSandbox.
//!
//! ```text
//! name ─> intent stored ─┬─> netns ──────┬─> CNI ADD ─────────────────────┬─> result stored ─> Ready
//!                        └─> files, shm ─┴─> record ─> task ─> pause runs ─┘
//! ```
//! The network is made while the pause container is: the two need only the namespace.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::entry::Entry;
use super::error::{Error, Step};
use super::record::{Owed, SandboxRecord};
use super::stop::Strict;
use super::{PauseSource, Room, Sandbox, SandboxState, files};
use crate::backend::{Attachment, Hold, NetworkStatus, RuntimeHandler};
use crate::board::{EventKind, now};
use crate::ids::PodId;
use crate::lifecycle::Backoff;
use crate::model::Owner;
use crate::model::pod::{PodConfig, PodMetadata};
use crate::oci::{self, check_sysctls};
use crate::telemetry::error_chain;

/// Pauses between tries to undo a failed creation.
const UNDO_FIRST: Duration = Duration::from_secs(1);
const UNDO_LONGEST: Duration = Duration::from_secs(60);

/// Longest hosts or resolv.conf that is copied from the host.
const HOST_FILE_MAX: usize = 1 << 20;

impl Room {
    pub(super) async fn run(
        self: Arc<Self>,
        config: PodConfig,
        handler: String,
    ) -> Result<PodId, Error> {
        let resolved = self.handler(&handler)?.clone();
        check_sysctls(&config).map_err(in_request)?;
        let id = PodId::random();
        let entry = Entry::new(self.new_record(&id, config, handler, &resolved));
        let _alone = entry.gate.clone().write_owned().await;
        // Known before its name is: who finds the name taken has to find whom to join.
        self.entries().insert(id.clone(), entry.clone());
        let Sandbox { config, handler, .. } = entry.sandbox();
        if let Err(taken) = self.reserve(&config.metadata, &id) {
            self.entries().remove(&id);
            return self.adopt(&taken, &config, &handler).await;
        }
        if let Err(error) = self.claim_host_ports(&entry) {
            entry.set_failure(error_chain(&error));
            self.forget(&entry);
            return Err(error);
        }
        match self.make(&entry, &resolved).await {
            Ok(_hold) => {
                entry.publish(&self.deps.base, Some(EventKind::Created));
                entry.publish(&self.deps.base, Some(EventKind::Started));
                self.watch_pause(&entry);
                Ok(id)
            }
            Err(error) => {
                self.undo(&entry, &error).await;
                Err(error)
            }
        }
    }

    /// Takes a name, or tells who has it.
    pub(super) fn reserve(&self, name: &PodMetadata, id: &PodId) -> Result<(), PodId> {
        let mut names = self.names();
        match names.get(name) {
            Some(taken) if taken != id => Err(taken.clone()),
            _ => {
                names.insert(name.clone(), id.clone());
                Ok(())
            }
        }
    }

    /// The name is taken: by a creation of the very same pod, or by another one.
    async fn adopt(
        &self,
        taken: &PodId,
        config: &PodConfig,
        handler: &str,
    ) -> Result<PodId, Error> {
        let name = &config.metadata;
        let name = format!("{}_{}_{}_{}", name.name, name.namespace, name.uid, name.attempt);
        let in_use = Error::NameInUse { name, id: taken.clone() };
        let Ok(entry) = self.entry(taken) else { return Err(in_use) };
        let sandbox = entry.sandbox();
        if *sandbox.config != *config || sandbox.handler != handler {
            return Err(in_use);
        }
        // A creation in progress holds the gate to its end.
        let _open = entry.gate.read().await;
        match (entry.sandbox().state, entry.failure()) {
            (SandboxState::Ready { .. }, _) => Ok(taken.clone()),
            (_, Some(message)) => Err(Error::JoinedFailed { id: taken.clone(), message }),
            _ => Err(in_use),
        }
    }

    fn new_record(
        &self,
        id: &PodId,
        config: PodConfig,
        handler: String,
        resolved: &RuntimeHandler,
    ) -> SandboxRecord {
        let name = format!("{}{id}", self.options.netns_prefix);
        let netns = self.options.netns_dir.join(name);
        let mut owed = BTreeSet::from([Owed::Pause]);
        if !config.host_network() {
            owed.extend([Owed::Netns, Owed::Network]);
        }
        if !config.host_ipc() {
            owed.insert(Owed::Shm);
        }
        SandboxRecord {
            handler: resolved.clone(),
            pause: None,
            pause_snapshot: matches!(self.options.pause, PauseSource::Image(_)),
            owed,
            was_attached: false,
            removing: false,
            boot_id: self.deps.base.host.facts().boot_id.clone(),
            overhead: config.overhead.clone(),
            resources: config.resources.clone(),
            sandbox: Sandbox {
                id: id.clone(),
                owner: Owner::Cri,
                netns: (!config.host_network()).then_some(netns),
                config: Arc::new(config),
                handler,
                created_at: now(),
                state: SandboxState::Creating,
                network: None,
            },
        }
    }

    /// Returns with plugins held: what they were asked about is to be published first.
    async fn make(&self, entry: &Entry, handler: &RuntimeHandler) -> Result<Hold, Error> {
        entry.save(&self.deps.base, |_| {}).await?;
        let sandbox = entry.sandbox();
        // Each pair is let run to its end: what is made must be known to be undone.
        let (netns, files) =
            tokio::join!(self.make_netns(&sandbox), self.make_shared_files(&sandbox));
        netns?;
        files?;
        let (network, pause) =
            tokio::join!(self.attach(&sandbox), self.start_pause(entry, handler));
        let (network, pause) = (network?, pause?);
        let running = Sandbox {
            network: network.clone(),
            state: SandboxState::Ready { pid: pause.pid },
            ..sandbox
        };
        let hold = self.ask_about_run(entry, &running).await?;
        entry
            .save(&self.deps.base, |record| {
                record.was_attached = network.is_some();
                record.sandbox.network = network;
                record.sandbox.state = SandboxState::Ready { pid: pause.pid };
                record.pause = Some(pause);
            })
            .await?;
        Ok(hold)
    }

    async fn make_netns(&self, sandbox: &Sandbox) -> Result<(), Error> {
        match &sandbox.netns {
            Some(path) => {
                self.deps.base.host.create_netns(path).await.step("make the network namespace")
            }
            None => Ok(()),
        }
    }

    async fn attach(&self, sandbox: &Sandbox) -> Result<Option<NetworkStatus>, Error> {
        let Some(netns) = &sandbox.netns else { return Ok(None) };
        let attachment = attachment(sandbox, Some(netns));
        let status = self.deps.network.attach(&attachment).await;
        Ok(Some(status.step("connect the pod to its network")?))
    }

    async fn make_shared_files(&self, sandbox: &Sandbox) -> Result<(), Error> {
        const STEP: &str = "write the pod's files";
        let host = &self.deps.base.host;
        let paths = self.shared_files(sandbox);
        let config = &sandbox.config;
        host.create_dir(&self.dir(&sandbox.id), 0o700).await.step(STEP)?;
        let hosts = self.host_file("/etc/hosts").await?;
        let resolv_conf = match &config.dns {
            Some(dns) => files::resolv_conf(dns).into_bytes(),
            None => self.host_file("/etc/resolv.conf").await?,
        };
        let hostname = files::hostname(&self.hostname(config));
        for (path, content) in [
            (&paths.hosts, hosts.as_slice()),
            (&paths.resolv_conf, &resolv_conf),
            (&paths.hostname, hostname.as_bytes()),
        ] {
            host.write_file(path, content, 0o644).await.step(STEP)?;
        }
        if let Some(shm) = &paths.shm {
            host.create_dir(shm, 0o700).await.step(STEP)?;
            host.mount_shm(shm, self.options.shm_size).await.step("mount the pod's /dev/shm")?;
        }
        Ok(())
    }

    async fn host_file(&self, path: &str) -> Result<Vec<u8>, Error> {
        let content = self.deps.base.host.read_file(Path::new(path), HOST_FILE_MAX).await;
        Ok(content.step("read a file of the host")?.unwrap_or_default())
    }

    /// Takes a failed creation back. What cannot be taken back is listed as not ready, with its
    /// name reserved, and tried again until it is gone or somebody stops and removes it.
    async fn undo(self: &Arc<Self>, entry: &Arc<Entry>, error: &Error) {
        entry.set_failure(error_chain(error));
        entry.change(|record| record.sandbox.state = SandboxState::NotReady);
        if let Err(undo) = self.try_undo(entry).await {
            tracing::warn!(pod = %entry.id, error = error_chain(&undo), "creation not undone yet");
            self.mark_not_ready(entry).await;
            self.undo_later(entry);
        }
    }

    /// Takes away all that a sandbox has, and the sandbox; a DEL that fails is a failure here
    /// even when ADD never ended, or its address would stay taken.
    pub(super) async fn try_undo(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        self.tear_down(entry, Strict::Yes).await?;
        self.finish_removal(entry).await
    }

    pub(super) fn undo_later(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.base.tasks.spawn_until_drain("sandbox-undo", async move {
            let mut pauses = Backoff::new(UNDO_FIRST, UNDO_LONGEST);
            loop {
                tokio::time::sleep(pauses.next()).await;
                let _alone = entry.gate.write().await;
                let removed = room.entry(&entry.id).is_err();
                if removed || room.try_undo(&entry).await.is_ok() {
                    return;
                }
            }
        }));
    }
}

/// A fault of the caller's configuration, by its place in the request.
fn in_request(error: oci::Error) -> Error {
    match error {
        oci::Error::Invalid { field, problem } => {
            Error::invalid(format!("config.{field}"), problem)
        }
        other => other.into(),
    }
}

/// A pod as the network sees it.
pub(super) fn attachment(sandbox: &Sandbox, netns: Option<&Path>) -> Attachment {
    let config = &sandbox.config;
    Attachment {
        pod: sandbox.id.clone(),
        metadata: config.metadata.clone(),
        netns: netns.map(Path::to_path_buf),
        port_mappings: config.port_mappings.clone(),
        dns: config.dns.clone(),
        annotations: config.annotations.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    }
}
