//! The table.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::watched::{self, condition, container, phase};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    pod: Vec<Row>,
}

/// One pod and what becomes of it; the table says what each means.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    pub name: String,
    manifest: String,
    pub until: Until,
    pub phases: Vec<String>,
    #[serde(default)]
    pub marks: Option<Vec<Marks>>,
    #[serde(default)]
    pub delete: Option<Delete>,
    #[serde(default)]
    pub restarts: BTreeMap<String, u32>,
    #[serde(default)]
    pub codes: BTreeMap<String, i32>,
    #[serde(default)]
    pub reasons: BTreeMap<String, String>,
    #[serde(default)]
    pub messages: BTreeMap<String, String>,
    #[serde(default)]
    pub conditions: BTreeMap<String, String>,
    #[serde(default)]
    pub turns: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    #[allow(dead_code)] // one of the two runners reads it
    pub kubelet: Option<String>,
}

/// One line of the marks, or several in any order.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Marks {
    One(String),
    AnyOrder(Vec<String>),
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Seconds; the pod's own when absent.
    pub grace: Option<i64>,
    /// Seconds that the end takes at least.
    pub took: Option<u64>,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Until {
    Phase(String),
    Ready,
    Restarts(String, u32),
    Waiting(String, String),
}

impl TryFrom<String> for Until {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split(' ').collect::<Vec<_>>()[..] {
            ["ready"] => Ok(Self::Ready),
            [phase @ ("Succeeded" | "Failed")] => Ok(Self::Phase(phase.to_owned())),
            ["restarts", name, count] => {
                let count = count.parse().map_err(|e| format!("{text}: {e}"))?;
                Ok(Self::Restarts(name.to_owned(), count))
            }
            ["waiting", name, reason] => Ok(Self::Waiting(name.to_owned(), reason.to_owned())),
            _ => Err(format!("unknown moment {text:?}")),
        }
    }
}

impl Until {
    pub fn is_met(&self, pod: &Pod) -> bool {
        match self {
            Self::Phase(wanted) => phase(pod) == wanted,
            Self::Ready => condition(pod, "Ready") == Some("True"),
            Self::Restarts(name, count) => container(pod, name).is_some_and(|it| {
                let running = it.state.as_ref().is_some_and(|state| state.running.is_some());
                running && u32::try_from(it.restart_count).is_ok_and(|found| found >= *count)
            }),
            Self::Waiting(name, reason) => container(pod, name)
                .and_then(watched::waits)
                .is_some_and(|it| it.reason.as_ref() == Some(reason)),
        }
    }
}

impl Row {
    /// The whole pod: with its name, the image where none is given, and the folder of the marks.
    pub fn pod(&self, name: &str, namespace: &str, image: &str, marks: &Path) -> Value {
        let mut spec: Value =
            serde_saphyr::from_str(&self.manifest).unwrap_or_else(|e| panic!("{}: {e}", self.name));
        let put = |list: &mut Value, item: Value| match list {
            Value::Array(items) => items.push(item),
            empty => *empty = json!([item]),
        };
        let folder = json!({ "name": "marks", "hostPath": { "path": marks, "type": "Directory" } });
        put(&mut spec["volumes"], folder);
        for kind in ["initContainers", "containers"] {
            for container in spec.get_mut(kind).and_then(Value::as_array_mut).into_iter().flatten()
            {
                let mount = json!({ "name": "marks", "mountPath": "/marks" });
                put(&mut container["volumeMounts"], mount);
                if container["image"].is_null() {
                    container["image"] = image.into();
                }
            }
        }
        let metadata = json!({ "name": name, "namespace": namespace });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
    }

    /// How the marks differ from the row's.
    pub fn wrong_marks(&self, found: &[String]) -> Option<String> {
        let wanted = self.marks.as_ref()?;
        let mut rest = found;
        for marks in wanted {
            let mut group = match marks {
                Marks::One(mark) => vec![mark.clone()],
                Marks::AnyOrder(group) => group.clone(),
            };
            let Some((next, after)) = rest.split_at_checked(group.len()) else {
                return Some(format!("marks: {found:?}, too few: {group:?} is missing"));
            };
            let mut next = next.to_vec();
            next.sort();
            group.sort();
            if next != group {
                return Some(format!("marks: {found:?}, wrong from {next:?} on"));
            }
            rest = after;
        }
        (!rest.is_empty()).then(|| format!("marks: {found:?}, too many"))
    }
}

/// All rows.
pub fn table() -> Vec<Row> {
    let text = include_str!("table.toml");
    toml::from_str::<Table>(text).unwrap_or_else(|e| panic!("the table: {e}")).pod
}
