//! Merges the requests of several plugins for one container.
//!
//! Each plugin gets the container as adjusted by the previous ones. The requests are collected
//! rather than the result: the merged adjustment is passed to validators and then applied to the
//! spec (`apply.rs`).

use std::collections::{BTreeMap, BTreeSet};

use super::limits::{claim_limits, overlay};
use super::owners::{Conflict, Owners};
use super::proto::{
    Container, ContainerAdjustment, ContainerEviction, ContainerUpdate, CreateContainerRequest,
    Field, Hooks, KeyValue, LinuxContainerAdjustment, LinuxContainerUpdate, LinuxDevice,
    LinuxNamespace, LinuxRdt, LinuxResources, Mount, PosixRlimit,
};

/// Why requests cannot be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum MergeError {
    /// Two plugins set the same field.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// A plugin updated the container that is being created, which it may only adjust.
    #[error("plugin {plugin:?} asked for an update of the container that is being created")]
    UpdateOfNew {
        /// The plugin.
        plugin: String,
    },
}

/// Requests of plugins for a new container.
#[derive(Debug)]
pub(super) struct Creation {
    /// The container as adjusted so far, for the next plugin.
    pub(super) request: CreateContainerRequest,
    /// All adjustments, merged.
    pub(super) adjust: ContainerAdjustment,
    /// Requested updates of other containers.
    pub(super) others: Updates,
    id: String,
}

/// Requests of plugins for existing containers.
#[derive(Debug, Default)]
pub(super) struct Updates {
    /// Updates, in the order in which containers were first named.
    pub(super) list: Vec<ContainerUpdate>,
    /// Containers to stop.
    pub(super) evict: Vec<ContainerEviction>,
    /// Owners of the fields.
    pub(super) owners: Owners,
}

impl Updates {
    /// Adds a plugin's requests. For a container `in_question` the update is merged into its
    /// existing limits.
    pub(super) fn add(
        &mut self,
        plugin: &str,
        updates: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Result<(), MergeError> {
        for update in updates {
            // On a copy, so that a failure that is ignored leaves no partial changes.
            let mut owners = self.owners.clone();
            let wanted = update.linux.and_then(|linux| linux.resources).unwrap_or_default();
            match claim_limits(&mut owners, &update.container_id, &wanted, plugin) {
                Err(conflict) if update.ignore_failure => {
                    tracing::info!(%conflict,
                        "skipping conflicting update that is allowed to fail");
                    continue;
                }
                Err(conflict) => return Err(conflict.into()),
                Ok(()) => self.owners = owners,
            }
            let known = self.list.iter_mut().find(|u| u.container_id == update.container_id);
            match known {
                Some(known) => {
                    known.ignore_failure &= update.ignore_failure;
                    let linux = known.linux.get_or_insert_default();
                    overlay(linux.resources.get_or_insert_default(), wanted);
                }
                None => self.list.push(ContainerUpdate {
                    container_id: update.container_id,
                    linux: Some(LinuxContainerUpdate { resources: Some(wanted) }),
                    ignore_failure: update.ignore_failure,
                }),
            }
        }
        self.evict.extend(evict);
        Ok(())
    }

    /// Removes and returns the update of one container.
    pub(super) fn take(&mut self, id: &str) -> Option<LinuxResources> {
        let index = self.list.iter().position(|update| update.container_id == id)?;
        self.list.remove(index).linux?.resources
    }
}

impl Creation {
    /// The state before any plugin was asked.
    pub(super) fn new(request: CreateContainerRequest) -> Self {
        let id = request.container.as_ref().map(|c| c.id.clone()).unwrap_or_default();
        Self { request, adjust: ContainerAdjustment::default(), others: Updates::default(), id }
    }

    /// Adds a plugin's requests for the new container and for others.
    pub(super) fn add(
        &mut self,
        plugin: &str,
        adjust: Option<ContainerAdjustment>,
        updates: Vec<ContainerUpdate>,
        evict: Vec<ContainerEviction>,
    ) -> Result<(), MergeError> {
        if let Some(adjust) = adjust {
            self.adjust(plugin, adjust)?;
        }
        if updates.iter().any(|update| update.container_id == self.id) {
            return Err(MergeError::UpdateOfNew { plugin: plugin.to_owned() });
        }
        self.others.add(plugin, updates, evict)
    }

    fn adjust(&mut self, plugin: &str, wanted: ContainerAdjustment) -> Result<(), Conflict> {
        let shown = self.request.container.get_or_insert_default();
        let mut ledger = Ledger { owners: &mut self.others.owners, id: &self.id, plugin };
        let sum = &mut self.adjust;
        ledger.map(
            Field::Annotations,
            wanted.annotations,
            &mut shown.annotations,
            &mut sum.annotations,
        )?;
        ledger.list(Field::Mounts, wanted.mounts, &mut shown.mounts, &mut sum.mounts)?;
        ledger.env(wanted.env, &mut shown.env, &mut sum.env)?;
        ledger.args(wanted.args, shown, &mut sum.args)?;
        if let Some(hooks) = wanted.hooks {
            ledger.hooks(hooks, shown, sum);
        }
        for limit in wanted.rlimits {
            ledger.key(Field::Rlimits, &limit.r#type)?;
            shown.rlimits.retain(|old: &PosixRlimit| old.r#type != limit.r#type);
            shown.rlimits.push(limit.clone());
            sum.rlimits.push(limit);
        }
        for device in wanted.cdi_devices {
            ledger.key(Field::CdiDevices, &device.name)?;
            sum.cdi_devices.push(device);
        }
        match wanted.linux {
            Some(linux) => ledger.linux(linux, shown, sum.linux.get_or_insert_default()),
            None => Ok(()),
        }
    }
}

/// The key of a removal, which is marked with a leading "-".
pub(super) fn removal(key: &str) -> Option<&str> {
    key.strip_prefix('-')
}

/// The key without the mark for removal.
fn bare(key: &str) -> &str {
    removal(key).unwrap_or(key)
}

/// An entry of a list in which keys are unique.
trait Keyed: Clone {
    fn key(&self) -> &str;
}
impl Keyed for Mount {
    fn key(&self) -> &str {
        &self.destination
    }
}
impl Keyed for LinuxDevice {
    fn key(&self) -> &str {
        &self.path
    }
}
impl Keyed for LinuxNamespace {
    fn key(&self) -> &str {
        &self.r#type
    }
}
impl Keyed for KeyValue {
    fn key(&self) -> &str {
        &self.key
    }
}

/// The collected changes, as written by one plugin.
struct Ledger<'a> {
    owners: &'a mut Owners,
    id: &'a str,
    plugin: &'a str,
}

impl Ledger<'_> {
    fn field(&mut self, field: Field) -> Result<(), Conflict> {
        self.owners.claim(self.id, field, self.plugin)
    }

    fn key(&mut self, field: Field, key: &str) -> Result<(), Conflict> {
        self.owners.claim_key(self.id, field, key, self.plugin)
    }

    /// A single value, replaced as a whole.
    fn one<T: Clone>(
        &mut self,
        field: Field,
        wanted: Option<T>,
        shown: &mut Option<T>,
        sum: &mut Option<T>,
    ) -> Result<(), Conflict> {
        if let Some(value) = wanted {
            self.field(field)?;
            *shown = Some(value.clone());
            *sum = Some(value);
        }
        Ok(())
    }

    /// Map entries; all removals come before all settings.
    fn map<V: Clone + Default>(
        &mut self,
        field: Field,
        wanted: BTreeMap<String, V>,
        shown: &mut BTreeMap<String, V>,
        sum: &mut BTreeMap<String, V>,
    ) -> Result<(), Conflict> {
        for key in wanted.keys().filter_map(|key| removal(key)) {
            self.owners.clear_key(self.id, field, key, self.plugin);
            shown.remove(key);
            sum.remove(key);
            sum.insert(format!("-{key}"), V::default());
        }
        for (key, value) in wanted.into_iter().filter(|(key, _)| removal(key).is_none()) {
            self.key(field, &key)?;
            shown.insert(key.clone(), value.clone());
            sum.insert(key, value);
        }
        Ok(())
    }

    /// Entries of a list with keys. A setting replaces the container's existing entry.
    fn list<T: Keyed>(
        &mut self,
        field: Field,
        wanted: Vec<T>,
        shown: &mut Vec<T>,
        sum: &mut Vec<T>,
    ) -> Result<(), Conflict> {
        let wanted = self.removals(field, wanted, sum);
        let named = |key: &str| wanted.iter().any(|new| bare(new.key()) == key);
        shown.retain(|old| !named(old.key()));
        for entry in wanted {
            if removal(entry.key()).is_none() {
                self.key(field, entry.key())?;
                shown.push(entry.clone());
            }
            sum.push(entry);
        }
        Ok(())
    }

    /// Applies removals to the merged list. Returns the requests without removals of keys that are
    /// also set, since setting replaces the entry anyway.
    fn removals<T: Keyed>(&mut self, field: Field, mut wanted: Vec<T>, sum: &mut Vec<T>) -> Vec<T> {
        for key in wanted.iter().filter_map(|entry| removal(entry.key())) {
            self.owners.clear_key(self.id, field, key, self.plugin);
            sum.retain(|old| bare(old.key()) != key);
        }
        let set: BTreeSet<String> = wanted.iter().map(|entry| entry.key().to_owned()).collect();
        wanted.retain(|entry| removal(entry.key()).is_none_or(|key| !set.contains(key)));
        wanted
    }

    /// Like a list, but the container has the form `KEY=value`.
    fn env(
        &mut self,
        wanted: Vec<KeyValue>,
        shown: &mut Vec<String>,
        sum: &mut Vec<KeyValue>,
    ) -> Result<(), Conflict> {
        let wanted = self.removals(Field::Env, wanted, sum);
        let named = |key: &str| wanted.iter().any(|new| bare(&new.key) == key);
        shown.retain(|old| !named(old.split_once('=').map_or(old.as_str(), |kv| kv.0)));
        for entry in wanted {
            if removal(&entry.key).is_none() {
                self.key(Field::Env, &entry.key)?;
                shown.push(format!("{}={}", entry.key, entry.value));
            }
            sum.push(entry);
        }
        Ok(())
    }

    fn args(
        &mut self,
        mut wanted: Vec<String>,
        shown: &mut Container,
        sum: &mut Vec<String>,
    ) -> Result<(), Conflict> {
        if wanted.is_empty() {
            return Ok(());
        }
        if wanted[0].is_empty() {
            wanted.remove(0);
            self.owners.clear(self.id, Field::Args, self.plugin);
        }
        self.field(Field::Args)?;
        shown.args.clone_from(&wanted);
        *sum = wanted;
        Ok(())
    }

    /// Any plugin may add hooks.
    fn hooks(&mut self, wanted: Hooks, shown: &mut Container, sum: &mut ContainerAdjustment) {
        if wanted == Hooks::default() {
            return;
        }
        self.owners.share(self.id, Field::OciHooks, self.plugin);
        for into in [shown.hooks.get_or_insert_default(), sum.hooks.get_or_insert_default()] {
            let wanted = wanted.clone();
            into.prestart.extend(wanted.prestart);
            into.create_runtime.extend(wanted.create_runtime);
            into.create_container.extend(wanted.create_container);
            into.start_container.extend(wanted.start_container);
            into.poststart.extend(wanted.poststart);
            into.poststop.extend(wanted.poststop);
        }
    }

    fn linux(
        &mut self,
        wanted: LinuxContainerAdjustment,
        container: &mut Container,
        sum: &mut LinuxContainerAdjustment,
    ) -> Result<(), Conflict> {
        let shown = container.linux.get_or_insert_default();
        self.list(Field::Devices, wanted.devices, &mut shown.devices, &mut sum.devices)?;
        if let Some(limits) = wanted.resources {
            claim_limits(self.owners, self.id, &limits, self.plugin)?;
            overlay(shown.resources.get_or_insert_default(), limits.clone());
            overlay(sum.resources.get_or_insert_default(), limits);
        }
        if !wanted.cgroups_path.is_empty() {
            self.field(Field::CgroupsPath)?;
            shown.cgroups_path.clone_from(&wanted.cgroups_path);
            sum.cgroups_path = wanted.cgroups_path;
        }
        self.one(
            Field::OomScoreAdj,
            wanted.oom_score_adj,
            &mut shown.oom_score_adj,
            &mut sum.oom_score_adj,
        )?;
        self.one(
            Field::IoPriority,
            wanted.io_priority,
            &mut shown.io_priority,
            &mut sum.io_priority,
        )?;
        self.one(
            Field::SeccompPolicy,
            wanted.seccomp_policy,
            &mut shown.seccomp_policy,
            &mut sum.seccomp_policy,
        )?;
        self.namespaces(wanted.namespaces, &mut shown.namespaces, &mut sum.namespaces)?;
        self.map(Field::Sysctl, wanted.sysctl, &mut shown.sysctl, &mut sum.sysctl)?;
        let devices = (&mut shown.net_devices, &mut sum.net_devices);
        self.map(Field::LinuxNetDevices, wanted.net_devices, devices.0, devices.1)?;
        self.one(Field::LinuxSched, wanted.scheduler, &mut shown.scheduler, &mut sum.scheduler)?;
        if let Some(rdt) = wanted.rdt {
            self.rdt(rdt, &mut shown.rdt, &mut sum.rdt)?;
        }
        let not_shown = &mut None;
        self.one(Field::MemoryPolicy, wanted.memory_policy, not_shown, &mut sum.memory_policy)
    }

    /// A removed namespace has an owner too.
    fn namespaces(
        &mut self,
        wanted: Vec<LinuxNamespace>,
        shown: &mut Vec<LinuxNamespace>,
        sum: &mut Vec<LinuxNamespace>,
    ) -> Result<(), Conflict> {
        for namespace in wanted {
            let kind = removal(&namespace.r#type).unwrap_or(&namespace.r#type);
            self.key(Field::Namespace, kind)?;
            shown.retain(|old| old.r#type != kind);
            if removal(&namespace.r#type).is_none() {
                shown.push(namespace.clone());
            }
            sum.push(namespace);
        }
        Ok(())
    }

    fn rdt(
        &mut self,
        wanted: LinuxRdt,
        shown: &mut Option<LinuxRdt>,
        sum: &mut Option<LinuxRdt>,
    ) -> Result<(), Conflict> {
        if wanted.remove {
            for field in [Field::RdtClosId, Field::RdtSchemata, Field::RdtEnableMonitoring] {
                self.owners.clear(self.id, field, self.plugin);
            }
            *shown = None;
            *sum = Some(LinuxRdt { remove: true, ..LinuxRdt::default() });
        }
        for (field, set) in [
            (Field::RdtClosId, wanted.clos_id.is_some()),
            (Field::RdtSchemata, wanted.schemata.is_some()),
            (Field::RdtEnableMonitoring, wanted.enable_monitoring.is_some()),
        ] {
            if set {
                self.field(field)?;
            }
        }
        for into in [shown.get_or_insert_default(), sum.get_or_insert_default()] {
            into.clos_id = wanted.clos_id.clone().or(into.clos_id.take());
            into.schemata = wanted.schemata.clone().or(into.schemata.take());
            into.enable_monitoring = wanted.enable_monitoring.or(into.enable_monitoring.take());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
