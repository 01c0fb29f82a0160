//! AppArmor: which profile a container gets, and whether that is loaded.

use super::{Error, Settings, paths};
use crate::backend::{HostFacts, has_apparmor_profile};
use crate::model::container::ContainerSecurity;
use crate::model::security::SecurityProfile;

const FIELD: &str = "linux.security_context.apparmor";

/// The profile that a container gets and that must be loaded.
pub fn profile_of(
    security: &ContainerSecurity,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Option<String>, Error> {
    profile(security.apparmor.as_ref(), security.privileged, facts, settings)
}

/// Fails unless the profile is in the list: otherwise the OCI runtime would fail at the start.
pub fn check_loaded(list: &[u8], name: &str) -> Result<(), Error> {
    let problem = || format!("the profile {name:?} is not loaded on this host");
    if has_apparmor_profile(list, name) { Ok(()) } else { Err(Error::invalid(FIELD, problem())) }
}

/// The name of the profile of a process. Without a request it is the default profile, which is
/// skipped on hosts without AppArmor; a profile requested by name is never skipped.
pub(super) fn profile(
    asked: Option<&SecurityProfile>,
    privileged: bool,
    facts: &HostFacts,
    settings: &Settings,
) -> Result<Option<String>, Error> {
    let refused = |problem: &str| Err(Error::invalid(FIELD, problem));
    match asked {
        Some(SecurityProfile::Unconfined) => Ok(None),
        _ if privileged => Ok(None),
        None | Some(SecurityProfile::RuntimeDefault) => {
            Ok(settings.apparmor_default.clone().filter(|_| facts.apparmor))
        }
        Some(SecurityProfile::Localhost(_)) if !facts.apparmor => {
            refused("this host has no AppArmor")
        }
        Some(SecurityProfile::Localhost(name)) if name.is_empty() || paths::has_control(name) => {
            refused("the profile has no usable name")
        }
        Some(SecurityProfile::Localhost(name)) => Ok(Some(name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn loaded_profiles_are_found_by_their_whole_name() {
        let list = b"docker-default (enforce)\nmy own (x) (complain)\n/usr/sbin/ntpd (kill)\n";
        for (name, loaded) in [
            ("docker-default", true),
            ("my own (x)", true),
            ("/usr/sbin/ntpd", true),
            ("docker", false),
            ("my own", false),
            ("", false),
        ] {
            assert_eq!(check_loaded(list, name).is_ok(), loaded, "{name:?}");
        }
    }

    #[test]
    fn a_named_profile_is_never_ignored_and_the_default_needs_apparmor() {
        use SecurityProfile::{Localhost, RuntimeDefault, Unconfined};
        let mut f = Fixture::new();
        f.settings.apparmor_default = Some("default".to_owned());
        let named = Localhost("mine".to_owned());
        for (asked, privileged, apparmor, expected) in [
            (None, false, true, Ok(Some("default"))),
            (None, false, false, Ok(None)),
            (None, true, true, Ok(None)),
            (Some(RuntimeDefault), false, false, Ok(None)),
            (Some(RuntimeDefault), false, true, Ok(Some("default"))),
            (Some(Unconfined), false, true, Ok(None)),
            (Some(named.clone()), false, true, Ok(Some("mine"))),
            (Some(named.clone()), true, true, Ok(None)),
            (Some(named), false, false, Err(())),
            (Some(Localhost(String::new())), false, true, Err(())),
            (Some(Localhost("a\nb".to_owned())), false, true, Err(())),
        ] {
            f.facts.apparmor = apparmor;
            let got = profile(asked.as_ref(), privileged, &f.facts, &f.settings);
            assert_eq!(got.as_ref().map(|p| p.as_deref()).map_err(|_| ()), expected, "{asked:?}");
        }
    }
}
