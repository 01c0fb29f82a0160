//! Capabilities of a container's process.

use std::collections::BTreeSet;

use oci_spec::runtime::LinuxCapabilities;

use super::{ContainerInput, Error};
use crate::model::security::capability_name;

const FIELD: &str = "linux.security_context.capabilities";

/// The capabilities of a container that requests none.
const DEFAULT: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Names of the capabilities in the bounding, effective and permitted sets, as `CAP_…`.
///
/// `ALL` is applied before single names, so that `drop: ALL, add: X` leaves X. A privileged
/// container has all capabilities that the agent itself can give. Capabilities that the kernel does
/// not know or the agent does not have are left out, as in containerd; that never weakens the
/// confinement.
pub(super) fn granted(input: &ContainerInput<'_>) -> Result<BTreeSet<String>, Error> {
    let available = || input.facts.capabilities.iter().cloned().collect::<BTreeSet<_>>();
    if input.config.security.privileged {
        return Ok(available());
    }
    let wanted = &input.config.security.capabilities;
    let add = canonical(&wanted.add, "add_capabilities")?;
    let drop = canonical(&wanted.drop, "drop_capabilities")?;

    let mut set: BTreeSet<String> = if drop.iter().any(|name| name == "ALL") {
        BTreeSet::new()
    } else if add.iter().any(|name| name == "ALL") {
        available()
    } else {
        let ours = available();
        DEFAULT.iter().map(|&name| name.to_owned()).filter(|name| ours.contains(name)).collect()
    };
    for name in add.into_iter().filter(|name| name != "ALL") {
        if input.facts.capabilities.contains(&name) {
            set.insert(name);
        } else {
            tracing::warn!(container = %input.id, name,
                "ignoring capability: unknown or not held by the agent");
        }
    }
    for name in &drop {
        set.remove(name);
    }
    Ok(set)
}

/// Upper case with the `CAP_` prefix, or `ALL`.
fn canonical(names: &[String], field: &str) -> Result<Vec<String>, Error> {
    names
        .iter()
        .map(|given| {
            capability_name(given).ok_or_else(|| {
                let problem = format!("{given:?} cannot be a capability");
                Error::invalid(format!("{FIELD}.{field}"), problem)
            })
        })
        .collect()
}

/// The OCI form. Inheritable and ambient sets stay empty: a program in the image with inheritable
/// file capabilities must not gain from them, and CRI does not grant ambient ones.
pub(super) fn oci(granted: &BTreeSet<String>) -> LinuxCapabilities {
    let set: oci_spec::runtime::Capabilities = granted
        .iter()
        // A newer kernel may have capabilities that the `oci-spec` crate does not know.
        .filter_map(|name| name.strip_prefix("CAP_").unwrap_or(name).parse().ok())
        .collect();
    let mut caps = super::blank::<LinuxCapabilities>("{}");
    caps.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(Default::default()))
        .set_ambient(Some(Default::default()));
    caps
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn granted_to(add: &[&str], drop: &[&str]) -> Result<BTreeSet<String>, Error> {
        let mut f = Fixture::new();
        f.config.security.capabilities.add = add.iter().map(|&s| s.to_owned()).collect();
        f.config.security.capabilities.drop = drop.iter().map(|&s| s.to_owned()).collect();
        granted(&f.input())
    }

    #[test]
    fn single_names_come_after_all() {
        let all = Fixture::new().facts.capabilities.len();
        for (add, drop, size, has, lacks) in [
            (vec![], vec![], 14, "CAP_CHOWN", "CAP_SYS_ADMIN"),
            (vec!["CAP_NET_ADMIN"], vec![], 15, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"),
            (vec!["net_admin"], vec!["cap_chown"], 14, "CAP_NET_ADMIN", "CAP_CHOWN"),
            (vec![], vec!["ALL"], 0, "", "CAP_CHOWN"),
            (vec!["CAP_CHOWN"], vec!["ALL"], 1, "CAP_CHOWN", "CAP_KILL"),
            (vec!["ALL"], vec![], all, "CAP_SYS_ADMIN", ""),
            (vec!["all"], vec!["CAP_SYS_ADMIN"], all - 1, "CAP_CHOWN", "CAP_SYS_ADMIN"),
            (vec!["ALL", "CAP_KILL"], vec!["ALL"], 1, "CAP_KILL", "CAP_CHOWN"),
            (vec!["CAP_KILL"], vec!["CAP_KILL"], 13, "CAP_CHOWN", "CAP_KILL"),
        ] {
            let set = granted_to(&add, &drop).unwrap();
            assert_eq!(set.len(), size, "+{add:?} -{drop:?}");
            assert!(has.is_empty() || set.contains(has), "+{add:?} -{drop:?}");
            assert!(!set.contains(lacks), "+{add:?} -{drop:?}");
        }
    }

    #[test]
    fn unknown_and_unavailable_names_are_left_out_and_what_is_no_name_is_refused() {
        for name in ["CAP_NOPE", "CAP_SYS_RESOURCE"] {
            let set = granted_to(&[name, "CAP_NET_ADMIN"], &["CAP_NOPE"]).unwrap();
            assert!(set.contains("CAP_NET_ADMIN") && !set.contains(name), "{name}");
        }
        for (add, drop, end) in [
            (vec!["CAP_"], vec![], "add_capabilities"),
            (vec![], vec![""], "drop_capabilities"),
            (vec!["NET ADMIN"], vec![], "add_capabilities"),
        ] {
            let error = granted_to(&add, &drop).unwrap_err();
            assert!(
                matches!(error, Error::Invalid { ref field, .. } if field.ends_with(end)),
                "{error}"
            );
        }
        assert!(granted_to(&[], &["CAP_SYS_RESOURCE"]).is_ok(), "dropping what is not there");
    }

    #[test]
    fn defaults_shrink_with_the_agent() {
        let mut f = Fixture::new();
        f.facts.capabilities = vec!["CAP_CHOWN".to_owned()];
        assert_eq!(granted(&f.input()).unwrap().into_iter().collect::<Vec<_>>(), ["CAP_CHOWN"]);
    }

    #[test]
    fn privileged_ignores_the_lists() {
        let mut f = Fixture::new().privileged();
        f.config.security.capabilities.drop = vec!["ALL".to_owned()];
        assert_eq!(granted(&f.input()).unwrap().len(), f.facts.capabilities.len());
    }

    #[test]
    fn inheritable_and_ambient_are_empty() {
        let caps = oci(&granted_to(&["ALL"], &[]).unwrap());
        assert!(caps.inheritable().as_ref().unwrap().is_empty());
        assert!(caps.ambient().as_ref().unwrap().is_empty());
        assert_eq!(caps.bounding(), caps.effective());
        assert_eq!(caps.bounding(), caps.permitted());
    }
}
