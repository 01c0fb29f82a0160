//! Manifests given with `-f`: files, directories, standard input. They are only concatenated here;
//! the agent parses them.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

use super::error::Error;
use super::fetch;
use super::print::{items, text};

/// Maximum size of all manifests of one call; the agent accepts less.
const MOST: u64 = 32 << 20;

/// Where manifests are.
#[derive(Debug, Clone, Default, Args)]
pub struct Files {
    /// Manifest: file, directory of .yaml, .yml and .json files, http(s)://..., or - for standard
    /// input
    #[arg(short = 'f', long = "filename", value_name = "FILE", value_delimiter = ',')]
    #[arg(required_unless_present = "kustomize")]
    pub files: Vec<PathBuf>,
    /// Process directories recursively
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Not supported: kustomize
    #[arg(short = 'k', long, value_name = "DIR", hide = true)]
    pub kustomize: Option<PathBuf>,
}

impl Files {
    /// These files, with defaults for the other options.
    pub fn new(files: &[PathBuf], recursive: bool) -> Self {
        Self { files: files.to_vec(), recursive, kustomize: None }
    }

    /// Namespace and name of each pod in the manifests; `namespace` is the default.
    pub async fn pods(&self, namespace: &str) -> Result<Vec<(String, String)>, Error> {
        let pods = pods(&self.read().await?)?.into_iter();
        let own = |own: String| if own.is_empty() { namespace.to_owned() } else { own };
        Ok(pods.map(|(namespace, name)| (own(namespace), name)).collect())
    }

    /// All manifests as one multi-document text.
    pub async fn read(&self) -> Result<String, Error> {
        Ok(self.read_all().await?.text)
    }

    /// All manifests, with what came from where.
    pub async fn read_all(&self) -> Result<Manifests, Error> {
        if let Some(folder) = &self.kustomize {
            let folder = folder.display();
            return Err(Error::Misuse(format!(
                "-k: no kustomize support, use: kubectl kustomize {folder} | podbay apply -f -"
            )));
        }
        let mut all = Manifests::default();
        let mut left = MOST;
        for path in &self.files {
            if let Some(address) = path.to_str().filter(|text| fetch::is_address(text)) {
                let text = fetch::fetch(address, left).await?;
                left -= text.len() as u64;
                all.add(address, &text);
                continue;
            }
            if path.as_os_str() == "-" {
                all.add("-", &take(std::io::stdin().lock(), "standard input", &mut left)?);
                continue;
            }
            let mut files = vec![path.clone()];
            if std::fs::metadata(path).map_err(unreadable(path))?.is_dir() {
                files.clear();
                self.walk(path, &mut files)?;
                if files.is_empty() {
                    let why = format!("{}: contains no .yaml, .yml or .json file", path.display());
                    return Err(Error::Misuse(why));
                }
            }
            for file in files {
                all.add(&file.display().to_string(), &read(&file, &mut left)?);
            }
        }
        Ok(all)
    }

    fn walk(&self, folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Error> {
        let entries = std::fs::read_dir(folder).map_err(unreadable(folder))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<_> = paths.collect::<Result<_, _>>().map_err(unreadable(folder))?;
        paths.sort();
        for path in paths {
            let is_manifest = path
                .extension()
                .and_then(|ext| ext.to_str())
                .is_some_and(|ext| ["yaml", "yml", "json"].contains(&ext));
            let kind = std::fs::symlink_metadata(&path).map_err(unreadable(&path))?;
            if kind.is_dir() && self.recursive {
                self.walk(&path, files)?;
            } else if is_manifest && path.is_file() {
                files.push(path);
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.display().to_string();
    move |error| Error::Misuse(format!("read {path}: {error}"))
}

fn read(path: &Path, left: &mut u64) -> Result<String, Error> {
    let file = std::fs::File::open(path).map_err(unreadable(path))?;
    take(file, &path.display().to_string(), left)
}

/// Reads text within what is left of the limit, and subtracts its size.
fn take(from: impl std::io::Read, name: &str, left: &mut u64) -> Result<String, Error> {
    let mut text = String::new();
    let read = from.take(*left + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Error::Misuse(format!("read {name}: {error}")))? as u64;
    *left = left.checked_sub(read).ok_or_else(|| {
        Error::Misuse(format!("{name}: the manifests have more than {} MiB", MOST >> 20))
    })?;
    Ok(text)
}

/// Manifests as documents of one text; JSON is valid YAML.
#[derive(Debug, Default)]
pub struct Manifests {
    /// The text.
    pub text: String,
    /// Where each of them begins: the line, counted from one, and the file.
    starts: Vec<(usize, String)>,
}

impl Manifests {
    fn add(&mut self, file: &str, text: &str) {
        if !self.text.is_empty() {
            if !self.text.ends_with('\n') {
                self.text.push('\n');
            }
            self.text.push_str("---\n");
        }
        self.starts.push((self.text.matches('\n').count() + 1, file.to_owned()));
        self.text.push_str(text);
    }

    /// The file, and the line in it, of each line that a message names; nothing for a single file.
    pub fn places(&self, message: &str) -> Vec<String> {
        let digits = |rest: &str| {
            let end = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
            rest[..end].parse::<usize>().ok()
        };
        let lines: BTreeSet<usize> = message.split("line ").skip(1).filter_map(digits).collect();
        let place = |line: usize| {
            let (start, file) = self.starts.iter().rev().find(|(start, _)| *start <= line)?;
            Some(format!("line {line} is line {} of {file}", line - start + 1))
        };
        match self.starts.len() {
            0 | 1 => Vec::new(),
            _ => lines.into_iter().filter_map(place).collect(),
        }
    }
}

/// Namespace (empty if not named) and name of each pod in a manifest, in order.
pub fn pods(manifest: &str) -> Result<Vec<(String, String)>, Error> {
    named(manifest, "Pod")
}

/// Like [`pods`], for another kind.
pub fn named(manifest: &str, kind: &str) -> Result<Vec<(String, String)>, Error> {
    // Names such as `n` and `off` stay texts; the message is one line.
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(manifest, options)
        .map_err(|error| Error::Misuse(format!("manifest: {error}")))?;
    let mut pods = Vec::new();
    for document in documents {
        let listed = items(&document, "/items");
        let objects = if text(&document, "/kind").ends_with("List") {
            listed.iter().collect()
        } else {
            vec![&document]
        };
        for object in objects.into_iter().filter(|object| text(object, "/kind") == kind) {
            let name = text(object, "/metadata/name").to_owned();
            if name.is_empty() {
                let what = kind.to_lowercase();
                let why = format!("manifest: metadata.name: a {what} has no name");
                return Err(Error::Misuse(why));
            }
            pods.push((text(object, "/metadata/namespace").to_owned(), name));
        }
    }
    Ok(pods)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&Path], recursive: bool) -> Files {
        let paths: Vec<_> = paths.iter().map(|path| (*path).to_owned()).collect();
        Files::new(&paths, recursive)
    }

    #[tokio::test]
    async fn folders_are_read_in_order_and_only_manifests_of_them() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let write =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect(name);
        std::fs::create_dir_all(dir.path().join("sub")).expect("sub");
        write("b.yml", "b: 1");
        write("a.yaml", "a: 1\n");
        write("notes.txt", "no");
        write("sub/c.json", "{\"c\": 1}");
        let read = async |recursive| files(&[dir.path()], recursive).read().await.expect("read");
        assert_eq!(read(false).await, "a: 1\n---\nb: 1");
        assert_eq!(read(true).await, "a: 1\n---\nb: 1\n---\n{\"c\": 1}");
        std::fs::remove_dir_all(dir.path().join("sub")).expect("remove");
        let absent = dir.path().join("absent");
        let fault = files(&[&absent], false).read().await.expect_err("absent");
        assert_eq!(fault.exit_code(), 2);
        assert!(fault.to_string().contains("absent"), "{fault}");
        let empty = tempfile::tempdir().expect("temporary folder");
        assert!(files(&[empty.path()], false).read().await.is_err());
    }

    #[test]
    fn lines_are_those_of_their_files() {
        let mut all = Manifests::default();
        all.add("a.yaml", "a: 1\nb: 2");
        assert_eq!(all.places("line 2, column 1: bad"), [""; 0], "there is only one");
        all.add("b.yaml", "c: 3\n");
        all.add("-", "d: 4\n");
        assert_eq!(all.text, "a: 1\nb: 2\n---\nc: 3\n---\nd: 4\n");
        assert_eq!(
            all.places(
                "x: wrong (line 4, column 2); y: wrong (line 6, column 1), (line 4, column 3)"
            ),
            ["line 4 is line 1 of b.yaml", "line 6 is line 1 of -"]
        );
        assert_eq!(all.places("line up, no number"), [""; 0]);
    }

    #[test]
    fn the_limit_is_of_all_files_together() {
        let mut left = 10;
        assert_eq!(take(&b"123456"[..], "a", &mut left).expect("fits"), "123456");
        assert_eq!(take(&b"7890"[..], "b", &mut left).expect("fits"), "7890");
        assert!(
            take(&b"x"[..], "c", &mut left).expect_err("too much").to_string().starts_with("c: ")
        );
        assert!(take(&[0xff][..], "d", &mut 10).is_err());
    }

    #[test]
    fn pods_of_a_manifest() {
        let text = "kind: Pod\nmetadata: {name: a}\n---\nkind: ConfigMap\nmetadata: {name: x}\n---\n\
            kind: List\nitems:\n- {kind: Pod, metadata: {name: b, namespace: n}}\n";
        let pair = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        assert_eq!(pods(text).expect("pods"), [pair("", "a"), pair("n", "b")]);
        assert_eq!(named(text, "ConfigMap").expect("one"), [pair("", "x")]);
        assert!(pods("kind: Pod\n").is_err());
        assert!(pods("a: [").is_err());
    }
}
