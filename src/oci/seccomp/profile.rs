//! Profile files of the operator, in the format of the OCI runtime spec or in Docker's, whose rules
//! may be limited to some processes and hosts.

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use serde_json::Value;

use super::{FIELD, Request};
use crate::oci::Error;

/// Conditions of a rule (`includes`) or exceptions from it (`excludes`). Empty matches everything.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    /// Capabilities of the process.
    caps: Option<Vec<String>>,
    /// Architectures of the host, by their Go names.
    arches: Option<Vec<String>>,
    /// Minimum kernel version, `MAJOR.MINOR`.
    min_kernel: Option<String>,
}

/// An entry of Docker's `archMap`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arch {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

/// Parses a profile and evaluates its conditions for a process. Unknown parts are ignored.
pub(super) fn parse(content: &Value, request: &Request<'_>) -> Result<LinuxSeccomp, Error> {
    let refused = |problem: String| Error::invalid(format!("{FIELD}.localhost_ref"), problem);
    let malformed = |error| refused(format!("the profile is malformed: {error}"));
    let mut profile = content.clone();
    if let Some(rules) = profile.get_mut("syscalls").and_then(Value::as_array_mut) {
        let mut holding = Vec::with_capacity(rules.len());
        for mut rule in std::mem::take(rules) {
            if holds(&mut rule, request).map_err(malformed)? {
                named_by_list(&mut rule);
                holding.push(rule);
            }
        }
        *rules = holding;
    }
    resolve_arches(&mut profile, &request.facts.arch).map_err(malformed)?;
    LinuxSeccomp::deserialize(&profile).map_err(malformed)
}

/// Removes the conditions from a rule and evaluates them.
fn holds(rule: &mut Value, request: &Request<'_>) -> serde_json::Result<bool> {
    let Some(rule) = rule.as_object_mut() else { return Ok(true) };
    let mut condition = |key: &str| {
        let found = rule.remove(key).unwrap_or_default();
        Ok::<_, serde_json::Error>(Option::<Condition>::deserialize(found)?.unwrap_or_default())
    };
    let (includes, excludes) = (condition("includes")?, condition("excludes")?);
    let has = |name: &String| request.capabilities.contains(name);
    let ours = |arch: &String| *arch == request.facts.arch;
    let included = includes.caps.unwrap_or_default().iter().all(has)
        && includes.arches.is_none_or(|arches| arches.is_empty() || arches.iter().any(ours))
        && includes.min_kernel.map_or(Ok(true), |oldest| reaches(&oldest, request))?;
    let excluded = excludes.caps.unwrap_or_default().iter().any(has)
        || excludes.arches.unwrap_or_default().iter().any(ours)
        || excludes.min_kernel.map_or(Ok(false), |oldest| reaches(&oldest, request))?;
    Ok(included && !excluded)
}

/// Whether the kernel is at least this version; true when the text is empty.
fn reaches(oldest: &str, request: &Request<'_>) -> serde_json::Result<bool> {
    use serde::de::Error as _;
    let unreadable = || serde_json::Error::custom(format!("minKernel {oldest:?} is not a version"));
    let mut numbers = oldest.split('.').map(str::parse::<u32>);
    let mut next = || numbers.next().unwrap_or(Ok(0)).map_err(|_| unreadable());
    if oldest.is_empty() {
        return Ok(true);
    }
    Ok(request.facts.kernel >= (next()?, next()?))
}

/// Converts the old form of a rule, with one system call, to the list form.
fn named_by_list(rule: &mut Value) {
    let Some(rule) = rule.as_object_mut() else { return };
    let has_list = rule.get("names").is_some_and(|names| !names.is_null());
    if let Some(name) = rule.remove("name").filter(|name| name.is_string() && !has_list) {
        rule.insert("names".to_owned(), Value::Array(vec![name]));
    }
}

/// Replaces `archMap` by the architectures that belong to the host's, unless they are given.
fn resolve_arches(profile: &mut Value, arch: &str) -> serde_json::Result<()> {
    let Some(profile) = profile.as_object_mut() else { return Ok(()) };
    let map = profile.remove("archMap").unwrap_or_default();
    let given = profile.get("architectures").and_then(Value::as_array);
    if given.is_some_and(|given| !given.is_empty()) {
        return Ok(());
    }
    let map = Option::<Vec<Arch>>::deserialize(map)?.unwrap_or_default();
    let native = super::arches(arch, false).into_iter().next();
    let Some(native) = native.map(serde_json::to_value).transpose()? else { return Ok(()) };
    let line = map.into_iter().find(|line| native == *line.architecture);
    if let Some(Arch { architecture, sub_architectures }) = line {
        let all = std::iter::once(architecture).chain(sub_architectures.unwrap_or_default());
        profile.insert("architectures".to_owned(), all.collect());
    }
    Ok(())
}
