//! `edit`: edits a pod in the caller's editor.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::amend::{Amend, bare};
use super::connect::Client;
use super::error::Error;
use super::get;
use super::print::yaml;
use super::scope::{Namespace, pod_names};
use super::screen::Screen;
use crate::proto::podbay::v1::Change;

const HEAD: &str = "\
# Please edit the pod below. Lines beginning with '#' are ignored, and an empty file ends the edit.
# Fields that cannot be changed while the pod runs are refused.
#
";

/// What `edit` takes.
#[derive(Debug, Clone, Args)]
pub struct EditArgs {
    /// pod NAME or pod/NAME
    #[arg(value_name = "POD", required = true)]
    pub words: Vec<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
}

/// Opens the pod in $KUBE_EDITOR, $EDITOR or vi, and applies the result.
pub async fn edit(client: &mut Client, args: &EditArgs, screen: Screen) -> Result<(), Error> {
    let names = pod_names(&args.words)?;
    let [name] = names.as_slice() else {
        return Err(Error::Misuse("edit takes one pod: pod NAME or pod/NAME".to_owned()));
    };
    let pod = get::pod(client, &args.namespace, name).await?.unwrap_or_default();
    let before = bare(&pod)?;
    let text = format!("{HEAD}{}", yaml(&before));
    let file = write(&text)?;
    let edited = run_editor(&file);
    let after = edited.and_then(|()| {
        let read = |error| Error::Misuse(format!("read {}: {error}", file.display()));
        std::fs::read_to_string(&file).map_err(read)
    })?;
    let lines = after.lines().filter(|line| !line.trim_start().starts_with('#'));
    if after == text || lines.map(str::trim).all(str::is_empty) {
        let _ = std::fs::remove_file(&file);
        screen.note("Edit cancelled, no changes made.");
        return Ok(());
    }
    // The edited text is kept when it is refused.
    let keep = |error: Error| {
        screen.note(&format!("A copy of your changes has been stored to {}", file.display()));
        error
    };
    let manifest: Value = serde_saphyr::from_str(&after)
        .map_err(|error| keep(Error::Misuse(format!("the edited pod: {error}"))))?;
    let amend = Amend { namespace: &args.namespace, name, dry_run: false };
    let change = amend.send(client, &pod, &manifest, screen).await.map_err(keep)?;
    let _ = std::fs::remove_file(&file);
    let done = if change == Change::Unchanged { "unchanged" } else { "edited" };
    screen.print(&format!("pod/{name} {done}\n"))
}

/// Writes a file that nobody else can read, since a pod may contain secrets.
fn write(text: &str) -> Result<PathBuf, Error> {
    let path =
        std::env::temp_dir().join(format!("podbay-edit-{:016x}.yaml", rand::random::<u64>()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::local(format!("make {}", path.display())))?;
    file.write_all(text.as_bytes()).map_err(Error::local(format!("write {}", path.display())))?;
    Ok(path)
}

fn run_editor(file: &Path) -> Result<(), Error> {
    let named = |name| std::env::var(name).ok().filter(|editor| !editor.trim().is_empty());
    let editor = named("KUBE_EDITOR").or_else(|| named("EDITOR")).unwrap_or("vi".to_owned());
    // The variable may have arguments, as in `code --wait`.
    let status = std::process::Command::new("sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file)
        .status()
        .map_err(Error::local(format!("run the editor {editor}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed(format!("the editor {editor} exited with {status}; see {}", file.display())))
}
