//! What requests concern, for the audit log: names and selectors, but no object contents, commands
//! or data.

use prost::Message;

use crate::pod::manifest::{ParseOptions, Parsed, parse};
use crate::pod::{Applied, PodKey};
use crate::proto::podbay::v1::*;
use crate::serve::auth::About;

/// Larger manifests are described by their size, to avoid parsing them again for the names.
pub(in crate::serve) const SMALL: usize = 64 << 10;

/// Maximum number of objects that are named.
const NAMED: usize = 8;

/// A request that can tell what it is about.
pub(in crate::serve) trait Tells {
    /// What it is about, if anything.
    fn about(&self) -> Option<About>;
}

/// Like [`Tells::about`], for an encoded message of this RPC path.
pub(in crate::serve) fn of_message(path: &str, message: &[u8]) -> Option<About> {
    fn of<T: Message + Default + Tells>(message: &[u8]) -> Option<About> {
        T::decode(message).ok()?.about()
    }
    if let Some(rpc) = path.strip_prefix("/podbay.v1.Images/") {
        return crate::serve::images::of_message(rpc, message);
    }
    match path.strip_prefix("/podbay.v1.Pods/")? {
        "Apply" => of::<ApplyRequest>(message),
        "Delete" => of::<DeleteRequest>(message),
        "Get" => of::<GetRequest>(message),
        "List" => of::<ListRequest>(message),
        "Watch" => of::<WatchRequest>(message),
        "Logs" => of::<LogsRequest>(message),
        "Exec" => of::<ExecRequest>(message),
        "Attach" => of::<AttachRequest>(message),
        "PortForward" => of::<PortForwardRequest>(message),
        "Stats" => of::<StatsRequest>(message),
        "WatchStats" => of::<WatchStatsRequest>(message),
        "Events" => of::<EventsRequest>(message),
        "Explain" => of::<ExplainRequest>(message),
        "RestartContainer" => of::<RestartContainerRequest>(message),
        "Admit" => of::<AdmitRequest>(message),
        _ => None,
    }
}

/// What an Apply concerned, from its result.
pub(super) fn applied(applied: &Applied, dry_run: bool) -> About {
    let pods = applied.pods.iter().map(|(view, _)| view.key().to_string());
    let objects = applied.objects.iter().map(|(key, _)| object(key.kind.as_str(), &key.name));
    let names: Vec<_> = pods.chain(objects).collect();
    About { dry_run, ..About::new(list(names.into_iter())) }
}

fn pod(namespace: &str, name: &str) -> Option<About> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    Some(About::new(PodKey::new(namespace, name).to_string()))
}

fn object(kind: &str, name: &PodKey) -> String {
    format!("{} {name}", kind.to_lowercase())
}

fn container(namespace: &str, name: &str, container: &str) -> Option<About> {
    let mut about = pod(namespace, name)?;
    if !container.is_empty() {
        about = About::new(format!("{}, container {container}", about.what));
    }
    Some(about)
}

fn selection(selector: Option<&Selector>) -> Option<About> {
    let none = Selector::default();
    let Selector { namespace, name, labels, fields } = selector.unwrap_or(&none);
    let or_all = |text: &str| if text.is_empty() { "*".to_owned() } else { text.to_owned() };
    let mut what = format!("{}/{}", or_all(namespace), or_all(name));
    for (kind, terms) in [("labels", labels), ("fields", fields)] {
        if !terms.is_empty() {
            what.push_str(&format!(", {kind} {terms}"));
        }
    }
    Some(About::new(what))
}

fn manifest(text: &str, namespace: &str, dry_run: bool) -> Option<About> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let options = ParseOptions { lenient: true, namespace: namespace.to_owned() };
    let small = Some(text).filter(|text| text.len() <= SMALL);
    let parsed = small.and_then(|text| parse(text.as_bytes(), &options).ok());
    let names = parsed.map(|parsed| list(names(&parsed).into_iter()));
    let what = names.filter(|names| !names.is_empty());
    let what = what.unwrap_or_else(|| format!("{namespace}: a manifest of {} bytes", text.len()));
    Some(About { dry_run, ..About::new(what) })
}

/// The objects in a manifest; those that are not pods are prefixed with their kind.
fn names(parsed: &Parsed) -> Vec<String> {
    let name = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        PodKey::new(text(&meta.namespace), text(&meta.name)).to_string()
    };
    let pods = parsed.pods.iter().map(|pod| name(&pod.metadata));
    let maps = parsed.config_maps.iter().map(|map| format!("configmap {}", name(&map.metadata)));
    let secrets = parsed.secrets.iter().map(|it| format!("secret {}", name(&it.metadata)));
    pods.chain(maps).chain(secrets).collect()
}

fn list(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

impl Tells for ApplyRequest {
    fn about(&self) -> Option<About> {
        manifest(&self.manifest, &self.namespace, self.dry_run)
    }
}

impl Tells for AdmitRequest {
    fn about(&self) -> Option<About> {
        manifest(&self.manifest, &self.namespace, true)
    }
}

impl Tells for DeleteRequest {
    fn about(&self) -> Option<About> {
        let about = selection(self.selector.as_ref())?;
        if !self.objects.is_empty() {
            let name = |it: &ObjectName| {
                let namespace =
                    if it.namespace.is_empty() { "default" } else { it.namespace.as_str() };
                object(&it.kind, &PodKey::new(namespace, it.name.as_str()))
            };
            let objects = list(self.objects.iter().map(name));
            // With an empty selector no pods are deleted.
            let only_objects =
                !self.all && self.selector.as_ref().is_none_or(|pods| *pods == Selector::default());
            let what = if only_objects { objects } else { format!("{}, {objects}", about.what) };
            return Some(About { dry_run: self.dry_run, ..About::new(what) });
        }
        Some(About { dry_run: self.dry_run, ..about })
    }
}

impl Tells for RestartContainerRequest {
    fn about(&self) -> Option<About> {
        container(&self.namespace, &self.name, &self.container)
    }
}

impl Tells for LogsRequest {
    fn about(&self) -> Option<About> {
        container(&self.namespace, &self.name, &self.container)
    }
}

impl Tells for ExecRequest {
    fn about(&self) -> Option<About> {
        let Some(exec_request::Input::Start(start)) = &self.input else { return None };
        container(&start.namespace, &start.name, &start.container)
    }
}

impl Tells for AttachRequest {
    fn about(&self) -> Option<About> {
        let Some(attach_request::Input::Start(start)) = &self.input else { return None };
        container(&start.namespace, &start.name, &start.container)
    }
}

impl Tells for PortForwardRequest {
    fn about(&self) -> Option<About> {
        let Some(port_forward_request::Input::Start(start)) = &self.input else { return None };
        let about = pod(&start.namespace, &start.name)?;
        Some(About::new(format!("{}, port {}", about.what, start.port)))
    }
}

impl Tells for GetRequest {
    fn about(&self) -> Option<About> {
        pod(&self.namespace, &self.name)
    }
}

impl Tells for ExplainRequest {
    fn about(&self) -> Option<About> {
        pod(&self.namespace, &self.name)
    }
}

impl Tells for GetNodeRequest {
    fn about(&self) -> Option<About> {
        None
    }
}

macro_rules! selections {
    ($($request:ty)*) => {$(
        impl Tells for $request {
            fn about(&self) -> Option<About> {
                selection(self.selector.as_ref())
            }
        }
    )*};
}

selections!(ListRequest WatchRequest StatsRequest WatchStatsRequest EventsRequest);

#[cfg(test)]
mod tests;
