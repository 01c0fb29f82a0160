//! Parses text to objects: documents, lists, kinds.

use std::collections::BTreeSet;

use k8s_openapi::Metadata;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::tree::{self, Node, Value};
use super::{gates, typed, unserved};
use crate::pod::{Error, FieldError};

/// Options of parsing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParseOptions {
    /// Drop unknown and unsupported fields with a warning, if a pod can run without them.
    pub lenient: bool,
    /// Default namespace of the objects; empty for `default`.
    pub namespace: String,
}

/// The objects in a text, in order, unchanged except for the namespace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// Pods.
    pub pods: Vec<Pod>,
    /// Config maps.
    pub config_maps: Vec<ConfigMap>,
    /// Secrets.
    pub secrets: Vec<Secret>,
    /// Warnings about dropped fields.
    pub warnings: Vec<String>,
}

/// Parses YAML or JSON: several documents, objects of kind `Pod`, `ConfigMap` and `Secret`, and
/// lists of them.
///
/// # Errors
/// [`Error::Manifest`] when the text is malformed, too large, or contains other kinds;
/// [`Error::Invalid`] when fields of an object are unknown, unsupported or of a wrong type.
pub fn parse(text: &[u8], options: &ParseOptions) -> Result<Parsed, Error> {
    read(text, options, false)
}

/// Like [`parse`] without options, but an explicit list without items (`items: []`) is valid: who
/// provides all static pods of a source can say that there are none.
///
/// # Errors
/// As for [`parse`]; a text without any object or list is an error here too.
pub fn parse_source(text: &[u8]) -> Result<Parsed, Error> {
    read(text, &ParseOptions::default(), true)
}

fn read(text: &[u8], options: &ParseOptions, may_be_empty: bool) -> Result<Parsed, Error> {
    let documents = tree::read(text).map_err(|message| Error::Manifest { message })?;
    let parsed = Parsed::default();
    let mut reading = Reading { options, parsed, seen: BTreeSet::new(), listed: false };
    for document in documents {
        reading.take(document, None)?;
    }
    let Reading { parsed, listed, .. } = reading;
    let is_empty =
        parsed.pods.is_empty() && parsed.config_maps.is_empty() && parsed.secrets.is_empty();
    if is_empty && !(listed && may_be_empty) {
        return Err(Error::Manifest { message: "it contains no object".to_owned() });
    }
    Ok(parsed)
}

struct Reading<'a> {
    options: &'a ParseOptions,
    parsed: Parsed,
    /// Kind, namespace and name of the objects read so far.
    seen: BTreeSet<(&'static str, String, String)>,
    /// Whether there was a list with the field `items`.
    listed: bool,
}

impl Reading<'_> {
    /// Handles a document or list item; `implied` is the kind of the items in a typed list.
    fn take(&mut self, node: Node, implied: Option<&'static str>) -> Result<(), Error> {
        let kind = kind(&node, implied)?;
        match kind.as_str() {
            "Pod" => {
                let mut node = node;
                let conditions =
                    node.remove("status").and_then(|mut status| status.remove("conditions"));
                let mut pod: Pod = self.object("Pod", node)?;
                pod.status = gates::given(&pod, conditions.as_ref())?;
                self.parsed.pods.push(pod);
            }
            "ConfigMap" => {
                let map: ConfigMap = self.object("ConfigMap", node)?;
                self.parsed.config_maps.push(map);
            }
            "Secret" => {
                let secret: Secret = self.object("Secret", node)?;
                self.parsed.secrets.push(secret);
            }
            "List" => self.items(node, None)?,
            "PodList" => self.items(node, Some("Pod"))?,
            "ConfigMapList" => self.items(node, Some("ConfigMap"))?,
            "SecretList" => self.items(node, Some("Secret"))?,
            other => {
                let message = "can be run here: only Pod, ConfigMap, Secret and List can";
                return Err(fault(&node, &format!("no object of kind {other:?} {message}")));
            }
        }
        Ok(())
    }

    fn items(&mut self, mut list: Node, implied: Option<&'static str>) -> Result<(), Error> {
        let place = list.place;
        let items = list.remove("items");
        self.listed |= items.is_some();
        match items {
            Some(Node { value: Value::List(items), .. }) => {
                items.into_iter().try_for_each(|item| self.take(item, implied))
            }
            None | Some(Node { value: Value::Null, .. }) => Ok(()),
            Some(_) => Err(Error::Manifest { message: format!("{place}: items must be a list") }),
        }
    }

    fn object<T>(&mut self, kind: &'static str, mut node: Node) -> Result<T, Error>
    where
        T: for<'de> Deserialize<'de> + Metadata<Ty = ObjectMeta>,
    {
        let place = node.place;
        let name = written_name(&node);
        let invalid = |faults| Error::Invalid { kind, name: name.clone(), faults };
        // The status is reported by the node and is not part of the request, even if malformed.
        node.remove("status");
        let unserved = unserved::remove(kind, &mut node);
        let (mut object, mut left_out) =
            typed::object::<T>(&node).map_err(|fault| invalid(vec![fault]))?;
        let mut refused = unserved.fatal;
        left_out.extend(unserved.harmless);
        if !self.options.lenient {
            refused.append(&mut left_out);
        }
        if !refused.is_empty() {
            return Err(invalid(refused));
        }
        let warning = |fault: FieldError| format!("{kind} {name:?}: {fault}");
        self.parsed.warnings.extend(left_out.into_iter().map(warning));
        let meta = object.metadata_mut();
        let namespace = self.namespace(meta);
        meta.namespace = Some(namespace.clone());
        if !name.is_empty() && !self.seen.insert((kind, namespace.clone(), name.clone())) {
            let message = format!("{place}: {kind} {namespace}/{name} is defined twice");
            return Err(Error::Manifest { message });
        }
        Ok(object)
    }

    fn namespace(&self, meta: &ObjectMeta) -> String {
        let own = meta.namespace.as_deref().unwrap_or_default();
        let namespaces = [own, &self.options.namespace, "default"];
        namespaces.into_iter().find(|name| !name.is_empty()).unwrap_or("default").to_owned()
    }
}

/// The kind of an object in the core API.
fn kind(node: &Node, implied: Option<&'static str>) -> Result<String, Error> {
    if !matches!(node.value, Value::Map(_)) {
        return Err(fault(node, "an object must be a map with apiVersion and kind"));
    }
    let text = |key| match node.get(key) {
        None | Some(Node { value: Value::Null, .. }) => Ok(None),
        Some(node) => match node.text() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(fault(node, &format!("{key} must be a string"))),
        },
    };
    let version = text("apiVersion")?.or(implied.map(|_| "v1".to_owned()));
    let Some(kind) = text("kind")?.or(implied.map(str::to_owned)) else {
        return Err(fault(node, "kind is not set"));
    };
    match version.as_deref() {
        Some("v1") => Ok(kind),
        None => Err(fault(node, "apiVersion is not set")),
        Some(version) => {
            let message = "can be run here: only v1 can";
            Err(fault(node, &format!("no {kind} of apiVersion {version:?} {message}")))
        }
    }
}

fn written_name(node: &Node) -> String {
    let meta = node.get("metadata");
    meta.and_then(|meta| meta.get("name")).and_then(Node::text).unwrap_or_default().to_owned()
}

fn fault(node: &Node, message: &str) -> Error {
    Error::Manifest { message: format!("{}: {message}", node.place) }
}
