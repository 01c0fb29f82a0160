//! What a pod may read about itself in a file.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, Pod, ResourceFieldSelector, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use super::Allocatable;
use crate::pod::Quantity;

/// The content of one file, or what is wrong with its source.
pub(super) fn value(
    pod: &Pod,
    file: &DownwardAPIVolumeFile,
    node: &Allocatable,
) -> Result<String, String> {
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), _) => field_value(pod, &field.field_path),
        (None, Some(resource)) => resource_value(pod, resource, node),
        (None, None) => Err(format!("{}: neither fieldRef nor resourceFieldRef", file.path)),
    }
}

fn field_value(pod: &Pod, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let one = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
    };
    if let Some((map, key)) = subscript(path) {
        match map {
            "metadata.labels" => return Ok(one(&meta.labels, key)),
            "metadata.annotations" => return Ok(one(&meta.annotations, key)),
            _ => return Err(format!("unsupported fieldPath: {path}")),
        }
    }
    match path {
        "metadata.name" => Ok(meta.name.clone().unwrap_or_default()),
        "metadata.namespace" => Ok(meta.namespace.clone().unwrap_or_default()),
        "metadata.uid" => Ok(meta.uid.clone().unwrap_or_default()),
        "metadata.labels" => Ok(lines(meta.labels.as_ref())),
        "metadata.annotations" => Ok(lines(meta.annotations.as_ref())),
        _ => Err(format!("unsupported fieldPath: {path}")),
    }
}

/// `a['b']` in its parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

/// `key="value"` by key, one a line; values are quoted as Go does it (`%q`).
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn quoted(value: &str) -> String {
    let mut text = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{7}' => text.push_str("\\a"),
            '\u{8}' => text.push_str("\\b"),
            '\u{b}' => text.push_str("\\v"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == ' ' || !(c.is_control() || c.is_whitespace()) => text.push(c),
            c if u32::from(c) < 0x80 => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    text.push('"');
    text
}

/// An amount in units of the divisor, rounded up. A limit that the container does not set is the
/// pod's, or what the node has for pods; a request that it does not set is zero.
fn resource_value(
    pod: &Pod,
    field: &ResourceFieldSelector,
    node: &Allocatable,
) -> Result<String, String> {
    let name = field.container_name.as_deref().unwrap_or_default();
    let container = container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
    let unsupported = || format!("unsupported container resource : {}", field.resource);
    let (list, resource) = field.resource.split_once('.').ok_or_else(unsupported)?;
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let own = container.resources.as_ref();
    let amount = match list {
        "limits" => match limit(own, resource)?.or(limit(of_pod, resource)?) {
            Some(amount) => amount,
            None => node.of(resource).ok_or_else(unsupported)?,
        },
        "requests" => {
            let requests = own.and_then(|own| own.requests.as_ref());
            amount(requests, resource)?.unwrap_or_default()
        }
        _ => return Err(unsupported()),
    };
    let divisor = match &field.divisor {
        Some(text) => parse(text)?,
        None => Quantity::default(),
    };
    let divisor = if divisor.is_zero() { Quantity::units(1) } else { divisor };
    let (amount, divisor) = match resource {
        "cpu" => (amount.milli(), divisor.milli()),
        _ => (amount.value(), divisor.value()),
    };
    Ok(divide_up(amount, divisor).to_string())
}

fn divide_up(amount: i64, divisor: i64) -> i64 {
    let divisor = divisor.max(1);
    amount / divisor + i64::from(amount % divisor > 0)
}

fn container<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    let spec = pod.spec.as_ref()?;
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    all.find(|container| container.name == name)
}

fn limit(
    resources: Option<&ResourceRequirements>,
    resource: &str,
) -> Result<Option<Quantity>, String> {
    let found = amount(resources.and_then(|all| all.limits.as_ref()), resource)?;
    Ok(found.filter(|limit| !limit.is_zero()))
}

fn amount(
    list: Option<&BTreeMap<String, Text>>,
    resource: &str,
) -> Result<Option<Quantity>, String> {
    list.and_then(|list| list.get(resource)).map(parse).transpose()
}

fn parse(text: &Text) -> Result<Quantity, String> {
    Quantity::try_from(text).map_err(|error| format!("quantity {:?}: {error}", text.0))
}

#[cfg(test)]
mod tests;
