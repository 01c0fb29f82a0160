//! SELinux labels of containers. Each pod has one level, a pair of categories, which isolates its
//! files and processes from other pods; its containers share it.

use super::{Error, Settings};
use crate::backend::{HostFacts, SelinuxContexts};
use crate::model::container::ContainerConfig;
use crate::model::pod::PodConfig;
use crate::model::security::SelinuxOptions;

/// Host directories that must not be relabelled, because the host itself needs their labels.
const OF_THE_HOST: [&str; 25] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/run",
];

/// The labels of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Label of its processes.
    pub process: String,
    /// Label of its own file systems.
    pub files: String,
}

/// The labels of a pod's pause container and files. `None` if labels are disabled, and for a
/// privileged pod.
///
/// # Errors
/// [`Error::Invalid`] when a value would change another part of the label.
pub fn pod_labels(
    pod: &PodConfig,
    level: Option<&str>,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Option<Labels>, Error> {
    let Some(contexts) = contexts(facts, settings) else { return Ok(None) };
    let security = &pod.security;
    labels(contexts, security.selinux.as_ref(), level, security.privileged)
}

/// The labels of a container: the requested ones, else those of its pod.
///
/// # Errors
/// As [`pod_labels`].
pub fn container_labels(
    pod: &PodConfig,
    config: &ContainerConfig,
    level: Option<&str>,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Option<Labels>, Error> {
    let Some(contexts) = contexts(facts, settings) else { return Ok(None) };
    let asked = config.security.selinux.as_ref().or(pod.security.selinux.as_ref());
    labels(contexts, asked, level, config.security.privileged)
}

/// Checks a folder that a mount, in `field` of the request, asks to have relabelled; its links are
/// resolved.
pub fn check_relabel(path: &str, field: impl FnOnce() -> String) -> Result<(), Error> {
    if OF_THE_HOST.contains(&path) {
        let problem = format!("{path} is the host's own and keeps its label");
        return Err(Error::invalid(field(), problem));
    }
    Ok(())
}

fn contexts<'a>(facts: &'a HostFacts, settings: &Settings) -> Option<&'a SelinuxContexts> {
    facts.selinux.as_ref().filter(|_| settings.selinux)
}

fn labels(
    contexts: &SelinuxContexts,
    asked: Option<&SelinuxOptions>,
    level: Option<&str>,
    privileged: bool,
) -> Result<Option<Labels>, Error> {
    if privileged {
        return Ok(None);
    }
    let (mut process, mut files) =
        (Context::parse(&contexts.process), Context::parse(&contexts.file));
    if let Some(level) = level {
        (process.level, files.level) = (level, level);
    }
    if let Some(SelinuxOptions { user, role, kind, level }) = asked {
        for (name, part) in [("user", user), ("role", role), ("type", kind), ("level", level)] {
            check(name, part)?;
        }
        let some = |part: &'_ String| !part.is_empty();
        if some(user) {
            (process.user, files.user) = (user, user);
        }
        if some(role) {
            process.role = role;
        }
        if some(kind) {
            process.kind = kind;
        }
        if some(level) {
            (process.level, files.level) = (level, level);
        }
    }
    Ok(Some(Labels { process: process.text(), files: files.text() }))
}

/// Refuses a colon, which ends a part (except in levels), and line breaks, which end an entry in
/// files of labels.
fn check(name: &str, part: &str) -> Result<(), Error> {
    let level = name == "level";
    let good =
        |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || (level && b":,".contains(&b));
    if part.bytes().all(good) {
        return Ok(());
    }
    let field = format!("linux.security_context.selinux_options.{name}");
    Err(Error::invalid(field, format!("{part:?} is not a valid {name} of a label")))
}

/// `user:role:type:level`; the level may have colons.
struct Context<'a> {
    user: &'a str,
    role: &'a str,
    kind: &'a str,
    level: &'a str,
}

impl<'a> Context<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().unwrap_or_default();
        Self { user: part(), role: part(), kind: part(), level: part() }
    }

    fn text(&self) -> String {
        let Self { user, role, kind, level } = self;
        let end = if level.is_empty() { String::new() } else { format!(":{level}") };
        format!("{user}:{role}:{kind}{end}")
    }
}

#[cfg(test)]
mod tests;
