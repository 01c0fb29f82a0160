//! Volumes of a pod: the sources of their contents.

use serde_json::Value;

use super::super::print::{has, items, plain, text};
use super::Page;

/// All volumes.
pub(super) fn all(page: &mut Page, volumes: &[Value]) {
    if volumes.is_empty() {
        return page.field(0, "Volumes", "<none>");
    }
    page.line(0, "Volumes:");
    for volume in volumes {
        page.line(1, format!("{}:", text(volume, "/name")));
        one(page, volume);
    }
}

/// A kind of volume: its description and the fields that are shown.
struct Row {
    key: &'static str,
    kind: &'static str,
    fields: &'static [(&'static str, &'static str, &'static str)],
}

/// Label, JSON pointer, and default text.
const ROWS: &[Row] = &[
    Row {
        key: "emptyDir",
        kind: "EmptyDir (a temporary directory that shares a pod's lifetime)",
        fields: &[("Medium", "/medium", ""), ("SizeLimit", "/sizeLimit", "<unset>")],
    },
    Row {
        key: "hostPath",
        kind: "HostPath (bare host directory volume)",
        fields: &[("Path", "/path", ""), ("HostPathType", "/type", "")],
    },
    Row {
        key: "secret",
        kind: "Secret (a volume populated by a Secret)",
        fields: &[("SecretName", "/secretName", ""), ("Optional", "/optional", "false")],
    },
    Row {
        key: "configMap",
        kind: "ConfigMap (a volume populated by a ConfigMap)",
        fields: &[("Name", "/name", ""), ("Optional", "/optional", "false")],
    },
    Row {
        key: "image",
        kind: "Image (a container image or OCI artifact)",
        fields: &[("Reference", "/reference", ""), ("PullPolicy", "/pullPolicy", "")],
    },
    Row {
        key: "downwardAPI",
        kind: "DownwardAPI (a volume populated by information about the pod)",
        fields: &[],
    },
    Row {
        key: "projected",
        kind: "Projected (a volume that contains injected data from multiple sources)",
        fields: &[],
    },
];

fn one(page: &mut Page, volume: &Value) {
    let Some((row, source)) =
        ROWS.iter().find_map(|row| volume.get(row.key).map(|source| (row, source)))
    else {
        return page.field(2, "Type", "<unknown>");
    };
    page.field(2, "Type", row.kind);
    for (label, pointer, otherwise) in row.fields {
        let value = source.pointer(pointer).map_or((*otherwise).to_owned(), plain);
        page.field(2, label, value);
    }
    downward(page, source);
    for part in items(source, "/sources") {
        if has(part, "/secret") {
            page.field(2, "SecretName", text(part, "/secret/name"));
        } else if has(part, "/configMap") {
            page.field(2, "ConfigMapName", text(part, "/configMap/name"));
        } else if has(part, "/serviceAccountToken") {
            let seconds = part.pointer("/serviceAccountToken/expirationSeconds");
            page.field(2, "TokenExpirationSeconds", seconds.map(plain).unwrap_or_default());
        } else if let Some(downward_api) = part.get("downwardAPI") {
            page.field(2, "DownwardAPI", "true");
            downward(page, downward_api);
        }
    }
}

/// `path -> field` of a downward API source.
fn downward(page: &mut Page, source: &Value) {
    let entry = |item: &Value| {
        let field = text(item, "/fieldRef/fieldPath");
        let resource = text(item, "/resourceFieldRef/resource");
        let from = if field.is_empty() { resource } else { field };
        (!from.is_empty()).then(|| format!("{from} -> {}", text(item, "/path")))
    };
    let entries: Vec<_> = items(source, "/items").iter().filter_map(entry).collect();
    page.below(2, "Items", &entries);
}
