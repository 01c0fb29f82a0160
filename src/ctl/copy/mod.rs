//! `cp`: copies files to and from containers, as a tar archive through a command there.

mod archive;
mod stream;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use tokio::sync::mpsc;

use self::archive::Unpacked;
use self::stream::{Running, run};
use super::connect::Client;
use super::container::chosen;
use super::error::Error;
use super::scope::Namespace;
use super::screen::Screen;

/// Number of queued pieces of an archive.
const AHEAD: usize = 16;

/// What `cp` takes.
#[derive(Debug, Clone, Args)]
pub struct CopyArgs {
    /// Source: local path, POD:PATH or NAMESPACE/POD:PATH
    #[arg(value_name = "FROM")]
    pub from: Place,
    /// Destination, in the same form; exactly one of the two must be in a pod
    #[arg(value_name = "TO")]
    pub to: Place,
    /// Container [default: the one in annotation kubectl.kubernetes.io/default-container, or the
    /// first]
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// The namespace.
    #[command(flatten)]
    pub namespace: Namespace,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A local path.
    Here(PathBuf),
    /// A path in a container.
    Pod {
        /// Namespace, if given.
        namespace: Option<String>,
        /// The pod.
        pod: String,
        /// The path in the container.
        path: String,
    },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path with a colon is recognised by its start.
        let pod = text.split_once(':').filter(|_| !text.starts_with(['/', '.']));
        let Some((pod, path)) = pod else {
            return match text {
                "" => Err("a path is missing".to_owned()),
                path => Ok(Self::Here(path.into())),
            };
        };
        let (namespace, pod) = match pod.split_once('/') {
            Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
            None => (None, pod),
        };
        if pod.is_empty() || pod.contains('/') || namespace.as_deref() == Some("") {
            return Err(format!("{text:?}: not POD:PATH or NAMESPACE/POD:PATH"));
        }
        if path.is_empty() {
            return Err(format!("{text:?}: a path in the pod is missing"));
        }
        Ok(Self::Pod { namespace, pod: pod.to_owned(), path: path.to_owned() })
    }
}

/// The container that files are copied to or from.
struct Far {
    namespace: String,
    pod: String,
    container: String,
    path: String,
}

impl Far {
    /// Namespace (if named), pod and path; a container chosen by default is reported.
    async fn of(
        client: &mut Client,
        args: &CopyArgs,
        namespace: Option<&str>,
        pod: &str,
        path: &str,
        screen: Screen,
    ) -> Self {
        let namespace = namespace.or(args.namespace.namespace.as_deref()).map(str::to_owned);
        let namespace = Namespace { namespace };
        let named = args.container.as_deref();
        Self {
            container: chosen(client, &namespace, pod, named, screen).await,
            namespace: namespace.of(client),
            pod: pod.to_owned(),
            path: path.to_owned(),
        }
    }
}

/// Copies files in either direction.
pub async fn copy(client: &mut Client, args: &CopyArgs, screen: Screen) -> Result<(), Error> {
    match (&args.from, &args.to) {
        (Place::Here(from), Place::Pod { namespace, pod, path }) => {
            let far = Far::of(client, args, namespace.as_deref(), pod, path, screen).await;
            upload(client, from, &far, screen).await
        }
        (Place::Pod { namespace, pod, path }, Place::Here(to)) => {
            let far = Far::of(client, args, namespace.as_deref(), pod, path, screen).await;
            download(client, &far, to, screen).await
        }
        _ => {
            Err(Error::Misuse("one of the two must be POD:PATH, the other a local path".to_owned()))
        }
    }
}

/// Directory and last component of a path in a container; `.` if there is no last component.
fn split(path: &str) -> (String, String) {
    let trimmed = path.trim_end_matches('/');
    let (folder, name) = match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((folder, name)) => (folder, name),
        None if path.starts_with('/') => return ("/".to_owned(), ".".to_owned()),
        None => (".", trimmed),
    };
    match name {
        "" | "." | ".." => (trimmed.to_owned(), ".".to_owned()),
        name => (folder.to_owned(), name.to_owned()),
    }
}

async fn upload(client: &mut Client, from: &Path, far: &Far, screen: Screen) -> Result<(), Error> {
    let read = |error| Error::Misuse(format!("read {}: {error}", from.display()));
    std::fs::symlink_metadata(from).map_err(read)?;
    let whole = std::fs::canonicalize(from).map_err(read)?;
    let own = whole.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::Misuse(format!("{}: has no name that can be copied", from.display()))
    })?;
    // Into an existing directory, else under the given name.
    let (folder, name) = if is_folder(client, far).await? {
        (far.path.clone(), own.to_owned())
    } else {
        split(&far.path)
    };
    let name = if name == "." { own.to_owned() } else { name };
    let _progress = screen.spinner(&format!("copying {} to {}", from.display(), far.pod));
    let (sender, receiver) = mpsc::channel(AHEAD);
    let packing = tokio::task::spawn_blocking(move || archive::pack(&whole, &name, sender));
    // A directory whose name begins with a dash must not be taken for an option.
    let command = ["tar", "-xmf", "-", "-C", &dashed(&folder)].map(str::to_owned);
    let mut running = run(client, far, &command, Some(receiver)).await?;
    let unpacked = running.end("unpack in the container").await;
    // An error of the remote side is more relevant than that it stopped reading.
    let packed = packing.await.map_err(|_| Error::Failed("packing failed".to_owned()))?;
    unpacked?;
    let skipped = packed.map_err(Error::local(format!("read {}", from.display())))?;
    skipped.iter().for_each(|path| screen.note(&format!("warning: skipping {path}")));
    Ok(())
}

fn dashed(path: &str) -> String {
    if path.starts_with('-') { format!("./{path}") } else { path.to_owned() }
}

async fn is_folder(client: &mut Client, far: &Far) -> Result<bool, Error> {
    let command = ["test", "-d", &dashed(&far.path)].map(str::to_owned);
    let mut running = run(client, far, &command, None).await?;
    Ok(running.code().await? == 0)
}

async fn download(client: &mut Client, far: &Far, to: &Path, screen: Screen) -> Result<(), Error> {
    let (folder, name) = split(&far.path);
    // Under its own name into an existing directory, else under the given name.
    let (into, as_name) = if to.is_dir() {
        (to.to_owned(), (name != ".").then(|| name.clone()))
    } else {
        let own = to
            .file_name()
            .and_then(|own| own.to_str())
            .ok_or_else(|| Error::Misuse(format!("{}: has no name to copy to", to.display())))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")).to_owned(), Some(own.to_owned()))
    };
    if !into.is_dir() {
        return Err(Error::Misuse(format!("{}: no such directory", into.display())));
    }
    let _progress = screen.spinner(&format!("copying {} of {}", far.path, far.pod));
    let command = ["tar", "-cf", "-", "-C", &dashed(&folder), &dashed(&name)].map(str::to_owned);
    let mut running = run(client, far, &command, None).await?;
    let (sender, receiver) = mpsc::channel(AHEAD);
    let unpacking = tokio::task::spawn_blocking(move || {
        archive::unpack(receiver, &into, &name, as_name.as_deref())
    });
    let packed = running.output(sender).await;
    let unpacked = unpacking.await.map_err(|_| Error::Failed("unpacking failed".to_owned()))?;
    let Unpacked { files, skipped } =
        unpacked.map_err(Error::local(format!("write {}", to.display())))?;
    skipped.iter().for_each(|why| screen.note(&format!("warning: {why}")));
    packed?;
    match (files, skipped.len()) {
        (0, 0) => Err(Error::NotFound(format!("{}: the pod sent nothing", far.path))),
        _ => Ok(()),
    }
}

impl Running {
    /// Waits for a successful end.
    async fn end(&mut self, what: &str) -> Result<(), Error> {
        match self.code().await? {
            0 => Ok(()),
            code => Err(self.failed(what, code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let pod = |namespace: Option<&str>, pod: &str, path: &str| Place::Pod {
            namespace: namespace.map(str::to_owned),
            pod: pod.to_owned(),
            path: path.to_owned(),
        };
        let rows = [
            ("web:/a", pod(None, "web", "/a")),
            ("ns/web:a:b", pod(Some("ns"), "web", "a:b")),
            ("/a:b", Place::Here("/a:b".into())),
            ("./a:b", Place::Here("./a:b".into())),
            ("a", Place::Here("a".into())),
        ];
        for (text, place) in rows {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for bad in ["", ":/a", "web:", "/web", "a/b/c:/d", "/", "n/:/a"] {
            let here = bad.starts_with('/');
            assert_eq!(bad.parse::<Place>().is_ok(), here, "{bad}");
        }
    }

    #[test]
    fn paths_are_split_at_their_last_name() {
        let rows = [
            ("/etc/hosts", ("/etc", "hosts")),
            ("/etc/", ("/", "etc")),
            ("a", (".", "a")),
            ("a/b", ("a", "b")),
            ("/", ("/", ".")),
            ("/a/..", ("/a/..", ".")),
            (".", (".", ".")),
        ];
        for (path, (folder, name)) in rows {
            assert_eq!(split(path), (folder.to_owned(), name.to_owned()), "{path}");
        }
    }
}
