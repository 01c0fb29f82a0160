//! The mounts of a container.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::Mount;

use super::namespaces::id_mapping;
use super::{ContainerInput, Error, paths};
use crate::backend::{CgroupVersion, HandlerFeatures};
use crate::model::container::{Mount as Asked, Propagation};
use crate::model::security::IdMapping;

/// The mounts of a container, in mounting order.
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    /// Propagation of the root mount, when another mount needs one.
    pub(super) rootfs_propagation: Option<&'static str>,
}

/// Kernel file systems first, then bind mounts from the shallowest path to the deepest, so that
/// none hides another. A bind mount replaces a kernel file system at the same path, and one at /dev
/// replaces everything below it.
pub(super) fn mounts(input: &ContainerInput<'_>) -> Result<Mounts, Error> {
    let mut binds = Vec::new();
    let mut rootfs_propagation = None;
    for (index, mount) in input.mounts.iter().enumerate() {
        let bind = asked(input, index, mount)?;
        rootfs_propagation = match (mount.propagation, rootfs_propagation) {
            (Propagation::Bidirectional, _) => Some("rshared"),
            (Propagation::HostToContainer, None) => Some("rslave"),
            (_, before) => before,
        };
        binds.push(bind);
    }
    add_unless_taken(&mut binds, volumes(input)?);
    add_unless_taken(&mut binds, shared_files(input));
    binds.sort_by_key(|bind| paths::depth(&bind.destination));

    let taken: BTreeSet<&str> = binds.iter().map(|bind| bind.destination.as_str()).collect();
    let replaced =
        |path: &str| taken.contains(path) || (taken.contains("/dev") && path.starts_with("/dev/"));
    let mut list = kernel_file_systems(input);
    list.retain(|mount| !replaced(&mount.destination().to_string_lossy()));
    list.extend(binds.into_iter().map(|bind| bind.mount));
    Ok(Mounts { list, rootfs_propagation })
}

struct Bind {
    destination: String,
    mount: Mount,
}

impl Bind {
    fn new(destination: String, source: &str, options: &[&str]) -> Self {
        let mount = mount(&destination, "bind", source, options);
        Self { destination, mount }
    }

    /// Maps the owners of the files. Applies to this mount only, not to submounts, whose file
    /// systems may not support it.
    fn map_ids(&mut self, uids: &[IdMapping], gids: &[IdMapping]) {
        if uids.is_empty() {
            return;
        }
        let lines = |ids: &[IdMapping]| Some(ids.iter().map(|line| id_mapping(*line)).collect());
        self.mount.set_uid_mappings(lines(uids)).set_gid_mappings(lines(gids));
        let mut options = self.mount.options().clone().unwrap_or_default();
        options.push("idmap".to_owned());
        self.mount.set_options(Some(options));
    }
}

fn add_unless_taken(binds: &mut Vec<Bind>, more: Vec<Bind>) {
    for bind in more {
        if !binds.iter().any(|other| other.destination == bind.destination) {
            binds.push(bind);
        }
    }
}

/// Builds a mount of the `oci-spec` crate.
pub(super) fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|&option| option.to_owned()).collect()));
    mount
}

fn kernel_file_systems(input: &ContainerInput<'_>) -> Vec<Mount> {
    let privileged = input.config.security.privileged;
    let mode = if privileged { "rw" } else { "ro" };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        dev_tmpfs("65536k"),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys(input, mode),
        cgroup_tree(input.facts.cgroup, privileged),
    ]
}

/// Only the owner of a network namespace may mount a sysfs for it. So a pod in the host network
/// with its own user namespace gets a bind mount of the host's sysfs.
fn sys(input: &ContainerInput<'_>, mode: &str) -> Mount {
    let flags = ["nosuid", "noexec", "nodev"];
    if input.pod.id_mappings().is_some() && input.pod.host_network() {
        let all = input.features.recursive_read_only_mounts;
        let bind = ["rbind", "rprivate", if all { "rro" } else { "ro" }];
        return mount("/sys", "bind", "/sys", &[&flags[..], &bind].concat());
    }
    mount("/sys", "sysfs", "sysfs", &[&flags[..], &[mode]].concat())
}

/// The tmpfs on /dev, in which the OCI runtime creates device nodes.
pub(super) fn dev_tmpfs(size: &str) -> Mount {
    let size = format!("size={size}");
    mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", &size])
}

fn cgroup_tree(version: CgroupVersion, privileged: bool) -> Mount {
    let path = "/sys/fs/cgroup";
    if privileged && version == CgroupVersion::V2 {
        // Such a container is in the host's cgroup namespace. A new cgroup2 mount there would reset
        // `nsdelegate` and `memory_recursiveprot` of the host's own mount, because both are options
        // of the shared superblock. A bind mount shows the same and changes nothing.
        return mount(
            path,
            "bind",
            path,
            &["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"],
        );
    }
    let mode = if privileged { "rw" } else { "ro" };
    mount(path, "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", mode])
}

/// A mount requested by the caller.
fn asked(input: &ContainerInput<'_>, index: usize, asked: &Asked) -> Result<Bind, Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = paths::absolute(|| field("container_path"), &asked.container_path)?;
    if destination == "/" {
        return Err(Error::invalid(field("container_path"), "the root cannot be mounted over"));
    }
    if let Some(problem) = paths::problem_of(&asked.host_path) {
        return Err(Error::invalid(field("host_path"), problem));
    }
    check_features(index, asked, input.features)?;
    let options = ["rbind", propagation(asked.propagation), access(asked, &field)?];
    let mut bind = Bind::new(destination, &asked.host_path, &options);
    bind.map_ids(&asked.uid_mappings, &asked.gid_mappings);
    Ok(bind)
}

/// Checks that the runtime handler supports all that a mount requests; nothing is done partially.
pub(super) fn check_features(
    index: usize,
    asked: &Asked,
    features: &HandlerFeatures,
) -> Result<(), Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    if asked.uid_mappings.is_empty() != asked.gid_mappings.is_empty() {
        let problem = "an id-mapped mount needs both UID and GID mappings";
        return Err(Error::invalid(field("uidMappings"), problem));
    }
    if !asked.uid_mappings.is_empty() && !features.id_mapped_mounts {
        let problem = "the runtime handler has no id-mapped mounts";
        return Err(Error::unsupported(field("uidMappings"), problem));
    }
    if asked.recursive_read_only && !features.recursive_read_only_mounts {
        return Err(Error::RecursiveReadOnly {
            field: field("recursive_read_only"),
            problem: "the runtime handler has no recursive read-only mounts".to_owned(),
        });
    }
    Ok(())
}

fn propagation(wanted: Propagation) -> &'static str {
    match wanted {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// `ro`, `rw` or `rro`.
fn access(asked: &Asked, field: &impl Fn(&str) -> String) -> Result<&'static str, Error> {
    let refused = |problem: &str| Err(Error::invalid(field("recursive_read_only"), problem));
    match (asked.readonly, asked.recursive_read_only) {
        (false, false) if asked.image.is_some() => {
            Err(Error::invalid(field("readonly"), "an image can only be mounted read-only"))
        }
        (false, false) => Ok("rw"),
        (true, false) => Ok("ro"),
        (false, true) => refused("needs a read-only mount"),
        (true, true) if asked.propagation != Propagation::Private => {
            refused("needs private propagation")
        }
        (true, true) => Ok("rro"),
    }
}

/// Anonymous volumes of the image. Their paths come unchecked from the image, so they are cleaned
/// as paths below the container's root. Their files keep the ids from the image, also in a pod with
/// its own user namespace.
fn volumes(input: &ContainerInput<'_>) -> Result<Vec<Bind>, Error> {
    input
        .volumes
        .iter()
        .map(|(path, host)| {
            let destination = paths::clean(path);
            if destination == "/" || paths::has_control(path) {
                return Err(Error::image("Volumes", format!("{path:?} cannot be a volume")));
            }
            let source = host.to_string_lossy();
            let mut bind = Bind::new(destination, &source, &["rbind", "rprivate", "rw"]);
            if let Some(ids) = input.pod.id_mappings() {
                bind.map_ids(&[ids.uids], &[ids.gids]);
            }
            Ok(bind)
        })
        .collect()
}

/// The files shared by the containers of a pod. They are read-only if the root is; /dev/shm is
/// always writable. The mount flags are repeated, because runc from 1.2 on clears flags of the
/// source that a bind mount does not name.
fn shared_files(input: &ContainerInput<'_>) -> Vec<Bind> {
    let files = input.files;
    let mode = if input.config.security.readonly_rootfs { "ro" } else { "rw" };
    let shm = files.shm.as_deref().unwrap_or("/dev/shm".as_ref());
    let bind = |path: &str, source: &Path, options: &[&str]| {
        let options = [&["rbind", "rprivate"], options].concat();
        Bind::new(path.to_owned(), &source.to_string_lossy(), &options)
    };
    vec![
        bind("/etc/hostname", &files.hostname, &[mode]),
        bind("/etc/hosts", &files.hosts, &[mode]),
        bind("/etc/resolv.conf", &files.resolv_conf, &[mode]),
        bind("/dev/shm", shm, &["nosuid", "noexec", "nodev", "rw"]),
    ]
}

#[cfg(test)]
mod tests;
