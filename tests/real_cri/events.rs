//! GetContainerEvents.

use podbay::proto::runtime::v1 as cri;

use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;

pub async fn events_tell_the_life_of_a_pod(line: Line) {
    use cri::ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    let rig = Rig::start(line).await;
    let stream = rig.runtime().get_container_events(cri::GetEventsRequest {}).await;
    let mut stream = stream.expect("GetContainerEvents").into_inner();
    let pod = rig.run(rig.pod_spec("life")).await;
    let short = rig.run_to_end(&pod, &Container::script("short", &rig.image, "exit 3")).await.id;
    let long = rig.launch_waiting(&pod, "long").await;
    rig.remove(&short).await;
    rig.remove_pod(&pod.id).await;
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(SOON, stream.message()).await;
        let event = next.expect("in time").expect("the stream").expect("an event");
        let sandbox = event.pod_sandbox_status.as_ref().expect("the pod's status");
        assert_eq!(sandbox.metadata, pod.spec.config.metadata);
        assert!(event.created_at > 0);
        let kind = event.container_event_type();
        if kind == Stopped && event.container_id == short {
            let mine = event.containers_statuses.iter().find(|status| status.id == short);
            assert_eq!(mine.map(|status| status.exit_code), Some(3), "the state after the event");
        }
        let last = kind == Deleted && event.container_id == pod.id;
        found.push((event.container_id, kind));
        if last {
            break;
        }
    }
    for (what, id) in [("pod", &pod.id), ("short", &short), ("long", &long)] {
        let kinds: Vec<_> =
            found.iter().filter(|(of, _)| of == id).map(|(_, kind)| *kind).collect();
        assert_eq!(kinds, [Created, Started, Stopped, Deleted], "{what}");
    }
    rig.finish().await;
}
