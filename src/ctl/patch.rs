//! `patch`: changes some fields of a pod.

mod strategic;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize as _;
use serde_json::Value;

use super::amend::Amend;
use super::connect::Client;
use super::error::Error;
use super::print::text;
use super::scope::{Namespace, pod_names};
use super::screen::Screen;
use crate::proto::podbay::v1::Change;

/// What `patch` takes.
#[derive(Debug, Clone, Args)]
pub struct PatchArgs {
    /// pod NAME... or pod/NAME...
    #[arg(value_name = "POD", required = true)]
    pub words: Vec<String>,
    /// The patch, JSON or YAML
    #[arg(short, long, value_name = "PATCH", required_unless_present = "patch_file")]
    pub patch: Option<String>,
    /// File with the patch
    #[arg(long, value_name = "FILE", conflicts_with = "patch")]
    pub patch_file: Option<PathBuf>,
    /// How to apply it: strategic merges lists of named entries, merge replaces lists, json is a list
    /// of operations
    #[arg(long = "type", value_name = "TYPE", default_value = "strategic")]
    pub kind: PatchType,
    /// No effect: a pod is changed as a whole
    #[arg(long, hide = true, value_name = "NAME")]
    pub subresource: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
    /// Show what would happen without changing anything
    #[arg(long)]
    pub dry_run: bool,
}

/// How a patch is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PatchType {
    /// Kubernetes' strategic merge patch.
    Strategic,
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
}

/// Patches the pods.
pub async fn patch(client: &mut Client, args: &PatchArgs, screen: Screen) -> Result<(), Error> {
    let patch = given(args)?;
    let names = pod_names(&args.words)?;
    if names.is_empty() {
        return Err(Error::Misuse("specify a pod".to_owned()));
    }
    for name in names {
        let pod = Amend { namespace: &args.namespace, name: &name, dry_run: args.dry_run };
        let (_, change) = pod.by(client, |object| apply(object, &patch, args.kind), screen).await?;
        let same = if change == Change::Unchanged { " (no change)" } else { "" };
        let end = if args.dry_run { " (dry run)" } else { "" };
        screen.print(&format!("pod/{name} patched{same}{end}\n"))?;
    }
    Ok(())
}

fn given(args: &PatchArgs) -> Result<Value, Error> {
    let text = match (&args.patch, &args.patch_file) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| Error::Misuse(format!("read {}: {error}", path.display())))?,
        (None, None) => String::new(),
    };
    // Names such as `n` and `off` stay texts; the message is one line.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(&text, options)
        .map_err(|error| Error::Misuse(format!("the patch: {error}")))
}

/// Changes a pod's object.
fn apply(object: &mut Value, patch: &Value, kind: PatchType) -> Result<(), Error> {
    let names = |object: &Value| {
        ["/kind", "/metadata/name", "/metadata/namespace", "/metadata/uid"]
            .map(|path| text(object, path).to_owned())
    };
    let before = names(object);
    match kind {
        PatchType::Json => {
            let operations = json_patch::Patch::deserialize(patch)
                .map_err(|error| Error::Misuse(format!("the patch is no list: {error}")))?;
            json_patch::patch(object, &operations)
                .map_err(|error| Error::Failed(format!("the patch: {error}")))?;
        }
        _ if !patch.is_object() => {
            return Err(Error::Misuse("the patch must be an object".to_owned()));
        }
        PatchType::Merge => json_patch::merge(object, patch),
        PatchType::Strategic => strategic::merge(object, patch).map_err(Error::Misuse)?,
    }
    if names(object) == before {
        Ok(())
    } else {
        let why = "the patch: kind, name, namespace and uid of a pod cannot be changed";
        Err(Error::Misuse(why.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(kind: PatchType, patch: Value) -> Result<Value, Error> {
        let mut pod = json!({
            "kind": "Pod", "metadata": {"name": "web", "labels": {"a": "1"}},
            "spec": {"containers": [{"name": "app", "image": "i:1"}, {"name": "b", "image": "j"}]},
        });
        apply(&mut pod, &patch, kind)?;
        Ok(pod)
    }

    #[test]
    fn types_differ_in_lists() {
        let image = json!({"spec": {"containers": [{"name": "app", "image": "i:2"}]}});
        let pod = patched(PatchType::Strategic, image.clone()).expect("patched");
        let both = json!([{"name": "app", "image": "i:2"}, {"name": "b", "image": "j"}]);
        assert_eq!(pod["spec"]["containers"], both);
        let pod = patched(PatchType::Merge, image.clone()).expect("patched");
        assert_eq!(pod["spec"]["containers"], image["spec"]["containers"]);
        let steps = json!([
            {"op": "test", "path": "/spec/containers/0/name", "value": "app"},
            {"op": "replace", "path": "/spec/containers/0/image", "value": "i:2"},
            {"op": "remove", "path": "/metadata/labels"},
        ]);
        let pod = patched(PatchType::Json, steps).expect("patched");
        assert_eq!((&pod["spec"]["containers"], pod["metadata"].get("labels")), (&both, None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let step = |op: &str, path: &str| json!([{"op": op, "path": path, "value": 1}]);
        for (kind, patch, code) in [
            (PatchType::Strategic, json!([]), 2),
            (PatchType::Merge, json!("x"), 2),
            (PatchType::Merge, json!({"metadata": {"name": "other"}}), 2),
            (PatchType::Json, json!({}), 2),
            (PatchType::Json, step("jump", "/a"), 2),
            (PatchType::Json, step("test", "/metadata/name"), 1),
        ] {
            let fault = patched(kind, patch.clone()).expect_err("refused");
            assert_eq!(fault.exit_code(), code, "{patch}: {fault}");
        }
    }
}
