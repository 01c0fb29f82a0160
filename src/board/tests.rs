use std::sync::Arc;

use super::*;
use crate::model::Owner;
use crate::model::container::ContainerConfig;
use crate::model::image::Digest;
use crate::model::pod::PodConfig;
use crate::model::signal::Signal;

fn pod(byte: char, created_at: i64) -> Sandbox {
    Sandbox {
        id: PodId::try_from(byte.to_string().repeat(64)).unwrap(),
        owner: Owner::Cri,
        config: Arc::new(PodConfig::default()),
        new_overhead: None,
        new_resources: None,
        handler: String::new(),
        created_at,
        state: SandboxState::Ready { pid: 1 },
        network: None,
        netns: None,
    }
}

fn container(byte: char, pod: &Sandbox) -> Container {
    Container {
        id: ContainerId::try_from(byte.to_string().repeat(64)).unwrap(),
        pod: pod.id.clone(),
        owner: Owner::Cri,
        config: Arc::new(ContainerConfig {
            labels: [("app".to_owned(), byte.to_string())].into(),
            ..Default::default()
        }),
        image_id: Digest::of(b""),
        image_name: String::new(),
        image_ref: String::new(),
        mounted_images: Default::default(),
        created_at: 5,
        state: ContainerState::Created,
        user: Default::default(),
        resources: Default::default(),
        stop_signal: Signal::TERM,
        log_path: None,
    }
}

#[test]
fn looks_up_by_unique_prefix() {
    let board = Board::new();
    board.publish_pod(pod('a', 1), None);
    board.publish_pod(pod('b', 2), None);
    assert_eq!(board.pod("aaaa").unwrap().created_at, 1);
    assert_eq!(board.pod("c").unwrap_err(), LookupError::NotFound);
    assert_eq!(board.pod("").unwrap_err(), LookupError::NotFound);
    let mut twin = pod('a', 3);
    twin.id = PodId::try_from(format!("{}b", "a".repeat(63))).unwrap();
    board.publish_pod(twin, None);
    assert_eq!(board.pod("aaaa").unwrap_err(), LookupError::Ambiguous);
    assert_eq!(board.pod(&"a".repeat(64)).unwrap().created_at, 1);
}

#[test]
fn filters_are_anded_and_unknown_ids_give_nothing() {
    let board = Board::new();
    let (first, second) = (pod('a', 1), pod('b', 2));
    board.publish_container(container('1', &first), None);
    board.publish_container(container('2', &second), None);
    board.publish_pod(first.clone(), None);
    board.publish_pod(second, None);
    let all = ContainerFilter::default();
    assert_eq!(board.containers(&all).len(), 2);
    let of_first = ContainerFilter { pod: Some("aa".into()), ..all.clone() };
    assert_eq!(board.containers(&of_first)[0].pod, first.id);
    let none = ContainerFilter {
        pod: Some("aa".into()),
        labels: [("app".to_owned(), "2".to_owned())].into(),
        ..all.clone()
    };
    assert!(board.containers(&none).is_empty());
    assert!(board.containers(&ContainerFilter { id: Some("f".into()), ..all }).is_empty());
}

#[tokio::test]
async fn a_subscriber_hears_the_present_first_then_news_with_the_whole_pod() {
    let board = Board::new();
    let home = pod('a', 1);
    board.publish_pod(home.clone(), Some(EventKind::Started));
    let mut news = board.subscribe();
    board.publish_container(container('1', &home), Some(EventKind::Created));
    board.drop_container(&container('1', &home).id);
    board.drop_pod(&home.id);
    let mut heard = Vec::new();
    for _ in 0..4 {
        let event = news.next().await.unwrap();
        heard.push((event.kind, event.container.chars().next().unwrap(), event.containers.len()));
    }
    assert_eq!(
        heard,
        [
            (EventKind::Started, 'a', 0),
            (EventKind::Created, '1', 1),
            (EventKind::Deleted, '1', 0),
            (EventKind::Deleted, 'a', 0)
        ]
    );
}

#[tokio::test]
async fn a_slow_subscriber_is_cut_and_others_go_on() {
    let board = Board::new();
    let home = pod('a', 1);
    board.publish_pod(home.clone(), None);
    let mut slow = board.subscribe();
    for _ in 0..5000 {
        board.publish_pod(home.clone(), Some(EventKind::Started));
    }
    let mut count = 0;
    while slow.next().await.is_some() {
        count += 1;
    }
    assert_eq!(count, 4096 + 1);
    assert!(board.subscribe().next().await.is_some());
}
