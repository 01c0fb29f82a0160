//! The leak census: everything that pods of one [`TestEnv`] can leave on the machine, counted
//! before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use containerd_client::services::v1 as containerd;
use containerd_client::services::v1::snapshots::ListSnapshotsRequest;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::tonic;
use futures::TryStreamExt;
use tonic::Request;
use tonic::transport::Channel;

use super::env::TestEnv;
use super::sweep::{all_below, cgroups_below, mounts_below, names_in, ports_of};
use super::{eventually, firewall, process};

/// How long removal may go on behind the scenes (containerd collects garbage a bit later).
const SETTLE: Duration = Duration::from_secs(60);

/// What there is, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census(BTreeMap<&'static str, BTreeSet<String>>);

impl Census {
    /// Counts now.
    pub async fn take(env: &TestEnv) -> Self {
        let mut kinds = BTreeMap::new();
        kinds.insert("network namespace", names_in(&env.netns_dir()).into_iter().collect());
        kinds.insert("veth", names_in(&ports_of(&env.bridge())).into_iter().collect());
        kinds.insert("address", addresses(env));
        kinds.insert("CNI cache", cni_cache(env));
        kinds.insert("firewall rule", firewall::rules(&env.firewall_words()));
        kinds.insert("mount", mounts_of(env));
        kinds.insert("shim", shims(env));
        kinds.insert("file of a pod", files_of_pods(env));
        kinds.insert("cgroup", cgroups(env));
        kinds.extend(in_containerd(env).await);
        Self(kinds)
    }

    /// What `self` has and `before` had not, and the other way round, a line each.
    pub fn difference(&self, before: &Self) -> String {
        let mut text = String::new();
        let none = BTreeSet::new();
        for (kind, now) in &self.0 {
            let then = before.0.get(kind).unwrap_or(&none);
            for item in now.difference(then) {
                let _never_fails = writeln!(text, "  + {kind}: {item}");
            }
            for item in then.difference(now) {
                let _never_fails = writeln!(text, "  - {kind}: {item}");
            }
        }
        text
    }

    /// What pods leave: not images and what belongs to them, and not the mounts that a test has made
    /// itself beside the agent's folders.
    fn of_pods(mut self) -> Self {
        self.0.retain(|kind, _| !["image", "content"].contains(kind));
        if let Some(mounts) = self.0.get_mut("mount") {
            let of_the_test = |mount: &String| {
                let rest = mount.strip_prefix("/tmp/pbe-").and_then(|rest| rest.split('/').nth(1));
                rest.is_some_and(|folder| !["root", "state", "netns"].contains(&folder))
            };
            mounts.retain(|mount| !of_the_test(mount));
        }
        if let Some(snapshots) = self.0.get_mut("snapshot") {
            // Those of image layers have the chain's digest for a name.
            snapshots.retain(|name| !name.starts_with("sha256:"));
        }
        self
    }

    /// Items of one kind, e.g. `veth`.
    pub fn of(&self, kind: &str) -> &BTreeSet<String> {
        self.0
            .get(kind)
            .unwrap_or_else(|| panic!("no kind {kind:?}; there are {:?}", self.0.keys()))
    }
}

/// Waits until all is again as it was `before`; panics with the difference when it is not within a
/// minute.
pub async fn assert_nothing_left(env: &TestEnv, before: &Census) {
    settle(env, before, |all| all).await;
}

/// Like [`assert_nothing_left`], of what pods leave.
pub async fn assert_no_pod_is_left(env: &TestEnv, before: &Census) {
    settle(env, before, Census::of_pods).await;
}

async fn settle(env: &TestEnv, before: &Census, counted: fn(Census) -> Census) {
    let mut difference = String::new();
    let before = counted(before.clone());
    let settled = eventually(SETTLE, async || {
        difference = counted(Census::take(env).await).difference(&before);
        difference.is_empty().then_some(())
    });
    let settled = settled.await;
    assert!(settled.is_some(), "left over after {SETTLE:?} (+ is new, - is gone):\n{difference}");
}

/// host-local names a file after each address that it has given away.
fn addresses(env: &TestEnv) -> BTreeSet<String> {
    let prefix = format!("{}.", env.subnet_prefix());
    let mut found = BTreeSet::new();
    for base in [env.ipam_dir(), "/var/lib/cni/networks".into(), env.root()] {
        let files = all_below(&base).into_iter();
        found.extend(
            files
                .filter(|path| {
                    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
                })
                .map(|path| path.display().to_string()),
        );
    }
    found
}

fn cni_cache(env: &TestEnv) -> BTreeSet<String> {
    let mine = all_below(&env.cni_cache_dir()).into_iter().filter(|path| path.is_file());
    let mut found: BTreeSet<_> = mine.map(|path| path.display().to_string()).collect();
    let shared = names_in(Path::new("/var/lib/cni/results")).into_iter();
    found.extend(shared.filter(|name| name.starts_with(&format!("{}-", env.network_name()))));
    found
}

fn mounts_of(env: &TestEnv) -> BTreeSet<String> {
    let mut found = mounts_below(env.path());
    found.extend(mounts_below(env.containerd.root()));
    // Made shared once and for all, with the first namespace.
    let netns_dir = env.netns_dir().display().to_string();
    found.retain(|point| *point != netns_dir);
    found.into_iter().collect()
}

fn shims(env: &TestEnv) -> BTreeSet<String> {
    let address = env.containerd.address().display().to_string();
    let pids = process::processes_with(&["containerd-shim", &address, env.namespace()]);
    pids.iter().map(|pid| format!("pid {pid}")).collect()
}

/// Files and folders of the agent that carry a pod's or container's id, and all FIFOs.
fn files_of_pods(env: &TestEnv) -> BTreeSet<String> {
    let pods = env.root().join("pods");
    let with_id = |path: &Path| {
        let named_by_uid = path.starts_with(&pods) && path != pods;
        named_by_uid
            || path.components().any(|part| {
                let name = part.as_os_str().to_string_lossy();
                name.split(['.', '-', '_'])
                    .any(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
            })
    };
    let is_fifo = |path: &Path| path.symlink_metadata().is_ok_and(|it| it.file_type().is_fifo());
    let all = all_below(&env.root()).into_iter().chain(all_below(&env.state()));
    all.filter(|path| with_id(path) || is_fifo(path))
        .map(|path| path.display().to_string())
        .collect()
}

fn cgroups(env: &TestEnv) -> BTreeSet<String> {
    let parent = env.cgroup_parent();
    let mine = cgroups_below(&parent).into_iter().map(|path| path.display().to_string());
    // The parent itself belongs to the caller of the CRI; those of the pods' classes stay.
    let stays = ["", "/burstable", "/besteffort"].map(|class| format!("{parent}{class}"));
    mine.filter(|path| !stays.iter().any(|stays| path.ends_with(stays))).collect()
}

/// Snapshots, containers, tasks, leases, ingests, images and content of the test's namespace.
async fn in_containerd(env: &TestEnv) -> BTreeMap<&'static str, BTreeSet<String>> {
    let address = env.containerd.address();
    let channel = containerd_client::connect(&address).await;
    let channel = channel.unwrap_or_else(|e| panic!("containerd at {address:?} is away: {e}"));
    let asked = async { ask(&channel, env).await };
    asked.await.unwrap_or_else(|e| panic!("containerd at {address:?} does not answer: {e}"))
}

async fn ask(
    channel: &Channel,
    env: &TestEnv,
) -> Result<BTreeMap<&'static str, BTreeSet<String>>, tonic::Status> {
    use containerd::containers_client::ContainersClient;
    use containerd::content_client::ContentClient;
    use containerd::images_client::ImagesClient;
    use containerd::leases_client::LeasesClient;
    use containerd::tasks_client::TasksClient;
    const LIMIT: usize = 64 << 20;

    fn named<T>(namespace: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = namespace.parse().expect("a plain namespace");
        request.metadata_mut().insert("containerd-namespace", value);
        request
    }
    let name = env.namespace();
    let mut kinds = BTreeMap::new();
    let mut put =
        |kind: &'static str, items: Vec<String>| kinds.insert(kind, items.into_iter().collect());

    let mut containers = ContainersClient::new(channel.clone()).max_decoding_message_size(LIMIT);
    let answer = containers.list(named(name, containerd::ListContainersRequest::default())).await?;
    put("container record", answer.into_inner().containers.into_iter().map(|it| it.id).collect());

    let mut tasks = TasksClient::new(channel.clone());
    let answer = tasks.list(named(name, containerd::ListTasksRequest::default())).await?;
    put("task", answer.into_inner().tasks.into_iter().map(|it| it.id).collect());

    let mut leases = LeasesClient::new(channel.clone());
    let answer = leases.list(named(name, containerd::ListRequest::default())).await?;
    put("lease", answer.into_inner().leases.into_iter().map(|it| it.id).collect());

    let mut images = ImagesClient::new(channel.clone());
    let answer = images.list(named(name, containerd::ListImagesRequest::default())).await?;
    put("image", answer.into_inner().images.into_iter().map(|it| it.name).collect());

    let mut content = ContentClient::new(channel.clone());
    let answer =
        content.list_statuses(named(name, containerd::ListStatusesRequest::default())).await?;
    put("ingest", answer.into_inner().statuses.into_iter().map(|it| it.r#ref).collect());
    let stream = content.list(named(name, containerd::ListContentRequest::default())).await?;
    let batches: Vec<_> = stream.into_inner().try_collect().await?;
    put("content", batches.into_iter().flat_map(|it| it.info).map(|it| it.digest).collect());

    let mut snapshots = SnapshotsClient::new(channel.clone());
    let request =
        ListSnapshotsRequest { snapshotter: env.snapshotter().into(), ..Default::default() };
    let stream = snapshots.list(named(name, request)).await?;
    let batches: Vec<_> = stream.into_inner().try_collect().await?;
    put("snapshot", batches.into_iter().flat_map(|it| it.info).map(|it| it.name).collect());
    Ok(kinds)
}
