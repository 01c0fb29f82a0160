//! SELinux labels of containers. A pod has one level, a pair of categories, that keeps its files
//! and processes from those of other pods; its containers share it.

use super::{Error, Settings};
use crate::backend::{HostFacts, SelinuxContexts};
use crate::model::container::ContainerConfig;
use crate::model::pod::PodConfig;
use crate::model::security::SelinuxOptions;

/// Folders of the host that no pod may have relabelled: the host itself needs theirs.
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
    /// Of its processes.
    pub process: String,
    /// Of the file systems that are its own.
    pub files: String,
}

/// The labels of a pod's pause container and files. `None` where labels are off, and for a
/// privileged pod.
///
/// # Errors
/// [`Error::Invalid`] when a part would end up as another part of the label.
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

/// The labels of a container: what it asks for, else what its pod has.
///
/// # Errors
/// As [`pod_labels`].
pub fn container_labels(
    pod: &PodConfig,
    config: &ContainerConfig,
    level: Option<&str>,
    (facts, settings): (&HostFacts, &Settings),
) -> Result<Option<Labels>, Error> {
    let Some(contexts) = contexts(facts, settings) else { return Ok(None) };
    let asked = config.security.selinux.as_ref().or(pod.security.selinux.as_ref());
    labels(contexts, asked, level, config.security.privileged)
}

/// Whether pods get labels, and so levels.
pub fn has_labels(facts: &HostFacts, settings: &Settings) -> bool {
    contexts(facts, settings).is_some()
}

/// Checks a folder that a mount asks to have relabelled; its links are resolved.
pub fn check_relabel(index: usize, path: &str) -> Result<(), Error> {
    if OF_THE_HOST.contains(&path) {
        let problem = format!("{path} is the host's own and keeps its label");
        return Err(Error::invalid(format!("mounts[{index}].selinux_relabel"), problem));
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

/// A colon ends a part, except in levels, and files with labels have lines.
fn check(name: &str, part: &str) -> Result<(), Error> {
    let level = name == "level";
    let good =
        |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || (level && b":,".contains(&b));
    if part.bytes().all(good) {
        return Ok(());
    }
    let field = format!("linux.security_context.selinux_options.{name}");
    Err(Error::invalid(field, format!("{part:?} is no {name} of a label")))
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
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn labelled() -> Fixture {
        let mut f = Fixture::new();
        f.settings.selinux = true;
        f.facts.selinux = Some(SelinuxContexts {
            process: "system_u:system_r:container_t:s0".to_owned(),
            file: "system_u:object_r:container_file_t:s0".to_owned(),
        });
        f
    }

    fn of(f: &Fixture, level: Option<&str>) -> Option<(String, String)> {
        container_labels(&f.pod, &f.config, level, (&f.facts, &f.settings))
            .unwrap()
            .map(|labels| (labels.process, labels.files))
    }

    fn options(user: &str, role: &str, kind: &str, level: &str) -> SelinuxOptions {
        SelinuxOptions {
            user: user.to_owned(),
            role: role.to_owned(),
            kind: kind.to_owned(),
            level: level.to_owned(),
        }
    }

    #[test]
    fn labels_need_the_setting_the_host_and_no_privilege() {
        assert!(of(&labelled(), None).is_some());
        let mut f = labelled();
        f.settings.selinux = false;
        assert_eq!(of(&f, None), None);
        let mut f = labelled();
        f.facts.selinux = None;
        assert_eq!(of(&f, None), None);
        assert_eq!(of(&labelled().privileged(), None), None);
    }

    #[test]
    fn parts_come_from_container_pod_and_policy() {
        let pair = |process: &str, files: &str| Some((process.to_owned(), files.to_owned()));
        let mut f = labelled();
        assert_eq!(
            of(&f, Some("s0:c1,c2")),
            pair(
                "system_u:system_r:container_t:s0:c1,c2",
                "system_u:object_r:container_file_t:s0:c1,c2"
            )
        );
        f.pod.security.selinux = Some(options("u", "r", "t", ""));
        assert_eq!(
            of(&f, Some("s0:c1,c2")),
            pair("u:r:t:s0:c1,c2", "u:object_r:container_file_t:s0:c1,c2")
        );
        f.config.security.selinux = Some(options("", "", "spc_t", "s0:c9"));
        assert_eq!(
            of(&f, Some("s0:c1,c2")),
            pair("system_u:system_r:spc_t:s0:c9", "system_u:object_r:container_file_t:s0:c9")
        );
    }

    #[test]
    fn no_part_reaches_into_another() {
        for (bad, field) in [
            (options("a:b", "", "", ""), "user"),
            (options("", "r r", "", ""), "role"),
            (options("", "", "t\n", ""), "type"),
            (options("", "", "", "s0\""), "level"),
        ] {
            let mut f = labelled();
            f.config.security.selinux = Some(bad);
            let refused = container_labels(&f.pod, &f.config, None, (&f.facts, &f.settings));
            let end = format!("selinux_options.{field}");
            assert!(
                matches!(&refused, Err(Error::Invalid { field, .. }) if field.ends_with(&end)),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn the_hosts_own_folders_keep_their_labels() {
        for path in ["/", "/etc", "/usr", "/var/lib"] {
            assert!(check_relabel(0, path).is_err(), "{path}");
        }
        assert!(check_relabel(0, "/srv/data").is_ok());
    }

    #[test]
    fn a_spec_has_its_labels() {
        use super::super::{container_spec, pause_spec, spec_json};
        let f = labelled();
        let spec = spec_json(&container_spec(&f.input()).unwrap());
        assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(spec["linux"]["mountLabel"], "system_u:object_r:container_file_t:s0:c1,c2");
        let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
        assert_eq!(spec["process"]["selinuxLabel"], "system_u:system_r:container_t:s0:c1,c2");
        let spec = spec_json(&container_spec(&labelled().privileged().input()).unwrap());
        assert!(spec["process"].get("selinuxLabel").is_none());
    }
}
