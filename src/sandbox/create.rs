//! RunPodSandbox.
//!
//! ```text
//! name ─> intent stored ─┬─> netns ──────┬─> CNI ADD ─────────────────────┬─> result stored ─> Ready
//!                        └─> files, shm ─┴─> record ─> task ─> pause runs ─┘
//! ```
//! The network is set up while the pause container is made: both need only the namespace.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::entry::Entry;
use super::error::{Error, Step};
use super::record::{Owed, SandboxRecord};
use super::stop::{Ending, Strict};
use super::{PauseSource, Room, Sandbox, SandboxState, files};
use crate::backend::{Attachment, Hold, NetworkStatus, RuntimeHandler};
use crate::board::EventKind;
use crate::clock::now;
use crate::container;
use crate::ids::PodId;
use crate::lifecycle::{Backoff, unless_panic};
use crate::model::Owner;
use crate::model::pod::{PodConfig, PodMetadata};
use crate::oci::{self, check_pod_userns, check_sysctls, selinux};
use crate::telemetry::error_chain;

/// Mode of the folder with a pod's files: nobody else looks for them there.
const DIR_MODE: u32 = 0o700;
const FILES: &str = "write the pod's files";

/// Maximum size of the host's hosts and resolv.conf files, in bytes.
const HOST_FILE_MAX: usize = 1 << 20;

impl Room {
    pub(super) async fn run(
        self: Arc<Self>,
        owner: Owner,
        config: PodConfig,
        handler: String,
    ) -> Result<PodId, Error> {
        let resolved = self.handler(&handler)?.clone();
        check_sysctls(&config).map_err(in_request)?;
        let needed = config.id_mappings().is_some();
        let features = self.features_of(&resolved, needed).await?;
        check_pod_userns(&config, &features).map_err(in_request)?;
        let id = PodId::random();
        let mut record = self.new_record(&id, owner, config, handler, &resolved);
        record.selinux_level = self.selinux_level(&record.sandbox.config)?;
        let entry = Entry::new(record);
        let _alone = entry.gate.clone().write_owned().await;
        // Registered before its name is: a caller that finds the name taken must find the entry to
        // join.
        self.entries().insert(id.clone(), entry.clone());
        let Sandbox { config, handler, .. } = entry.sandbox();
        while let Err(taken) = self.reserve(&config.metadata, &id) {
            if let Some(outcome) = self.adopt(&taken, &config, &handler).await {
                self.entries().remove(&id);
                self.release_level(&entry);
                return outcome;
            }
        }
        if let Err(error) = self.claim_host_ports(&entry) {
            let error = Arc::new(error);
            entry.failure.get_or_init(|| error.clone());
            self.forget(&entry);
            return Err(Error::Shared(error));
        }
        // Boxed, as it is large and moved.
        let make = Box::pin(self.make(&entry, &resolved));
        let made = unless_panic("make-sandbox", make).await;
        match made.unwrap_or(Err(Error::Container(container::Error::Panicked))) {
            Ok(_hold) => {
                entry.publish(&self.deps.base, Some(EventKind::Created));
                entry.publish(&self.deps.base, Some(EventKind::Started));
                self.watch_pause(&entry);
                Ok(id)
            }
            Err(error) => {
                let error = Arc::new(error);
                self.undo(&entry, error.clone()).await;
                Err(Error::Shared(error))
            }
        }
    }

    /// The SELinux level of a new pod: the one it names, or a free one.
    fn selinux_level(&self, config: &PodConfig) -> Result<Option<String>, Error> {
        let settings = (self.deps.base.host.facts(), &self.options.oci);
        // Its fields are checked before a level is reserved.
        if selinux::pod_labels(config, None, settings.0, settings.1).map_err(in_request)?.is_none()
        {
            return Ok(None);
        }
        match config.security.selinux.as_ref().map(|asked| asked.level.as_str()) {
            Some(level) if !level.is_empty() => {
                self.levels.hold(level);
                Ok(Some(level.to_owned()))
            }
            _ => {
                let full =
                    || Error::Unsupported("all SELinux levels are in use by pods".to_owned());
                self.levels.take().map(Some).ok_or_else(full)
            }
        }
    }

    pub(super) fn release_level(&self, entry: &Entry) {
        if let Some(level) = &entry.record().selinux_level {
            self.levels.release(level);
        }
    }

    /// Reserves a name; fails with the id of the pod that has it.
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

    /// Frees a name if this pod holds it.
    pub(super) fn release(&self, name: &PodMetadata, id: &PodId) {
        let mut names = self.names();
        if names.get(name) == Some(id) {
            names.remove(name);
        }
    }

    /// Handles a taken name: joins the creation of an identical pod, else fails. `None` when its
    /// pod is removed meanwhile, so that the name is free.
    async fn adopt(
        &self,
        taken: &PodId,
        config: &PodConfig,
        handler: &str,
    ) -> Option<Result<PodId, Error>> {
        let name = &config.metadata;
        let name = format!("{}_{}_{}_{}", name.name, name.namespace, name.uid, name.attempt);
        let in_use = Error::NameInUse { name, id: taken.clone() };
        let Ok(entry) = self.entry(taken) else {
            // Its removal is about to release the name.
            self.release(&config.metadata, taken);
            return None;
        };
        let sandbox = entry.sandbox();
        if *sandbox.config != *config || sandbox.handler != handler {
            return Some(Err(in_use));
        }
        // A creation or removal in progress holds the gate until it is done.
        let _open = entry.gate.read().await;
        match (entry.sandbox().state, entry.failure.get().cloned()) {
            (SandboxState::Ready { .. }, _) => Some(Ok(taken.clone())),
            (_, Some(source)) => Some(Err(Error::JoinedFailed { id: taken.clone(), source })),
            _ if self.entry(taken).is_err() => None,
            _ => Some(Err(in_use)),
        }
    }

    fn new_record(
        &self,
        id: &PodId,
        owner: Owner,
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
        if config.id_mappings().is_some() {
            owed.insert(Owed::Userns);
        }
        SandboxRecord {
            handler: resolved.clone(),
            pause: None,
            files: Some(self.files_dir(id)),
            selinux_level: None,
            pause_snapshot: matches!(self.options.pause, PauseSource::Image(_)),
            owed,
            was_attached: false,
            removing: false,
            undoing: false,
            hostname: self.hostname_of(&config),
            boot_id: self.deps.base.host.facts().boot_id.clone(),
            sandbox: Sandbox {
                id: id.clone(),
                owner,
                netns: (!config.host_network()).then_some(netns),
                config: Arc::new(config),
                new_overhead: None,
                new_resources: None,
                handler,
                created_at: now(),
                state: SandboxState::Creating,
                network: None,
            },
        }
    }

    /// Returns the hold on plugins: the pod that they were asked about must be published before
    /// they see anything else.
    async fn make(&self, entry: &Entry, handler: &RuntimeHandler) -> Result<Hold, Error> {
        entry.save(&self.deps.base, |_| {}).await?;
        let sandbox = entry.sandbox();
        // Both of each pair run to completion: what was made must be known so that it can be
        // undone.
        let (netns, files) =
            tokio::join!(self.make_namespaces(&sandbox), self.make_shared_files(entry));
        netns?;
        files?;
        let (network, pause) =
            tokio::join!(self.attach(&sandbox), self.start_pause(entry, handler));
        let (network, pause) = (network?, pause?);
        self.name_addresses(entry, network.as_ref()).await?;
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

    /// Makes the user namespace first, if there is one, since it owns the network namespace.
    async fn make_namespaces(&self, sandbox: &Sandbox) -> Result<(), Error> {
        let host = &self.deps.base.host;
        let netns = sandbox.netns.as_deref();
        if let (Some(userns), Some(ids)) = (self.userns(sandbox), sandbox.config.id_mappings()) {
            host.create_dir(&self.dir(&sandbox.id), DIR_MODE).await.step(FILES)?;
            let made = host.create_userns(&userns, ids, netns).await;
            return made.step("make the user namespace");
        }
        match netns {
            Some(path) => host.create_netns(path).await.step("make the network namespace"),
            None => Ok(()),
        }
    }

    async fn attach(&self, sandbox: &Sandbox) -> Result<Option<NetworkStatus>, Error> {
        let Some(netns) = &sandbox.netns else { return Ok(None) };
        let attachment = attachment(sandbox, Some(netns));
        let status = self.deps.network.attach(&attachment).await;
        Ok(Some(status.step("connect the pod to its network")?))
    }

    /// The host name of a new pod, by default the node's.
    fn hostname_of(&self, config: &PodConfig) -> String {
        match config.hostname.as_str() {
            "" => self.deps.base.host.hostname(),
            given => given.to_owned(),
        }
    }

    /// The pod's host name, which it keeps when the node gets another one.
    pub(super) fn hostname(&self, record: &SandboxRecord) -> String {
        match record.hostname.as_str() {
            "" => self.hostname_of(&record.sandbox.config),
            kept => kept.to_owned(),
        }
    }

    async fn make_shared_files(&self, entry: &Entry) -> Result<(), Error> {
        let host = &self.deps.base.host;
        let record = entry.record();
        let sandbox = &record.sandbox;
        let paths = self.shared_files(&record);
        let config = &sandbox.config;
        host.create_dir(&self.files_dir(&sandbox.id), DIR_MODE).await.step(FILES)?;
        let hosts = match &config.hosts {
            Some(hosts) if !config.host_network() => files::hosts(hosts, &[]).into_bytes(),
            Some(hosts) => files::hosts_of_host(hosts, &self.host_file("/etc/hosts").await?),
            None => self.host_file("/etc/hosts").await?,
        };
        let resolv_conf = match &config.dns {
            Some(dns) => files::resolv_conf(dns).into_bytes(),
            None => self.host_file("/etc/resolv.conf").await?,
        };
        let hostname = files::hostname(&self.hostname(&record));
        for (path, content) in [
            (&paths.hosts, hosts.as_slice()),
            (&paths.resolv_conf, &resolv_conf),
            (&paths.hostname, hostname.as_bytes()),
        ] {
            host.write_file(path, content, 0o644).await.step(FILES)?;
            self.give(path, &record).await?;
        }
        if let Some(shm) = &paths.shm {
            host.create_dir(&self.dir(&sandbox.id), DIR_MODE).await.step(FILES)?;
            host.create_dir(shm, DIR_MODE).await.step(FILES)?;
            host.mount_shm(shm, self.options.shm_size).await.step("mount the pod's /dev/shm")?;
            self.give(shm, &record).await?;
        }
        Ok(())
    }

    /// Rewrites a hosts file generated for the pod, now that the addresses are known. No container
    /// has it mounted yet.
    async fn name_addresses(
        &self,
        entry: &Entry,
        network: Option<&NetworkStatus>,
    ) -> Result<(), Error> {
        let record = entry.record();
        let sandbox = &record.sandbox;
        let (Some(hosts), Some(network)) = (&sandbox.config.hosts, network) else { return Ok(()) };
        let path = self.shared_files(&record).hosts;
        let content = files::hosts(hosts, &network.ips);
        let written = self.deps.base.host.write_file(&path, content.as_bytes(), 0o644).await;
        written.step(FILES)?;
        self.give(&path, &record).await
    }

    /// Gives a file to the pod: owner is the root of its user namespace, label is the pod's.
    async fn give(&self, path: &Path, record: &SandboxRecord) -> Result<(), Error> {
        let host = &self.deps.base.host;
        let config = &record.sandbox.config;
        if let Some(ids) = config.id_mappings() {
            let (uid, gid) = ids.root();
            host.set_owner(path, uid, gid).await.step(FILES)?;
        }
        let (facts, level) = (host.facts(), record.selinux_level.as_deref());
        let labels = selinux::pod_labels(config, level, facts, &self.options.oci)?;
        match labels {
            Some(labels) => host.relabel(path, &labels.files).await.step("label the pod's files"),
            None => Ok(()),
        }
    }

    async fn host_file(&self, path: &str) -> Result<Vec<u8>, Error> {
        let content = self.deps.base.host.read_file(Path::new(path), HOST_FILE_MAX).await;
        Ok(content.step("read a file of the host")?.unwrap_or_default())
    }

    /// Undoes a failed creation. If that fails, the sandbox is listed as not ready with its name
    /// reserved, and the undo is repeated until it succeeds or somebody stops and removes the
    /// sandbox.
    async fn undo(self: &Arc<Self>, entry: &Arc<Entry>, error: Arc<Error>) {
        entry.failure.get_or_init(|| error);
        entry.change(|record| {
            record.sandbox.state = SandboxState::NotReady;
            record.undoing = true;
        });
        if let Err(undo) = self.try_undo(entry).await {
            tracing::warn!(pod = %entry.id, error = error_chain(&undo),
                "cannot undo sandbox creation yet");
            self.mark_not_ready(entry).await;
            self.undo_later(entry);
        }
    }

    /// Removes everything that a sandbox has, and the sandbox. A failing CNI DEL is an error here
    /// even when ADD never completed, because an address might stay allocated.
    pub(super) async fn try_undo(&self, entry: &Arc<Entry>) -> Result<(), Error> {
        self.trouble.notify_one();
        self.tear_down(entry, Strict::Yes, Ending::Deleted).await?;
        self.finish_removal(entry).await
    }

    pub(super) fn undo_later(self: &Arc<Self>, entry: &Arc<Entry>) {
        let (room, entry) = (self.clone(), entry.clone());
        drop(self.deps.base.tasks.spawn_until_drain("sandbox-undo", async move {
            let undo = || async {
                let _alone = entry.gate.write().await;
                let removed = room.entry(&entry.id).is_err();
                if removed { Ok(()) } else { room.try_undo(&entry).await }
            };
            Backoff::of_undo().retry_later(undo).await
        }));
    }
}

/// Converts an invalid field of the OCI input into an error that names the field of the request.
fn in_request(error: oci::Error) -> Error {
    match error {
        oci::Error::Invalid { field, problem } => {
            Error::invalid(format!("config.{field}"), problem)
        }
        error @ oci::Error::Unsupported { .. } => Error::Unsupported(format!("config.{error}")),
        other => other.into(),
    }
}

/// A pod in the form that the network backend takes.
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
