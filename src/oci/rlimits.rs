//! Limits of processes (setrlimit(2)), as configured by the operator.

use oci_spec::runtime::PosixRlimit;
use serde_json::json;

use super::{Error, Settings};
use crate::backend::HostFacts;
use crate::model::container::Rlimit;

/// The limits of a container: its own override the common ones. They are capped to the agent's own
/// limits if the agent may not raise those.
pub(super) fn rlimits(
    own: &[Rlimit],
    settings: &Settings,
    facts: &HostFacts,
) -> Result<Option<Vec<PosixRlimit>>, Error> {
    let limit = |limit: &Rlimit| {
        let most = match facts.rlimits.get(&limit.name) {
            Some(most) if !facts.may_raise_rlimits() => *most,
            _ => u64::MAX,
        };
        let kind = format!("RLIMIT_{}", limit.name.to_ascii_uppercase());
        let (soft, hard) = (limit.soft.min(most), limit.hard.min(most));
        serde_json::from_value(json!({ "type": kind, "soft": soft, "hard": hard })).map_err(
            |error| Error::invalid(format!("oci.rlimits {}", limit.name), error.to_string()),
        )
    };
    let is_own = |limit: &&Rlimit| own.iter().any(|own| own.name == limit.name);
    let common = settings.rlimits.iter().filter(|limit| !is_own(limit));
    let limits = own.iter().chain(common).map(limit).collect::<Result<Vec<_>, _>>()?;
    Ok((!limits.is_empty()).then_some(limits))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn limits_are_no_higher_than_the_host_allows() {
        let mut f = Fixture::new();
        assert_eq!(rlimits(&[], &f.settings, &f.facts), Ok(None));
        let limit = |name: &str, soft, hard| Rlimit { name: name.to_owned(), soft, hard };
        f.settings.rlimits = vec![limit("nofile", 1024, 1 << 20), limit("core", 0, u64::MAX)];
        f.facts.rlimits = [("nofile".to_owned(), 4096)].into();
        let made = |f: &Fixture| {
            serde_json::to_value(rlimits(&[], &f.settings, &f.facts).unwrap()).unwrap()
        };
        assert_eq!(
            made(&f),
            json!([
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": u64::MAX},
            ])
        );
        f.facts.capabilities.push("CAP_SYS_RESOURCE".to_owned());
        assert_eq!(made(&f)[0]["hard"], 1 << 20);
        let own = [limit("core", 1, 2), limit("nproc", 3, 4)];
        let made = serde_json::to_value(rlimits(&own, &f.settings, &f.facts).unwrap()).unwrap();
        assert_eq!(
            made,
            json!([
                {"type": "RLIMIT_CORE", "soft": 1, "hard": 2},
                {"type": "RLIMIT_NPROC", "soft": 3, "hard": 4},
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 1 << 20},
            ]),
            "its own come before those of all"
        );
    }
}
