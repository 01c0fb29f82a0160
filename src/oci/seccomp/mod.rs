//! System call filters: the runtime's default profile, and profiles from files.

mod profile;
mod table;

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSyscall};
use serde_json::Value;

use super::{Error, paths};
use crate::backend::HostFacts;
use crate::model::security::SecurityProfile;

/// The CRI field of a seccomp profile, in a container's and in a sandbox's configuration.
pub const FIELD: &str = "linux.security_context.seccomp";

/// The path of the file that a `Localhost` profile names: absolute, without `..`. `None` when there
/// is no file to read, as for privileged containers, which have no filter.
pub fn localhost_path(
    profile: Option<&SecurityProfile>,
    privileged: bool,
) -> Result<Option<&Path>, Error> {
    let Some(SecurityProfile::Localhost(path)) = profile.filter(|_| !privileged) else {
        return Ok(None);
    };
    let refused = |problem: String| Err(Error::invalid(format!("{FIELD}.localhost_ref"), problem));
    if let Some(problem) = paths::problem_of(path) {
        refused(problem)
    } else if path.split('/').any(|part| part == "..") {
        refused(format!("{path:?} leads upwards"))
    } else {
        Ok(Some(Path::new(path)))
    }
}

/// The input for a filter.
pub(super) struct Request<'a> {
    pub(super) profile: Option<&'a SecurityProfile>,
    pub(super) privileged: bool,
    /// Content of the file of a `Localhost` profile.
    pub(super) content: Option<&'a Value>,
    /// Bounding set of the process, as `CAP_…`.
    pub(super) capabilities: &'a BTreeSet<String>,
    pub(super) facts: &'a HostFacts,
}

/// Builds the requested filter. No profile means no filter, as in CRI. An unusable profile is an
/// error and never results in less confinement.
pub(super) fn filter(request: &Request<'_>) -> Result<Option<LinuxSeccomp>, Error> {
    let confining = |profile: &&SecurityProfile| {
        !request.privileged && **profile != SecurityProfile::Unconfined
    };
    let Some(profile) = request.profile.filter(confining) else {
        return Ok(None);
    };
    if !request.facts.seccomp {
        return Err(Error::invalid(FIELD, "this host cannot filter system calls"));
    }
    let Some(path) = localhost_path(Some(profile), false)? else {
        return Ok(Some(runtime_default(request)));
    };
    let content = request.content.ok_or_else(|| {
        Error::invalid(format!("{FIELD}.localhost_ref"), format!("{path:?} was not read"))
    })?;
    profile::parse(content, request).map(Some)
}

/// The default profile: an allow list; all other calls fail with EPERM.
fn runtime_default(request: &Request<'_>) -> LinuxSeccomp {
    let arch = request.facts.arch.as_str();
    let has = |capability: &str| request.capabilities.contains(capability);

    let mut names: Vec<&str> = table::ALWAYS.concat();
    // Before 4.8 a tracer could change a system call after the filter had checked it.
    if request.facts.kernel >= (4, 8) {
        names.extend(table::TRACING);
    }
    for (arches, group) in table::BY_ARCH {
        if arches.contains(&arch) {
            names.extend(*group);
        }
    }
    for (capability, group) in table::BY_CAPABILITY {
        if has(capability) {
            names.extend(*group);
        }
    }
    names.sort_unstable();
    names.dedup();

    let mut rules = vec![table::allow(&names)];
    rules.extend(table::sockets());
    rules.extend(table::personalities());
    if !has("CAP_SYS_ADMIN") {
        rules.extend(table::clone_without_namespaces(arch));
    }
    let mut filter = super::blank::<LinuxSeccomp>(r#"{"defaultAction":"SCMP_ACT_ERRNO"}"#);
    filter.set_architectures(Some(arches(arch, request.facts.x32))).set_syscalls(Some(rules));
    filter
}

/// The host's architecture and the others whose programs it can run. Unknown ones are left to the
/// runtime, which then filters the native one.
///
/// Each further one makes an OCI runtime compile the filter for longer: with x32 it takes 18 ms
/// instead of 9 for each container, and few kernels run x32 programs.
fn arches(arch: &str, x32: bool) -> Vec<Arch> {
    match arch {
        "amd64" if x32 => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "amd64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86],
        "arm64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        _ => Vec::new(),
    }
}

/// Drops all architectures but the native one: a call of another one then kills its thread.
pub(super) fn keep_native(filter: &mut LinuxSeccomp) {
    let native = filter.architectures().iter().flatten().take(1).copied().collect();
    filter.set_architectures(Some(native));
}

/// One rule without conditions on arguments.
fn rule(names: &[&str], action: Action) -> LinuxSyscall {
    let mut rule = super::blank::<LinuxSyscall>(r#"{"names":[],"action":"SCMP_ACT_ALLOW"}"#);
    rule.set_names(names.iter().map(|&name| name.to_owned()).collect()).set_action(action);
    rule
}

#[cfg(test)]
mod tests;
