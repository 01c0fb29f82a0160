use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::*;
use crate::pod::Source;

fn hub(window: usize, queue: usize) -> Arc<Hub> {
    let options = HubOptions { window, queue, ..HubOptions::default() };
    Arc::new(Hub::new(Revision { epoch: "e".into(), number: 100 }, options))
}

pub(super) fn view(name: &str, phase: &str) -> PodView {
    let pod = Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            uid: Some(format!("uid-{name}")),
            labels: Some([("app".to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        status: Some(PodStatus { phase: Some(phase.into()), ..PodStatus::default() }),
        ..Pod::default()
    };
    let revision = Revision { epoch: String::new(), number: 0 };
    PodView { pod: Arc::new(pod), source: Source::Api, revision }
}

fn running() -> Selector {
    Selector { fields: "status.phase=Running".into(), ..Selector::default() }
}

/// `+` added, `~` modified, `-` deleted, `.` bookmark; with name, phase and number.
fn short(event: &WatchEvent) -> String {
    let (sign, view) = match event {
        WatchEvent::Added(view) => ('+', view),
        WatchEvent::Modified(view) => ('~', view),
        WatchEvent::Deleted(view) => ('-', view),
        WatchEvent::Bookmark(revision) => return format!(".{}", revision.number),
    };
    let phase = view.pod.status.as_ref().and_then(|status| status.phase.clone());
    format!("{sign}{} {} {}", view.key().name, phase.unwrap_or_default(), view.revision.number)
}

/// The events that can be read without waiting.
pub(super) fn ready(watch: &mut Watch) -> Vec<String> {
    let mut got = Vec::new();
    while let Some(next) = watch.next().now_or_never() {
        match next {
            Some(Ok(event)) => got.push(short(&event)),
            Some(Err(error)) => got.push(format!("{error}")),
            None => {
                got.push("end".into());
                break;
            }
        }
    }
    got
}

#[tokio::test]
async fn the_state_and_then_each_change() {
    let hub = hub(16, 16);
    hub.publish(view("b", "Pending"));
    hub.publish(view("a", "Pending"));
    let mut watch = hub.watch(&Selector::default(), None).unwrap();
    hub.publish(view("a", "Running"));
    hub.gone(&view("b", "").key());
    let expected = ["+a Pending 102", "+b Pending 101", ".102", "~a Running 103", "-b Pending 104"];
    assert_eq!(ready(&mut watch), expected);
    assert_eq!(hub.revision().number, 104);
    assert!(hub.gone(&view("b", "").key()).is_none());
    assert_eq!(hub.revision().number, 104, "what is not there is not gone again");
}

#[tokio::test]
async fn a_view_is_stamped_and_the_same_again_is_no_change() {
    let hub = hub(16, 16);
    let first = hub.publish(view("a", "Running"));
    assert_eq!(first.pod.metadata.resource_version.as_deref(), Some("101"));
    assert_eq!(hub.get(&first.key()), Some(first.clone()));
    assert_eq!(hub.publish(view("a", "Running")), first);
    assert_eq!(hub.publish(first.clone()), first);
    let mut ahead = view("a", "Succeeded");
    ahead.revision.number = 150;
    assert_eq!(hub.publish(ahead).revision.number, 150, "the store's number counts");
    let last = hub.gone(&first.key()).unwrap();
    assert_eq!(last.pod.metadata.resource_version.as_deref(), Some("151"));
    assert_eq!(hub.get(&first.key()), None);
}

#[tokio::test]
async fn pods_of_an_agent_before_keep_their_numbers() {
    let hub = hub(16, 16);
    let mut old = view("a", "Running");
    old.revision = Revision { epoch: "earlier".into(), number: 57 };
    let start = Revision { epoch: "e".into(), number: 200 };
    hub.begin(start, 100, vec![old]);
    let shown = hub.get(&view("a", "").key()).unwrap();
    assert_eq!((shown.revision.number, &*shown.revision.epoch), (57, "e"));
    assert_eq!(shown.pod.metadata.resource_version.as_deref(), Some("57"));
    assert_eq!(hub.publish(view("a", "Running")), shown);
    assert_eq!(hub.revision().number, 200);
    // Watchers that had received everything up to then, and those that asked since, may resume.
    for number in [100, 200] {
        let from = Revision { epoch: "e".into(), number };
        let mut watch = hub.watch(&Selector::default(), Some(from)).unwrap();
        assert_eq!(ready(&mut watch), [".200"]);
    }
    // The numbers in between are unknown.
    for number in [99, 101, 199] {
        let from = Revision { epoch: "e".into(), number };
        let error = hub.watch(&Selector::default(), Some(from)).err().unwrap();
        assert!(matches!(error, Error::TooOld { .. }), "{error}");
    }
    hub.publish(view("a", "Failed"));
    let from = Revision { epoch: "e".into(), number: 100 };
    let mut watch = hub.watch(&Selector::default(), Some(from)).unwrap();
    assert_eq!(ready(&mut watch), ["~a Failed 201", ".201"]);
}

#[tokio::test]
async fn another_uid_is_another_pod() {
    let hub = hub(16, 16);
    hub.publish(view("a", "Running"));
    let mut watch = hub.watch(&Selector::default(), None).unwrap();
    let mut other = view("a", "Pending");
    Arc::make_mut(&mut other.pod).metadata.uid = Some("another".into());
    hub.publish(other);
    assert_eq!(ready(&mut watch), ["+a Running 101", ".101", "-a Running 102", "+a Pending 103"]);
}

#[tokio::test]
async fn pods_enter_and_leave_a_selection() {
    let hub = hub(16, 16);
    let mut watch = hub.watch(&running(), None).unwrap();
    hub.publish(view("a", "Pending"));
    hub.publish(view("a", "Running"));
    hub.publish(view("b", "Running"));
    hub.publish(view("a", "Failed"));
    hub.gone(&view("a", "").key());
    hub.gone(&view("b", "").key());
    let expected = [".100", "+a Running 102", "+b Running 103", "-a Running 104", "-b Running 106"];
    assert_eq!(ready(&mut watch), expected);
}

#[tokio::test]
async fn a_watch_goes_on_after_a_revision_without_a_gap() {
    let hub = hub(3, 16);
    let listing = hub.list(&Selector::default()).unwrap();
    for phase in ["Pending", "Running", "Succeeded"] {
        hub.publish(view("a", phase));
    }
    let mut all = hub.watch(&Selector::default(), Some(listing.revision.clone())).unwrap();
    assert_eq!(ready(&mut all), ["+a Pending 101", "~a Running 102", "~a Succeeded 103", ".103"]);
    let mut some = hub.watch(&running(), Some(listing.revision.clone())).unwrap();
    assert_eq!(ready(&mut some), ["+a Running 102", "-a Running 103", ".103"]);
    let mut present = hub.watch(&Selector::default(), Some(hub.revision())).unwrap();
    assert_eq!(ready(&mut present), [".103"]);
    hub.publish(view("b", "Running"));
    assert_eq!(ready(&mut present), ["+b Running 104"]);
    assert_eq!(ready(&mut some), ["+b Running 104"]);

    // The first of four changes is no longer kept.
    let error = hub.watch(&Selector::default(), Some(listing.revision)).err().unwrap();
    let Error::TooOld { asked: 100, current } = error else { panic!("{error}") };
    assert_eq!(current, hub.revision());
    let from = Revision { number: 101, ..hub.revision() };
    let mut kept = hub.watch(&Selector::default(), Some(from)).unwrap();
    assert_eq!(ready(&mut kept), ["~a Running 102", "~a Succeeded 103", "+b Running 104", ".104"]);
}

#[tokio::test]
async fn revisions_of_elsewhere_are_refused() {
    let hub = hub(3, 16);
    let foreign = Revision { epoch: "other".into(), number: 100 };
    let error = hub.watch(&Selector::default(), Some(foreign)).err().unwrap();
    assert!(matches!(error, Error::TooOld { asked: 100, .. }), "{error}");
    let coming = Revision { number: 101, ..hub.revision() };
    let error = hub.watch(&Selector::default(), Some(coming)).err().unwrap();
    assert!(matches!(error, Error::Argument { field: "after", .. }), "{error}");
    let wrong = Selector { labels: "(".into(), ..Selector::default() };
    assert!(matches!(hub.list(&wrong), Err(Error::Argument { .. })));
    assert!(matches!(hub.watch(&wrong, None).err(), Some(Error::Argument { .. })));
}

#[tokio::test]
async fn a_slow_watcher_is_told_and_holds_up_nobody() {
    let hub = hub(64, 2);
    let mut slow = hub.watch(&Selector::default(), None).unwrap();
    let mut other = hub.watch(&running(), None).unwrap();
    for number in 0..3 {
        hub.publish(view(&format!("p{number}"), "Pending"));
    }
    hub.publish(view("q", "Running"));
    let expected = [
        ".100",
        "+p0 Pending 101",
        "+p1 Pending 102",
        "the watcher was too slow: revision 104 is the current one",
        "end",
    ];
    assert_eq!(ready(&mut slow), expected);
    assert_eq!(ready(&mut other), [".100", "+q Running 104"]);
    // It loses nothing: its last event says where to resume.
    let from = Revision { number: 102, ..hub.revision() };
    let mut again = hub.watch(&Selector::default(), Some(from)).unwrap();
    assert_eq!(ready(&mut again), ["+p2 Pending 103", "+q Running 104", ".104"]);
}

#[tokio::test]
async fn a_watcher_that_left_is_forgotten() {
    let hub = hub(16, 16);
    let watches: Vec<_> = (0..5).map(|_| hub.watch(&running(), None).unwrap()).collect();
    hub.publish(view("a", "Pending"));
    assert_eq!(hub.state().watchers.len(), 5);
    drop(watches);
    hub.publish(view("a", "Failed"));
    assert_eq!(hub.state().watchers.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn silence_has_bookmarks() {
    let hub = hub(16, 16);
    let mut watch = hub.watch(&running(), None).unwrap();
    assert_eq!(ready(&mut watch), [".100"]);
    hub.publish(view("a", "Pending"));
    let began = Instant::now();
    let next = watch.next().await.unwrap().unwrap();
    assert_eq!((short(&next).as_str(), began.elapsed()), (".101", Duration::from_secs(10)));
    tokio::time::advance(Duration::from_secs(9)).await;
    hub.publish(view("a", "Running"));
    assert_eq!(ready(&mut watch), ["+a Running 102"]);
    let began = Instant::now();
    let next = watch.next().await.unwrap().unwrap();
    assert_eq!((short(&next).as_str(), began.elapsed()), (".102", Duration::from_secs(10)));
}

#[tokio::test]
async fn a_hundred_watchers_share_one_pod() {
    let hub = hub(16, 16);
    let mut watches: Vec<_> =
        (0..100).map(|_| hub.watch(&Selector::default(), None).unwrap()).collect();
    let shown = hub.publish(view("a", "Running"));
    for watch in &mut watches {
        watch.next().await.unwrap().unwrap();
        let Some(Ok(WatchEvent::Added(seen))) = watch.next().await else { panic!("no news") };
        assert!(Arc::ptr_eq(&seen.pod, &shown.pod));
    }
}

#[tokio::test]
async fn of_many_watchers_only_the_slow_ones_pay() {
    let hub = hub(512, 256);
    let watch = || hub.watch(&Selector::default(), None).unwrap();
    let mut quick: Vec<_> = (0..160).map(|_| (watch(), 0)).collect();
    let mut slow: Vec<_> = (0..20).map(|_| (watch(), Vec::new())).collect();
    let mut silent: Vec<_> = (0..20).map(|_| (watch(), Vec::new())).collect();
    for turn in 0..100 {
        for number in 0..100 {
            let phase = ["Pending", "Running"][turn % 2];
            hub.publish(view(&format!("p{number}"), phase));
        }
        for (watch, read) in &mut quick {
            // Without yielding, tokio's cooperative budget would hide received messages.
            tokio::task::yield_now().await;
            *read += ready(watch).iter().filter(|event| !event.starts_with('.')).count();
        }
        for (watch, read) in &mut slow {
            tokio::task::yield_now().await;
            read.extend(watch.next().now_or_never().flatten());
        }
    }
    assert_eq!(hub.revision().number, 100 + 10_000);
    assert!(quick.iter().all(|(_, read)| *read == 10_000), "nobody held them up");
    assert_eq!(hub.watchers(), 160, "the others are cut off");
    for (watch, read) in slow.iter_mut().chain(&mut silent) {
        while let Some(event) = watch.next().await {
            read.push(event);
        }
        let (last, before) = read.split_last().unwrap();
        assert!(matches!(last, Err(Error::TooSlow { .. })), "the last word says why");
        let numbers: Vec<_> = before
            .iter()
            .map(|event| match event.as_ref().unwrap() {
                WatchEvent::Bookmark(revision) => revision.number,
                WatchEvent::Added(view) | WatchEvent::Modified(view) => view.revision.number,
                WatchEvent::Deleted(view) => panic!("{view:?}"),
            })
            .collect();
        assert_eq!(numbers, (100..).take(numbers.len()).collect::<Vec<_>>(), "without a gap");
        assert!(numbers.len() >= 256);
        // It was away for longer than changes are kept.
        let from = Revision { number: numbers[numbers.len() - 1], ..hub.revision() };
        let again = hub.watch(&Selector::default(), Some(from)).err().unwrap();
        assert!(matches!(again, Error::TooOld { .. }), "{again}");
    }
}
