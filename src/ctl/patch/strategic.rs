//! Kubernetes' strategic merge patch, for pods: lists whose entries have names are merged by them.

use serde_json::{Map, Value};

/// Lists of a pod that are merged, and the field that names their entries.
const MERGED: &[(&str, &str)] = &[
    ("conditions", "type"),
    ("containers", "name"),
    ("env", "name"),
    ("ephemeralContainers", "name"),
    ("hostAliases", "ip"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("ports", "containerPort"),
    ("resourceClaims", "name"),
    ("schedulingGates", "name"),
    ("topologySpreadConstraints", "topologyKey"),
    ("volumeDevices", "devicePath"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
];

/// What to do with the entry or object that has it.
const DIRECTIVE: &str = "$patch";
/// The only fields to keep.
const RETAIN: &str = "$retainKeys";
/// The order of a list, which has no meaning for those of a pod that are merged later.
const ORDER: &str = "$setElementOrder/";

/// Merges a patch into an object.
///
/// # Errors
/// A directive that is not known, or an entry of a merged list without its name.
pub fn merge(into: &mut Value, patch: &Value) -> Result<(), String> {
    let Value::Object(patch) = patch else {
        into.clone_from(patch);
        return Ok(());
    };
    let anew = matches!(directive(patch)?, Some("replace" | "delete"));
    let mut fields = match into {
        Value::Object(fields) if !anew => std::mem::take(fields),
        _ => Map::new(),
    };
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        fields.retain(|key, _| kept.iter().any(|name| name == key));
    }
    for (key, value) in patch {
        if key.starts_with('$') {
            if key != DIRECTIVE && key != RETAIN && !key.starts_with(ORDER) {
                return Err(format!("the patch: {key} is not supported"));
            }
            continue;
        }
        if value.is_null() {
            fields.remove(key);
            continue;
        }
        let field = fields.entry(key).or_insert(Value::Null);
        let name = MERGED.iter().find(|(list, _)| list == key).map(|(_, name)| *name);
        match (name, value.as_array()) {
            (Some(name), Some(entries)) => merge_list(field, entries, key, name)?,
            _ => merge(field, value)?,
        }
    }
    *into = Value::Object(fields);
    Ok(())
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, String> {
    match patch.get(DIRECTIVE) {
        None => Ok(None),
        Some(Value::String(word)) if ["merge", "replace", "delete"].contains(&word.as_str()) => {
            Ok(Some(word))
        }
        Some(other) => Err(format!("the patch: {DIRECTIVE} cannot be {other}")),
    }
}

/// Merges entries into a list, by the field `name`.
fn merge_list(into: &mut Value, entries: &[Value], key: &str, name: &str) -> Result<(), String> {
    let mut list = into.as_array().cloned().unwrap_or_default();
    for entry in entries {
        let id = entry.get(name);
        let says = entry.as_object().map_or(Ok(None), directive)?;
        let (id, says) = match (id, says) {
            // An entry of its own says that the others are all there is.
            (None, Some("replace")) => {
                list.clear();
                continue;
            }
            (Some(id), says) => (id, says),
            (None, _) => return Err(format!("the patch: an entry of {key} has no {name}")),
        };
        let at = list.iter().position(|there| there.get(name) == Some(id));
        match (at, says) {
            (Some(at), Some("delete")) => drop(list.remove(at)),
            (None, Some("delete")) => {}
            (Some(at), _) => merge(&mut list[at], entry)?,
            (None, _) => {
                let mut new = Value::Null;
                merge(&mut new, entry)?;
                list.push(new);
            }
        }
    }
    *into = Value::Array(list);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(before: Value, patch: Value, after: Value) {
        let mut object = before;
        merge(&mut object, &patch).expect("merged");
        assert_eq!(object, after, "{patch}");
    }

    #[test]
    fn objects_are_merged_and_null_removes() {
        check(
            json!({"a": 1, "b": {"c": 2}}),
            json!({"b": {"d": 3}}),
            json!({"a": 1, "b": {"c": 2, "d": 3}}),
        );
        check(json!({"a": 1, "b": 2}), json!({"a": null, "x": null}), json!({"b": 2}));
        check(
            json!({"a": 1}),
            json!({"a": {"b": {"c": null, "d": 1}}}),
            json!({"a": {"b": {"d": 1}}}),
        );
        check(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"$patch": "replace", "d": 3}}),
            json!({"a": {"d": 3}}),
        );
        check(json!({"a": {"b": 1}}), json!({"a": {"$patch": "delete"}}), json!({"a": {}}));
        check(
            json!({"emptyDir": {}, "name": "v"}),
            json!({"$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}),
            json!({"name": "v", "hostPath": {"path": "/x"}}),
        );
    }

    #[test]
    fn lists_are_merged_by_name_or_replaced() {
        let two =
            json!({"containers": [{"name": "a", "image": "i", "args": ["x", "y"]}, {"name": "b"}]});
        check(
            two.clone(),
            json!({"$setElementOrder/containers": [{"name": "a"}], "containers": [
                {"name": "a", "args": ["z"]}, {"name": "c", "env": [{"name": "A", "value": "1"}]},
            ]}),
            json!({"containers": [
                {"name": "a", "image": "i", "args": ["z"]}, {"name": "b"},
                {"name": "c", "env": [{"name": "A", "value": "1"}]},
            ]}),
        );
        let gone = json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "x", "$patch": "delete"}]});
        check(two.clone(), gone, json!({"containers": [{"name": "b"}]}));
        let all = json!({"containers": [{"$patch": "replace"}, {"name": "c"}]});
        check(two, all, json!({"containers": [{"name": "c"}]}));
        check(
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        );
    }

    #[test]
    fn unknown_directives_and_missing_names_are_refused() {
        for patch in [
            json!({"$patch": "jump"}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
            json!({"containers": [{"image": "i"}]}),
            json!({"containers": ["a"]}),
        ] {
            assert!(merge(&mut json!({}), &patch).is_err(), "{patch}");
        }
    }
}
