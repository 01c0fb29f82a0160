//! Static pods: from the manifests directory and from a URL.
//!
//! They exist as long as their file does. While a file is malformed, half-written, unreadable or in
//! a directory that disappeared, its last valid version continues to run; only a file that is
//! really gone, seen twice, ends its pods. [`Statics::faults`] reports these problems, and they are
//! logged when they begin and when they are over.
//!
//! ```text
//! folder --look--> files that changed ---+
//! address --fetch--> text ---------------+--> Sheet: last good version of each --> sink
//! ```

mod fetch;
mod folder;
mod sheet;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use reqwest::Url;
use reqwest::header::HeaderMap;

use self::fetch::Address;
use self::folder::{Folder, Look};
use self::sheet::Sheet;
use self::watch::Watch;
use super::{Given, PodKey, Source};
use crate::clock;
use crate::locks::{Mutex, MutexGuard};

/// How long a file that was changed without notification, or is missing, must stay so before it is
/// acted on.
const SETTLE: Duration = Duration::from_millis(500);

/// How long after the start an empty directory does not end the pods of the previous run: the agent
/// may be up before the file system with the manifests is mounted.
const MOUNTED_WITHIN: Duration = Duration::from_secs(30);

/// How long notifications are gathered before a look, so that replacing many files causes few of
/// them.
const GATHER: Duration = Duration::from_millis(150);

/// The sources of static pods.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of manifests: `*.yaml`, `*.yml` and `*.json`, not recursive.
    pub dir: Option<PathBuf>,
    /// URL of a manifest.
    pub http_url: Option<Url>,
    /// Headers of its requests.
    pub http_headers: HeaderMap,
    /// Interval of checking both, independent of notifications.
    pub interval: Duration,
    /// Name of this node.
    pub node: String,
    /// The static pods of the previous run, which are kept while their file cannot be read.
    pub last: Vec<Given>,
}

/// Watches the directory and the URL, and reports the requested pods.
pub struct Statics {
    folder: Option<Folder>,
    address: Option<Address>,
    interval: Duration,
    sheet: Mutex<Sheet>,
    /// The faults that were logged.
    logged: Mutex<BTreeSet<(PathBuf, String)>>,
    /// Names of the files without a manifest's extension that were logged.
    ignored: Mutex<BTreeSet<String>>,
    sink: Box<dyn Fn(BTreeMap<PodKey, Given>) + Send + Sync>,
}

impl Statics {
    /// `sink` gets all static pods whenever one of them changes, and once at the start after a
    /// first successful look.
    ///
    /// # Errors
    /// When the HTTP client cannot be created.
    pub fn new(
        options: Options,
        sink: impl Fn(BTreeMap<PodKey, Given>) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, String> {
        let Options { dir, http_url, http_headers, interval, node, last } = options;
        let address = http_url.map(|url| Address::new(url, http_headers)).transpose()?;
        let had_files = last.iter().any(|given| given.source == Source::File);
        let patience = if had_files { MOUNTED_WITHIN } else { Duration::ZERO };
        let mut sheet = Sheet::new(node);
        let name = address.as_ref().map(Address::name);
        sheet.remember(last, |source, origin| match source {
            Source::Http => Some(origin) == name,
            _ => dir.is_some(),
        });
        Ok(Arc::new(Self {
            folder: dir.map(|dir| Folder::new(dir, patience)),
            address,
            interval,
            sheet: Mutex::new(sheet),
            logged: Mutex::default(),
            ignored: Mutex::default(),
            sink: Box::new(sink),
        }))
    }

    /// Runs until dropped, which is safe at every await.
    pub async fn run(self: Arc<Self>) {
        if self.folder.is_none() && self.address.is_none() {
            self.sheet().looked();
            self.publish();
        }
        // Concurrent, so that a slow server does not delay the folder.
        tokio::join!(self.mind_folder(), self.mind_address());
        std::future::pending().await
    }

    async fn mind_folder(&self) {
        let Some(folder) = &self.folder else { return };
        let mut watch = Watch::default();
        let mut complete = BTreeSet::new();
        loop {
            watch.keep(folder.path());
            let unsettled = self.look(folder, std::mem::take(&mut complete)).await;
            self.publish();
            let pause = if unsettled { SETTLE } else { self.interval };
            // Cancel-safe: the watch removes names only when it returns them.
            tokio::select! {
                names = watch.changed() => {
                    complete = names;
                    watch.gather(GATHER, &mut complete).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn mind_address(&self) {
        let Some(address) = &self.address else { return };
        loop {
            let text = address.fetch().await;
            self.sheet().offer(address.name(), Source::Http, text, &now());
            self.publish();
            tokio::time::sleep(self.interval).await;
        }
    }

    /// The current faults, by file, directory or URL.
    pub fn faults(&self) -> Vec<(PathBuf, String)> {
        self.sheet().faults()
    }

    /// Looks at the directory once; returns whether another look should follow soon. `complete` has
    /// the names of files that are known to be completely written.
    async fn look(&self, folder: &Folder, complete: BTreeSet<String>) -> bool {
        let known = self.sheet().stamps();
        let looking = folder.clone();
        let look = tokio::task::spawn_blocking(move || looking.look(&known, &complete, SETTLE));
        let look = match look.await {
            Ok(look) => look,
            Err(error) => Err(format!("look into the folder: {error}")),
        };
        let mut sheet = self.sheet();
        match look {
            Ok(Look { present, ignored, changed, mut unsettled }) => {
                self.log_ignored(folder, ignored);
                sheet.trouble(folder.path(), None);
                for (path, stamp, text) in changed {
                    sheet.offer(&path, Source::File, text, &now());
                    sheet.stamp(&path, stamp);
                }
                unsettled |= sheet.keep_only(&present);
                unsettled
            }
            Err(why) => {
                sheet.trouble(folder.path(), Some(why));
                false
            }
        }
    }

    /// Logs each ignored file once: a kubelet would read it.
    fn log_ignored(&self, folder: &Folder, ignored: BTreeSet<String>) {
        let mut logged = self.ignored.lock();
        for name in ignored.difference(&logged) {
            let path = folder.path().join(name);
            tracing::warn!(path = %path.display(),
                "file is ignored: its name does not end in .yaml, .yml or .json");
        }
        *logged = ignored;
    }

    fn publish(&self) {
        let wanted = self.sheet().settle();
        if let Some(wanted) = wanted {
            (self.sink)(wanted);
        }
        self.log();
    }

    /// Logs new faults, and those that are over, once each.
    fn log(&self) {
        let faults: BTreeSet<_> = self.faults().into_iter().collect();
        let mut logged = self.logged.lock();
        let (begun, over) = news(&logged, &faults);
        for (path, why) in begun {
            let path = path.display();
            tracing::warn!(%path, why, "problem in static pod manifest");
        }
        for path in over {
            tracing::info!(path = %path.display(), "static pod manifest is valid again");
        }
        *logged = faults;
    }

    fn sheet(&self) -> MutexGuard<'_, Sheet> {
        self.sheet.lock()
    }
}

/// The new faults, and the files whose faults are all over.
fn news<'a>(
    before: &'a BTreeSet<(PathBuf, String)>,
    after: &'a BTreeSet<(PathBuf, String)>,
) -> (Vec<&'a (PathBuf, String)>, BTreeSet<&'a PathBuf>) {
    let wrong: BTreeSet<_> = after.iter().map(|(path, _)| path).collect();
    let over = before.iter().map(|(path, _)| path).filter(|path| !wrong.contains(path));
    (after.difference(before).collect(), over.collect())
}

fn now() -> Time {
    let now = Timestamp::from_nanosecond(i128::from(clock::now()));
    Time(now.unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests;
