//! Files and URLs that appear, change, break and disappear.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;
use tokio::time::Instant;

use super::*;

mod address;

type Wanted = Option<BTreeMap<PodKey, Given>>;

/// A watched directory.
struct House {
    dir: tempfile::TempDir,
    statics: Arc<Statics>,
    told: watch::Receiver<Wanted>,
    /// How often it was told.
    times: Arc<AtomicUsize>,
    _task: tokio::task::JoinSet<()>,
}

impl House {
    fn new(prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        prepare(dir.path());
        Self::of(dir, None, Vec::new())
    }

    fn of(dir: tempfile::TempDir, http_url: Option<Url>, last: Vec<Given>) -> Self {
        let (tell, told) = watch::channel(None);
        let options = Options {
            dir: Some(dir.path().to_owned()),
            http_url,
            http_headers: HeaderMap::new(),
            interval: Duration::from_millis(100),
            node: "node".to_owned(),
            last,
        };
        let times = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&times);
        let statics = Statics::new(options, move |wanted| {
            count.fetch_add(1, Ordering::SeqCst);
            tell.send_replace(Some(wanted));
        })
        .expect("statics");
        let mut task = tokio::task::JoinSet::new();
        task.spawn(Arc::clone(&statics).run());
        Self { dir, statics, told, times, _task: task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file atomically.
    fn put(&self, name: &str, text: &str) {
        let part = self.path(".part");
        std::fs::write(&part, text).expect("written");
        std::fs::rename(part, self.path(name)).expect("renamed");
    }

    /// Waits until these pods are requested, by name and image.
    async fn wants(&self, pods: &[(&str, &str)]) -> BTreeMap<PodKey, Given> {
        let expected: Vec<(String, String)> =
            pods.iter().map(|(name, image)| ((*name).to_owned(), (*image).to_owned())).collect();
        let mut told = self.told.clone();
        let as_expected =
            |wanted: &Wanted| wanted.as_ref().is_some_and(|wanted| shown(wanted) == expected);
        let waiting = told.wait_for(as_expected);
        if let Ok(Ok(wanted)) = tokio::time::timeout(Duration::from_secs(20), waiting).await {
            return wanted.clone().unwrap_or_default();
        }
        let last = self.told.borrow().as_ref().map(shown);
        panic!("{last:?} in place of {expected:?}; {:?}", self.statics.faults())
    }

    /// Waits for a fault of a file.
    async fn complains(&self, name: &str, why: &str) {
        let path = self.path(name);
        let there =
            || self.statics.faults().iter().any(|(of, text)| *of == path && text.contains(why));
        until(there, || format!("{name} {why}: {:?}", self.statics.faults())).await;
    }

    async fn is_content(&self) {
        until(|| self.statics.faults().is_empty(), || format!("{:?}", self.statics.faults())).await;
    }
}

async fn until(holds: impl Fn() -> bool, told: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {}", told());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn shown(wanted: &BTreeMap<PodKey, Given>) -> Vec<(String, String)> {
    let image = |given: &Given| given.spec().containers[0].image.clone().unwrap_or_default();
    wanted.iter().map(|(key, given)| (key.name.clone(), image(given))).collect()
}

fn pod(name: &str, image: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
         spec: {{containers: [{{name: c, image: '{image}'}}]}}\n"
    )
}

#[tokio::test]
async fn pods_come_change_and_go_with_their_files() {
    let house = House::new(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "i:1")).expect("written");
        std::fs::write(dir.join(".hidden.yaml"), pod("hidden", "i")).expect("written");
        std::fs::write(dir.join("a.yaml.bak"), pod("a", "old")).expect("written");
        std::fs::create_dir(dir.join("below.yaml")).expect("a folder");
        std::fs::write(dir.join("below.yaml/b.yaml"), pod("below", "i")).expect("written");
    });
    let first = house.wants(&[("a", "i:1")]).await;
    house.put("b.json", &format!("{}---\n{}", pod("b", "i"), pod("c", "i")));
    house.wants(&[("a", "i:1"), ("b", "i"), ("c", "i")]).await;
    house.put("a.yaml", &pod("a", "i:2"));
    let second = house.wants(&[("a", "i:2"), ("b", "i"), ("c", "i")]).await;
    let key = PodKey::new("default", "a");
    assert_ne!(first[&key].uid(), second[&key].uid(), "an edit makes another pod");
    assert_eq!(first[&key].spec().node_name.as_deref(), Some("node"));
    let notes = second[&key].pod.metadata.annotations.clone().expect("annotations");
    assert_eq!(notes["kubernetes.io/config.source"], "file");
    assert_eq!(notes["kubernetes.io/config.hash"], second[&key].uid());
    std::fs::remove_file(house.path("b.json")).expect("removed");
    let last = house.wants(&[("a", "i:2")]).await;
    assert_eq!(last[&key], second[&key], "what others do is nothing to it");
    house.is_content().await;
}

#[tokio::test]
async fn an_empty_folder_is_told_once() {
    let house = House::new(|_| {});
    house.wants(&[]).await;
    // It is looked at again, twice.
    house.put("a.yaml", "");
    house.complains("a.yaml", "it contains no object").await;
    std::fs::remove_file(house.path("a.yaml")).expect("removed");
    house.is_content().await;
    assert_eq!(house.times.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_version() {
    let house = House::new(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "i:1")).expect("written");
        std::fs::write(dir.join("b.yaml"), pod("b", "i:1")).expect("written");
    });
    house.wants(&[("a", "i:1"), ("b", "i:1")]).await;
    for (text, why) in [
        ("apiVersion: v1\nkind: Po", "no object of kind \"Po\""),
        ("", "it contains no object"),
        ("a: [", "unclosed bracket"),
        (&pod("a", ""), "spec.containers[0].image: Required value"),
        (&pod("../../x", "i"), "metadata.name: Invalid value"),
    ] {
        house.put("a.yaml", text);
        house.complains("a.yaml", why).await;
    }
    // The other file is still watched, and the malformed one still runs.
    house.put("b.yaml", &pod("b", "i:2"));
    house.wants(&[("a", "i:1"), ("b", "i:2")]).await;
    house.put("a.yaml", &pod("a", "i:3"));
    house.wants(&[("a", "i:3"), ("b", "i:2")]).await;
    house.is_content().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let house = House::new(|_| {});
    house.wants(&[]).await;
    let mut file = std::fs::File::create(house.path("a.yaml")).expect("created");
    file.write_all(pod("a", "i:1").as_bytes()).expect("written");
    file.sync_all().expect("on disk");
    drop(file);
    house.wants(&[("a", "i:1")]).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_trusted_changes_nothing() {
    let house =
        House::new(|dir| std::fs::write(dir.join("a.yaml"), pod("a", "i")).expect("written"));
    house.wants(&[("a", "i")]).await;
    let dir = house.dir.path().to_owned();
    let mode =
        |mode| std::fs::set_permissions(&dir, PermissionsExt::from_mode(mode)).expect("mode");
    mode(0o777);
    house.complains("", "it is writable by users other than its owner (mode 0777)").await;
    house.put("b.yaml", &pod("b", "i"));
    mode(0o700);
    house.wants(&[("a", "i"), ("b", "i")]).await;

    // Gone, and then a different empty one, as after unmounting.
    let aside = dir.with_extension("aside");
    std::fs::rename(&dir, &aside).expect("renamed");
    house.complains("", "open the manifests folder").await;
    std::fs::create_dir(&dir).expect("a folder");
    house.complains("", "it was replaced by an empty folder").await;
    assert_eq!(house.told.borrow().as_ref().map(BTreeMap::len), Some(2));
    std::fs::remove_dir(&dir).expect("removed");
    std::fs::rename(&aside, &dir).expect("renamed");
    house.is_content().await;
    house.put("b.yaml", &pod("b", "i:2"));
    house.wants(&[("a", "i"), ("b", "i:2")]).await;
}

#[tokio::test]
async fn odd_files_are_told_and_not_waited_for() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("x.yaml"), pod("x", "i")).expect("written");
    let house = House::new(|dir| {
        let make = |kind, name: &str| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, dir.join(name), kind, mode, 0).expect("made");
        };
        make(rustix::fs::FileType::Fifo, "fifo.yaml");
        make(rustix::fs::FileType::Socket, "socket.yaml");
        symlink(outside.path().join("x.yaml"), dir.join("out.yaml")).expect("linked");
        symlink("/dev/zero", dir.join("zero.yaml")).expect("linked");
        symlink("nothing", dir.join("dangling.yaml")).expect("linked");
        symlink("loop.yaml", dir.join("loop.yaml")).expect("linked");
        std::fs::File::create(dir.join("long.yaml"))
            .and_then(|f| f.set_len(1 << 40))
            .expect("long");
        std::fs::create_dir(dir.join("..data")).expect("a folder");
        std::fs::write(dir.join("..data/in.yaml"), pod("in", "i")).expect("written");
        symlink("..data/in.yaml", dir.join("in.yaml")).expect("linked");
    });
    house.wants(&[("in", "i")]).await;
    house.complains("fifo.yaml", "not a regular file").await;
    house.complains("socket.yaml", "not a regular file").await;
    house.complains("out.yaml", "a link out of the manifests folder").await;
    house.complains("zero.yaml", "a link out of the manifests folder").await;
    house.complains("dangling.yaml", "a dangling link").await;
    house.complains("loop.yaml", "open it").await;
    house.complains("long.yaml", "more than the 10485760 bytes").await;
}

#[tokio::test]
async fn the_first_file_of_a_pod_counts() {
    let house = House::new(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("p", "first")).expect("written");
        std::fs::write(dir.join("b.yaml"), pod("p", "second") + "---\n" + &pod("q", "i"))
            .expect("written");
    });
    house.wants(&[("p", "first"), ("q", "i")]).await;
    house.complains("b.yaml", "pod default/p is in").await;
    std::fs::remove_file(house.path("a.yaml")).expect("removed");
    house.wants(&[("p", "second"), ("q", "i")]).await;
    house.is_content().await;
}

#[tokio::test]
async fn objects_of_the_folder_go_to_its_pods() {
    let map = |text: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{a: {text}}}\n")
    };
    let with_map = format!(
        "{}\nspec: {{containers: [{{name: c, image: i}}], volumes: [{{name: v, configMap: {{name: m}}}}]}}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p}"
    );
    let house = House::new(|dir| std::fs::write(dir.join("p.yaml"), with_map).expect("written"));
    house.wants(&[]).await;
    house.complains("p.yaml", "spec.volumes[0].configMap.name: Not found: ConfigMap \"m\"").await;
    house.put("m.yaml", &map("one"));
    let first = house.wants(&[("p", "i")]).await;
    house.put("m.yaml", &map("two"));
    let key = PodKey::new("default", "p");
    let data = |wanted: &BTreeMap<PodKey, Given>| {
        wanted[&key].objects.config_maps["m"].data.as_ref().expect("data")["a"].clone()
    };
    let mut told = house.told.clone();
    let changed = |wanted: &Wanted| wanted.as_ref().is_some_and(|wanted| data(wanted) == "two");
    let second = told.wait_for(changed).await.expect("told").clone().expect("pods");
    assert_eq!(first[&key].uid(), second[&key].uid(), "it runs on, with the new text");
}

#[tokio::test]
async fn pods_of_the_last_run_outlive_a_file_that_is_broken_now() {
    let house = House::new(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "i")).expect("written");
        std::fs::write(dir.join("b.yaml"), pod("b", "i")).expect("written");
        std::fs::write(dir.join("c.yaml"), pod("c", "i")).expect("written");
    });
    let last = house.wants(&[("a", "i"), ("b", "i"), ("c", "i")]).await;
    house.put("a.yaml", "broken: [");
    std::fs::remove_file(house.path("c.yaml")).expect("removed");
    let House { dir, .. } = house;
    let house = House::of(dir, None, last.values().cloned().collect());
    let now = house.wants(&[("a", "i"), ("b", "i")]).await;
    for (key, given) in &now {
        assert_eq!(given, &last[key], "as old as it was");
    }
    house.complains("a.yaml", "unclosed bracket").await;
}

#[tokio::test]
async fn pods_of_the_last_run_outlive_a_folder_that_is_not_mounted_yet() {
    let house =
        House::new(|dir| std::fs::write(dir.join("a.yaml"), pod("a", "i")).expect("written"));
    let last = house.wants(&[("a", "i")]).await;
    std::fs::remove_file(house.path("a.yaml")).expect("removed");
    let House { dir, .. } = house;
    let mut house = House::of(dir, None, last.values().cloned().collect());
    let folder = house.dir.path().to_owned();
    let waits =
        || house.statics.faults().iter().any(|(of, why)| *of == folder && why.contains("mounted"));
    until(waits, || format!("{:?}", house.statics.faults())).await;
    // Far longer than two looks.
    let ended = house.told.wait_for(|wanted| wanted.as_ref().is_some_and(BTreeMap::is_empty));
    tokio::time::timeout(SETTLE * 4, ended).await.expect_err("they are kept");
    house.put("a.yaml", &pod("a", "i"));
    house.is_content().await;
    assert_eq!(house.wants(&[("a", "i")]).await, last, "as old as it was");
}

#[test]
fn an_empty_folder_is_believed_after_a_while() {
    let dir = tempfile::tempdir().expect("a folder");
    let look = |patience| {
        let folder = Folder::new(dir.path().to_owned(), patience);
        folder.look(&BTreeMap::new(), &BTreeSet::new(), SETTLE).map(|look| look.present.len())
    };
    assert!(look(MOUNTED_WITHIN).is_err());
    assert_eq!(look(Duration::ZERO), Ok(0));
    std::fs::write(dir.path().join("a.yaml"), pod("a", "i")).expect("written");
    assert_eq!(look(MOUNTED_WITHIN), Ok(1));
}

#[tokio::test]
async fn a_file_that_others_may_write_counts_as_little_as_such_a_folder() {
    use std::os::unix::fs::PermissionsExt as _;
    let house = House::new(|dir| {
        std::fs::write(dir.join("a.yaml"), pod("a", "i:1")).expect("written");
    });
    house.wants(&[("a", "i:1")]).await;
    let part = house.path(".part");
    for (mode, owner) in [(0o646, 0), (0o664, 0), (0o644, 65_534)] {
        std::fs::write(&part, pod("a", "evil")).expect("written");
        std::fs::set_permissions(&part, std::fs::Permissions::from_mode(mode)).expect("mode");
        if owner != 0 {
            if !nix::unistd::geteuid().is_root() {
                continue;
            }
            std::os::unix::fs::chown(&part, Some(owner), None).expect("owner");
        }
        std::fs::rename(&part, house.path("a.yaml")).expect("renamed");
        let why = if owner == 0 { "users other than its owner" } else { "not by root" };
        house.complains("a.yaml", why).await;
        house.wants(&[("a", "i:1")]).await;
    }
    house.put("a.yaml", &pod("a", "i:2"));
    house.wants(&[("a", "i:2")]).await;
}

#[tokio::test]
async fn a_new_file_takes_no_pod_from_another() {
    let house = House::new(|dir| {
        std::fs::write(dir.join("b.yaml"), pod("a", "i:1")).expect("written");
    });
    house.wants(&[("a", "i:1")]).await;
    house.put("a.yaml", &pod("a", "other"));
    house.complains("a.yaml", "is in").await;
    house.wants(&[("a", "i:1")]).await;
    std::fs::remove_file(house.path("b.yaml")).expect("removed");
    house.wants(&[("a", "other")]).await;
}

/// The captured log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn options(dir: Option<PathBuf>) -> Options {
    Options {
        dir,
        http_url: None,
        http_headers: HeaderMap::new(),
        interval: Duration::from_secs(1),
        node: "node".to_owned(),
        last: Vec::new(),
    }
}

#[tokio::test]
async fn a_file_that_is_ignored_is_logged_once() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["a.yaml", "web.manifest", "b", ".part"] {
        std::fs::write(dir.path().join(name), pod("a", "i")).expect("written");
    }
    std::fs::create_dir(dir.path().join("below")).expect("a folder");
    let statics = Statics::new(options(Some(dir.path().to_owned())), |_| {}).expect("statics");
    let folder = statics.folder.as_ref().expect("a folder");
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    for _ in 0..3 {
        statics.look(folder, BTreeSet::new()).await;
    }
    let text = String::from_utf8(lines.0.lock().clone()).expect("text");
    let count = |word: &str| text.matches(word).count();
    assert_eq!((count("is ignored"), count("web.manifest"), count("/b")), (2, 1, 1), "{text}");
}

#[test]
fn a_fault_is_logged_when_it_begins_and_when_it_is_over() {
    let statics = Statics::new(options(None), |_| {}).expect("statics");
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let folder = Path::new("/gone");
    tracing::subscriber::with_default(subscriber, || {
        for why in [Some("no such folder"), Some("no such folder"), Some("no room"), None, None] {
            statics.sheet().trouble(folder, why.map(str::to_owned));
            statics.publish();
        }
    });
    let text = String::from_utf8(lines.0.lock().clone()).expect("text");
    let count = |word: &str| text.matches(word).count();
    assert_eq!((count("WARN"), count("no such folder"), count("no room")), (2, 1, 1), "{text}");
    assert_eq!((count("valid again"), count("/gone")), (1, 3), "{text}");
}
