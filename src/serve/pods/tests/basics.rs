//! Unary calls, and the errors for invalid ones.

use tonic::Code;
use tonic_types::StatusExt as _;

use super::world::*;
use crate::pod::{Error, FieldError, PodKey};
use crate::proto::podbay::v1::*;

fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

#[tokio::test]
async fn apply_passes_all_of_it_on() {
    let world = World::start().await;
    let mut client = world.client().await;
    let request = ApplyRequest {
        manifest: "kind: Pod".into(),
        manner: Manner::Replace.into(),
        preconditions: Some(Preconditions { uid: "u".into(), resource_version: String::new() }),
        dry_run: true,
        lenient: true,
        namespace: "shop".into(),
        grace: seconds(5),
        any_version: true,
    };
    let answer = client.apply(request).await.unwrap().into_inner();
    assert_eq!(answer.warnings, ["mind the gap"]);
    assert_eq!(answer.pods[0].change(), Change::Created);
    assert_eq!(answer.pods[0].pod.as_ref().unwrap().name, "new");
    let asked = world.asked().remove(0);
    for part in [
        "manifest: \"kind: Pod\"",
        "manner: Replace",
        "uid: Some(\"u\"), resource_version: None",
        "dry_run: true",
        "lenient: true",
        "namespace: \"shop\"",
        "grace: Some(5s)",
        "any_version: true",
    ] {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    world.stop().await;
}

#[tokio::test]
async fn delete_passes_all_of_it_on() {
    let world = World::start().await;
    world.face.hub.publish(view("a", "Running"));
    let mut client = world.client().await;
    let selector = Selector { name: "a".into(), ..Selector::default() };
    let request =
        DeleteRequest { selector: Some(selector), force: true, ..DeleteRequest::default() };
    let answer = client.delete(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.pods[0].name, "a");
    let asked = world.asked().remove(0);
    assert!(asked.contains("force: true") && asked.contains("grace: Some(0ns)"), "{asked}");

    let slow = DeleteRequest { grace: seconds(1), ..request.clone() };
    let status = client.delete(slow).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let negative = DeleteRequest { grace: seconds(-1), force: false, ..request };
    let status = client.delete(negative).await.unwrap_err();
    let field = &status.get_details_bad_request().unwrap().field_violations[0].field;
    assert_eq!((status.message(), field.as_str()), ("grace: must not be negative", "grace"));
    assert!(world.asked().is_empty(), "what is wrong goes no further");
    world.stop().await;
}

#[tokio::test]
async fn faults_of_a_manifest_travel_one_by_one() {
    let world = World::start().await;
    let mut client = world.client().await;
    let fault = |path: &str| FieldError { path: path.into(), message: "must be unique".into() };
    let faults = vec![fault("spec.containers[1].name"), fault("spec.volumes[0].name")];
    let error = Error::Invalid { kind: "Pod", name: "web".into(), faults };
    *world.face.fail.lock().unwrap() = Some(error);
    let request = ApplyRequest { manifest: "x".into(), ..ApplyRequest::default() };
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let told = status.get_details_bad_request().unwrap().field_violations;
    assert_eq!(told[1].field, "spec.volumes[0].name");
    assert_eq!(status.get_details_error_info().unwrap().reason, "OBJECT_INVALID");

    let error = Error::Static(PodKey::new("default", "web"));
    *world.face.fail.lock().unwrap() = Some(error);
    let status = client.delete(DeleteRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.get_details_resource_info().unwrap().resource_name, "default/web");

    for request in [
        ApplyRequest { manifest: " \n".into(), ..ApplyRequest::default() },
        ApplyRequest { manifest: "x".into(), manner: 9, ..ApplyRequest::default() },
    ] {
        assert_eq!(client.apply(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
    world.stop().await;
}

#[tokio::test]
async fn one_pod_is_got_and_explained() {
    let world = World::start().await;
    world.face.hub.publish(view("a", "Running"));
    let mut client = world.client().await;
    let request = GetRequest { name: "a".into(), ..GetRequest::default() };
    let pod = client.get(request).await.unwrap().into_inner().pod.unwrap();
    assert_eq!((pod.phase(), pod.revision.unwrap().number), (Phase::Running, 101));
    assert!(pod.object.contains("\"kind\":\"Pod\""), "{}", pod.object);
    let nobody = GetRequest { namespace: "x".into(), name: "a".into() };
    let status = client.get(nobody).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "pod x/a is not found"));
    let status = client.get(GetRequest::default()).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "name: must be given"));

    let request = ExplainRequest { name: "a".into(), ..ExplainRequest::default() };
    let waits = client.explain(request).await.unwrap().into_inner().waits;
    assert_eq!((waits[0].last_error.as_str(), waits.len()), ("no route", 1));
    assert_eq!(waits[0].next_try.unwrap().seconds, 3);
    world.stop().await;
}

#[tokio::test]
async fn restart_admit_and_node() {
    let world = World::start().await;
    let mut client = world.client().await;
    let request = RestartContainerRequest {
        name: "a".into(),
        container: "main".into(),
        ..RestartContainerRequest::default()
    };
    client.restart_container(request.clone()).await.unwrap();
    assert_eq!(world.asked(), ["restart main of default/a"]);
    let unnamed = RestartContainerRequest { container: String::new(), ..request };
    let status = client.restart_container(unnamed).await.unwrap_err();
    assert_eq!(status.message(), "container: must be given");

    let request = AdmitRequest { manifest: "x".into(), ..AdmitRequest::default() };
    let pods = client.admit(request).await.unwrap().into_inner().pods;
    assert!(world.asked()[0].contains("dry_run: true"));
    assert_eq!((pods[0].admitted, pods[1].admitted), (true, false));
    assert_eq!(pods[1].reasons[0].reason, "OutOfcpu");

    let node = client.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!((node.name.as_str(), node.unschedulable), ("n1", true));
    assert_eq!(node.capacity["cpu"], "2");
    assert_eq!(node.conditions[0].status(), ConditionStatus::True);
    assert_eq!((node.images[0].names[0].as_str(), node.images[0].size_bytes), ("a:1", 7));
    assert!(node.object.contains("\"kind\":\"Node\""));
    world.stop().await;
}

#[tokio::test]
async fn stats_are_of_pods_and_of_the_node() {
    let world = World::start().await;
    world.face.hub.publish(view("a", "Running"));
    let mut client = world.client().await;
    let stats = client.stats(StatsRequest::default()).await.unwrap().into_inner();
    assert_eq!((stats.pods[0].name.as_str(), &stats.pods[0].usage), ("a", &None));
    let node = stats.node.unwrap();
    let usage = node.usage.unwrap();
    assert_eq!((node.name.as_str(), usage.cpu_nano_cores), ("n1", Some(6)));
    assert_eq!(usage.memory_available_bytes, None);
    let wrong =
        StatsRequest { selector: Some(Selector { labels: "(".into(), ..Selector::default() }) };
    let status = client.stats(wrong).await.unwrap_err();
    assert!(status.message().starts_with("selector.labels: "), "{status}");
    world.stop().await;
}
