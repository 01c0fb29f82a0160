use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pod::{Given, Objects, Source};

const MI: u64 = 1 << 20;

/// A pod with one container `web` with these requests, which uses this much memory.
fn pod(name: &str, priority: i32, request: &str, memory: u64) -> PodUse {
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {"priority": priority, "containers": [{
            "name": "web", "image": "web",
            "resources": {"requests": {"memory": request, "ephemeral-storage": request}},
        }]},
    });
    with(pod, memory)
}

fn with(pod: serde_json::Value, memory: u64) -> PodUse {
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let given = Given { pod: Arc::new(pod), objects: Objects::default(), source: Source::Api };
    let web = ContainerUse { memory: Some(memory), ..ContainerUse::default() };
    PodUse {
        given: Arc::new(given),
        memory: Some(memory),
        processes: None,
        containers: [("web".to_owned(), web)].into(),
        empty_dirs: BTreeMap::new(),
        files: Disk::default(),
    }
}

fn order(signal: Signal, pods: Vec<PodUse>, own: bool) -> Vec<String> {
    rank(signal, pods, own).iter().map(|pod| pod.given.uid().to_owned()).collect()
}

fn seen(signal: Signal, available: u64, capacity: u64) -> Observations {
    [(signal, Observation { available, capacity })].into()
}

#[test]
fn memory_goes_by_excess_then_priority_then_what_is_beyond_the_request() {
    let pods = vec![
        pod("modest-low", 0, "100Mi", 90 * MI),
        pod("over-high", 10, "10Mi", 900 * MI),
        pod("over-little", 0, "800Mi", 801 * MI),
        pod("over-much", 0, "10Mi", 100 * MI),
        pod("exactly", -5, "100Mi", 100 * MI),
    ];
    assert_eq!(
        order(Signal::MemoryAvailable, pods, false),
        ["over-much", "over-little", "over-high", "exactly", "modest-low"]
    );
}

#[test]
fn a_pod_of_which_nothing_is_known_goes_first() {
    let mut unknown = pod("unknown", 100, "1Gi", 0);
    unknown.memory = None;
    let pods = vec![pod("over", -9, "0", 5 * MI), unknown];
    assert_eq!(order(Signal::MemoryAvailable, pods, false), ["unknown", "over"]);
}

#[test]
fn disks_go_by_what_is_on_them() {
    let disk = |layer: u64, logs: u64, dir: u64| {
        let name = format!("{layer}-{logs}-{dir}");
        let mut pod = with(
            json!({
                "metadata": {"name": name, "uid": name},
                "spec": {
                    "containers": [{"name": "web"}],
                    "volumes": [{"name": "d", "emptyDir": {}},
                                {"name": "m", "emptyDir": {"medium": "Memory"}}],
                },
            }),
            0,
        );
        let bytes = |bytes| Disk { bytes, inodes: 100 - bytes };
        let web = pod.containers.get_mut("web").unwrap();
        (web.layer, web.logs) = (bytes(layer), bytes(logs));
        pod.empty_dirs.insert("d".to_owned(), bytes(dir));
        // A volume in memory does not count for disks.
        pod.empty_dirs.insert("m".to_owned(), Disk { bytes: 1000 - layer, inodes: 1000 });
        pod
    };
    let pods = || vec![disk(1, 2, 30), disk(20, 3, 4), disk(5, 25, 1)];
    let sorted = |signal, own| order(signal, pods(), own).join(" ");
    assert_eq!(sorted(Signal::NodefsAvailable, false), "1-2-30 5-25-1 20-3-4");
    assert_eq!(sorted(Signal::ImagefsAvailable, false), "1-2-30 5-25-1 20-3-4");
    assert_eq!(sorted(Signal::NodefsAvailable, true), "1-2-30 5-25-1 20-3-4");
    assert_eq!(sorted(Signal::ImagefsAvailable, true), "20-3-4 5-25-1 1-2-30");
    assert_eq!(sorted(Signal::ImagefsInodesFree, true), "1-2-30 5-25-1 20-3-4");
}

#[test]
fn process_ids_go_by_priority_first() {
    let pids = |name, priority, processes| PodUse {
        processes: Some(processes),
        ..pod(name, priority, "0", 0)
    };
    let pods = vec![pids("high", 5, 1000), pids("few", 0, 2), pids("many", 0, 50)];
    assert_eq!(order(Signal::PidAvailable, pods, false), ["many", "few", "high"]);
}

proptest! {
    #[test]
    fn ranking_keeps_all_and_never_puts_a_modest_pod_before_a_greedy_one(
        all in prop::collection::vec((-3i32..3, 0u64..5, 0u64..5), 0..12),
    ) {
        let pods: Vec<_> = all
            .iter()
            .map(|(priority, request, used)| pod("p", *priority, &request.to_string(), *used))
            .collect();
        let ranked = rank(Signal::MemoryAvailable, pods, false);
        prop_assert_eq!(ranked.len(), all.len());
        let greedy = |pod: &PodUse| {
            let requests = crate::pod::translate::pod_requests(pod.given.spec());
            pod.memory.unwrap() > requests["memory"] as u64
        };
        let first_modest = ranked.iter().position(|pod| !greedy(pod)).unwrap_or(ranked.len());
        prop_assert!(ranked[first_modest..].iter().all(|pod| !greedy(pod)));
    }
}

#[test]
fn thresholds_are_written_as_the_kubelet_has_them() {
    for text in [
        "memory.available<100Mi",
        "nodefs.available<10%",
        "nodefs.inodesFree<5%",
        "imagefs.available<15%",
        "pid.available<1k",
        "imagefs.inodesFree<2.5%",
    ] {
        assert_eq!(text.parse::<Threshold>().unwrap().to_string(), text);
    }
    let all: Vec<_> = defaults().iter().map(Threshold::to_string).collect();
    assert_eq!(
        all.join(","),
        "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,\
         imagefs.available<15%,imagefs.inodesFree<5%"
    );
    for bad in [
        "",
        "memory.available",
        "memory.available<",
        "memory<1",
        "memory.available>1",
        "nodefs.available<0%",
        "nodefs.available<100%",
        "nodefs.available<NaN%",
        "nodefs.available<x%",
        "memory.available<-1",
        "memory.available<1X",
    ] {
        let error = bad.parse::<Threshold>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{bad:?} is not a threshold")), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn pressure_is_held_after_the_shortage() {
    let mut signals = Signals::new(defaults(), Duration::from_secs(300));
    let low = seen(Signal::MemoryAvailable, 100 * MI - 1, 1 << 30);
    let fine = seen(Signal::MemoryAvailable, 100 * MI, 1 << 30);
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(signals.note(&fine, at(0)), (vec![], Pressure::default()));
    let memory = Pressure { memory: true, ..Pressure::default() };
    assert_eq!(signals.note(&low, at(10)), (vec![Signal::MemoryAvailable], memory));
    assert_eq!(signals.note(&fine, at(20)), (vec![], memory));
    assert_eq!(signals.note(&fine, at(309)), (vec![], memory));
    assert_eq!(signals.note(&fine, at(310)), (vec![], Pressure::default()));
}

#[tokio::test(start_paused = true)]
async fn the_most_urgent_comes_first_and_what_is_not_counted_is_never_low() {
    let mut signals = Signals::new(defaults(), Duration::from_secs(300));
    let mut all = seen(Signal::MemoryAvailable, 0, 1);
    all.extend(seen(Signal::ImagefsAvailable, 14, 100));
    all.extend(seen(Signal::NodefsAvailable, 10, 100));
    all.extend(seen(Signal::NodefsInodesFree, 0, 0));
    let (met, pressure) = signals.note(&all, Instant::now());
    assert_eq!(met, [Signal::MemoryAvailable, Signal::ImagefsAvailable]);
    assert_eq!(pressure, Pressure { memory: true, disk: true, pid: false });
    let pid = "pid.available<10%".parse().unwrap();
    let mut signals = Signals::new(vec![pid], Duration::ZERO);
    let (met, pressure) = signals.note(&seen(Signal::PidAvailable, 9, 100), Instant::now());
    assert_eq!((met.len(), pressure.pid), (1, true));
}

#[test]
fn local_limits_are_those_of_volumes_pods_and_containers() {
    let pod = |layer: u64, logs: u64, disk: u64, memory: u64| {
        let mut pod = with(
            json!({
                "metadata": {"name": "p", "uid": "p"},
                "spec": {
                    "containers": [{"name": "web", "resources": {
                        "limits": {"ephemeral-storage": "10Mi"},
                    }}],
                    "volumes": [
                        {"name": "d", "emptyDir": {"sizeLimit": "8Mi"}},
                        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Ki"}},
                        {"name": "none", "emptyDir": {"sizeLimit": "0"}},
                    ],
                },
            }),
            0,
        );
        let bytes = |bytes| Disk { bytes, inodes: 1 };
        let web = pod.containers.get_mut("web").unwrap();
        (web.layer, web.logs) = (bytes(layer), bytes(logs));
        for (name, used) in [("d", disk), ("m", memory), ("none", 1)] {
            pod.empty_dirs.insert(name.to_owned(), bytes(used));
        }
        pod
    };
    assert_eq!(over_limits(&pod(MI, MI, 7 * MI, MI)), None);
    assert_eq!(
        over_limits(&pod(0, 0, 8 * MI + 1, 0)).unwrap(),
        "Usage of EmptyDir volume \"d\" exceeds the limit \"8Mi\". "
    );
    assert_eq!(
        over_limits(&pod(0, 0, 0, MI + 1)).unwrap(),
        "Usage of EmptyDir volume \"m\" exceeds the limit \"1Mi\". "
    );
    assert_eq!(
        over_limits(&pod(2 * MI, MI, 8 * MI, 0)).unwrap(),
        "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
    );
    // So does what it writes to the files that podbay makes for it.
    let mut scribbling = pod(2 * MI, MI, 7 * MI, 0);
    scribbling.files = Disk { bytes: 1, inodes: 1 };
    assert!(over_limits(&scribbling).unwrap().starts_with("Pod ephemeral local storage usage"));
    // The second container raises the pod's total, but not the first one's own limit.
    let mut two = pod(6 * MI, 5 * MI, 0, 0);
    let mut given = Given::clone(&two.given);
    let spec = Arc::make_mut(&mut given.pod).spec.as_mut().unwrap();
    let mut second = spec.containers[0].clone();
    second.name = "db".to_owned();
    spec.containers.push(second);
    two.given = Arc::new(given);
    assert_eq!(
        over_limits(&two).unwrap(),
        "Container web exceeded its local ephemeral storage limit \"10Mi\". "
    );
}

/// A node whose disk is freed by reclaiming and whose memory never is.
struct Fake {
    seen: Mutex<Observations>,
    after_reclaim: Option<Observations>,
    pods: Vec<PodUse>,
    reclaimed: Mutex<usize>,
    evicted: Mutex<Vec<(String, String)>>,
    hangs: bool,
}

#[async_trait]
impl Node for Fake {
    async fn observe(&self) -> Observations {
        self.seen.lock().clone()
    }

    async fn pods(&self) -> Vec<PodUse> {
        self.pods.clone()
    }

    async fn reclaim(&self) {
        *self.reclaimed.lock() += 1;
        if let Some(after) = &self.after_reclaim {
            *self.seen.lock() = after.clone();
        }
    }

    async fn evict(&self, uid: &str, message: String) {
        self.evicted.lock().push((uid.to_owned(), message));
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }
}

fn node(seen: Observations, pods: Vec<PodUse>) -> Fake {
    Fake {
        seen: Mutex::new(seen),
        after_reclaim: None,
        pods,
        reclaimed: Mutex::default(),
        evicted: Mutex::default(),
        hangs: false,
    }
}

#[tokio::test(start_paused = true)]
async fn one_pod_a_round_is_evicted_and_critical_ones_never() {
    let critical = pod("critical", 2_000_000_000, "0", 500 * MI);
    let mut fixed = pod("static", 0, "0", 500 * MI);
    let given = Given { source: Source::File, ..Given::clone(&fixed.given) };
    fixed.given = Arc::new(given);
    let pods = vec![critical, fixed, pod("web", 0, "10Mi", 64 * MI), pod("db", 0, "1Gi", MI)];
    let fake = Arc::new(node(seen(Signal::MemoryAvailable, 50 * MI, 1 << 30), pods));
    let evictor = Evictor::new(fake.clone(), EvictionOptions::default());
    let mut pressure = evictor.pressure();
    evictor.round().await;
    assert!(pressure.has_changed().unwrap() && pressure.borrow_and_update().memory);
    let evicted = fake.evicted.lock().clone();
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].0, "web");
    assert_eq!(
        evicted[0].1,
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
         Container web was using 64Mi, request is 10Mi, has larger consumption of memory. "
    );
    assert_eq!(*fake.reclaimed.lock(), 0, "removing files frees no memory");
    evictor.round().await;
    assert!(!pressure.has_changed().unwrap());
}

#[tokio::test(start_paused = true)]
async fn disk_is_freed_without_a_pod_where_that_is_enough() {
    let low = || seen(Signal::ImagefsAvailable, 10, 100);
    let mut freed = node(low(), vec![pod("web", 0, "0", MI)]);
    freed.after_reclaim = Some(seen(Signal::ImagefsAvailable, 40, 100));
    let freed = Arc::new(freed);
    let evictor = Evictor::new(freed.clone(), EvictionOptions::default());
    evictor.round().await;
    assert!(freed.evicted.lock().is_empty());
    assert!(evictor.pressure().borrow().disk, "held for a while");

    let full = Arc::new(node(low(), vec![pod("web", 0, "0", MI)]));
    Evictor::new(full.clone(), EvictionOptions::default()).round().await;
    assert_eq!(*full.reclaimed.lock(), 1);
    let evicted = full.evicted.lock().clone();
    assert_eq!(
        evicted[0].1,
        "The node was low on resource: ephemeral-storage. Threshold quantity: 15, available: 10. "
    );
}

#[tokio::test(start_paused = true)]
async fn who_is_over_its_own_limits_goes_on_a_node_that_has_enough() {
    let mut fat = with(
        json!({
            "metadata": {"name": "fat", "uid": "fat"},
            "spec": {
                "containers": [{"name": "web"}],
                "volumes": [{"name": "d", "emptyDir": {"sizeLimit": "1Ki"}}],
            },
        }),
        0,
    );
    fat.empty_dirs.insert("d".to_owned(), Disk { bytes: 1025, inodes: 1 });
    let greedy = pod("greedy", 0, "0", 900 * MI);
    let fake = Arc::new(node(seen(Signal::MemoryAvailable, MI, 1 << 30), vec![greedy, fat]));
    Evictor::new(fake.clone(), EvictionOptions::default()).round().await;
    let evicted = fake.evicted.lock().clone();
    // The node is looked after in the next round, when it is known what this one freed.
    assert_eq!(evicted.len(), 1);
    assert_eq!(evicted[0].0, "fat");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_go_does_not_stop_the_rounds() {
    let mut fake = node(seen(Signal::MemoryAvailable, 0, 1 << 30), vec![pod("web", 0, "0", MI)]);
    fake.hangs = true;
    let begin = Instant::now();
    Evictor::new(Arc::new(fake), EvictionOptions::default()).round().await;
    assert_eq!(begin.elapsed(), GONE_WITHIN);
}
