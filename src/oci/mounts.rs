//! What is mounted where in a container.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::{ContainerInput, Error, paths};
use crate::backend::CgroupVersion;
use crate::model::container::{Mount as Asked, Propagation};
use crate::model::security::IdMapping;

/// The mounts of a container, in the order in which they are made.
pub(super) struct Mounts {
    pub(super) list: Vec<Mount>,
    /// Propagation of the root, when a mount needs one.
    pub(super) rootfs_propagation: Option<&'static str>,
}

/// Kernel file systems first, then bind mounts from the shallowest to the deepest, so that none
/// hides another. A bind mount takes the place of a kernel file system at the same path, and one
/// on /dev the place of everything below it.
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
}

fn add_unless_taken(binds: &mut Vec<Bind>, more: Vec<Bind>) {
    for bind in more {
        if !binds.iter().any(|other| other.destination == bind.destination) {
            binds.push(bind);
        }
    }
}

/// A mount as the OCI crate has it.
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
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", mode]),
        cgroup_tree(input.facts.cgroup, privileged),
    ]
}

/// The tmpfs on /dev, in which the OCI runtime makes its nodes.
pub(super) fn dev_tmpfs(size: &str) -> Mount {
    let size = format!("size={size}");
    mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", &size])
}

fn cgroup_tree(version: CgroupVersion, privileged: bool) -> Mount {
    let path = "/sys/fs/cgroup";
    if privileged && version == CgroupVersion::V2 {
        // Such a container is in the host's cgroup namespace. A new mount of cgroup2 there would
        // reset `nsdelegate` and `memory_recursiveprot` of the host's own one, because both are
        // options of the one superblock; a bind mount shows the same and changes nothing.
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

/// A mount that the caller asked for.
fn asked(input: &ContainerInput<'_>, index: usize, asked: &Asked) -> Result<Bind, Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let destination = paths::absolute(|| field("container_path"), &asked.container_path)?;
    if destination == "/" {
        return Err(Error::invalid(field("container_path"), "the root cannot be mounted over"));
    }
    if let Some(problem) = paths::problem_of(&asked.host_path) {
        return Err(Error::invalid(field("host_path"), problem));
    }
    let options = ["rbind", propagation(asked.propagation), access(input, asked, &field)?];
    let mut bind = Bind::new(destination, &asked.host_path, &options);
    if asked.uid_mappings.is_empty() != asked.gid_mappings.is_empty() {
        return Err(Error::invalid(
            field("uid_mappings"),
            "an id-mapped mount needs both UID and GID mappings",
        ));
    }
    if !asked.uid_mappings.is_empty() {
        if !input.features.user_namespaces {
            return Err(Error::invalid(
                field("uid_mappings"),
                "the runtime handler does not support id-mapped mounts",
            ));
        }
        bind.mount
            .set_uid_mappings(Some(id_mappings(&field("uid_mappings"), &asked.uid_mappings)?))
            .set_gid_mappings(Some(id_mappings(&field("gid_mappings"), &asked.gid_mappings)?));
    }
    Ok(bind)
}

fn propagation(wanted: Propagation) -> &'static str {
    match wanted {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    }
}

/// `ro`, `rw` or `rro`. The word RROUnsupported is what a kubelet looks for.
fn access(
    input: &ContainerInput<'_>,
    asked: &Asked,
    field: &impl Fn(&str) -> String,
) -> Result<&'static str, Error> {
    let refused = |problem: &str| Err(Error::invalid(field("recursive_read_only"), problem));
    match (asked.readonly, asked.recursive_read_only) {
        (false, false) if asked.image.is_some() => {
            Err(Error::invalid(field("readonly"), "an image can only be mounted read-only"))
        }
        (false, false) => Ok("rw"),
        (true, false) => Ok("ro"),
        (false, true) => refused("needs a read-only mount"),
        (true, true) if !input.features.recursive_read_only_mounts => refused(
            "RROUnsupported: the runtime handler does not support recursive read-only mounts",
        ),
        (true, true) if asked.propagation != Propagation::Private => {
            refused("needs private propagation")
        }
        (true, true) => Ok("rro"),
    }
}

fn id_mappings(field: &str, mappings: &[IdMapping]) -> Result<Vec<LinuxIdMapping>, Error> {
    mappings
        .iter()
        .map(|mapping| {
            LinuxIdMappingBuilder::default()
                .host_id(mapping.host_id)
                .container_id(mapping.container_id)
                .size(mapping.length)
                .build()
                .map_err(|error| Error::invalid(field, error.to_string()))
        })
        .collect()
}

/// Anonymous volumes of the image. Their paths come from the image unchecked, so they are cleaned
/// as paths below the container's root.
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
            Ok(Bind::new(destination, &source, &["rbind", "rprivate", "rw"]))
        })
        .collect()
}

/// The files that the containers of a pod share. They are as read-only as the root is; the
/// memory in /dev/shm is always writable. Its flags are said again, because runc from 1.2 on
/// clears those of the source that a bind mount does not name.
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
