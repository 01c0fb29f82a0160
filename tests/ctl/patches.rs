//! `patch` and `set`: some fields of a pod are changed.

use podbay::proto::podbay::v1::*;
use serde_json::{Value, json};

use super::agent::{Agent, pod};

/// An agent with the pod `web`, which says that it was changed.
async fn start() -> Agent {
    let agent = Agent::start().await;
    let mut web = pod("default", "web", Phase::Running, true);
    let mut object: Value = serde_json::from_str(&web.object).expect("an object");
    object["metadata"]["resourceVersion"] = "41".into();
    web.object = object.to_string();
    agent.state(|state| (state.pods, state.change) = (vec![web], Change::Configured));
    agent
}

/// The manifest that came last.
fn sent(agent: &Agent) -> Value {
    let sent = agent.state(|state| state.manifests.pop()).expect("a manifest");
    serde_json::from_str(&sent).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_patched() {
    let agent = start().await;
    let image = r#"{"spec":{"containers":[{"name":"app","image":"nginx:2"}]}}"#;
    let run = async |args: &[&str]| agent.run(args).await.good();
    assert_eq!(run(&["patch", "pod", "web", "-p", image]).await, "pod/web patched\n");
    let manifest = sent(&agent);
    let containers = manifest["spec"]["containers"].as_array().expect("containers");
    assert_eq!((containers.len(), &containers[0]["image"]), (1, &json!("nginx:2")));
    assert_eq!(manifest["metadata"]["labels"]["app"], "web", "the rest is as it was");
    assert_eq!(manifest.get("status"), None);
    assert!(agent.asked().contains("resource_version: \"41\""), "{}", agent.asked());
    run(&["patch", "pod/web", "--patch", "metadata: {labels: {tier: front, app: null}}"]).await;
    assert_eq!(sent(&agent)["metadata"]["labels"], json!({"tier": "front"}));
    let steps = r#"[{"op":"add","path":"/metadata/annotations","value":{"why":"so"}}]"#;
    run(&["patch", "pod", "web", "--type=json", "-p", steps]).await;
    assert_eq!(sent(&agent)["metadata"]["annotations"], json!({"why": "so"}));
    std::fs::write(agent.dir.path().join("patch.yaml"), image).expect("the patch");
    run(&["patch", "pod", "web", "--type", "merge", "--patch-file", "patch.yaml"]).await;
    assert_eq!(sent(&agent)["spec"]["containers"], json!([{"name": "app", "image": "nginx:2"}]));
    agent.state(|state| state.change = Change::Unchanged);
    let same = ["patch", "pod", "web", "-p", "{}", "--dry-run=server", "--subresource=resize"];
    assert_eq!(run(&same).await, "pod/web patched (no change) (dry run)\n");
    agent.run(&["patch", "pod", "gone", "-p", "{}"]).await.bad(3);
    for args in [
        &["patch", "pod", "web"][..],
        &["patch", "pod", "web", "-p", "{"],
        &["patch", "pod", "web", "-p", "[]"],
        &["patch", "pod", "web", "-p", "metadata: {name: other}"],
        &["patch", "pod", "web", "-p", "{}", "--type=other"],
        &["patch", "node", "host", "-p", "{}"],
        &["patch", "pod", "-p", "{}"],
    ] {
        agent.run(args).await.bad(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_set_by_the_names_of_containers() {
    let agent = start().await;
    let set = ["set", "image", "pod/web", "app=nginx:2"];
    assert_eq!(agent.run(&set).await.good(), "pod/web image updated\n");
    assert_eq!(sent(&agent)["spec"]["containers"][0]["image"], "nginx:2");
    let all = ["set", "image", "pods", "web", "*=registry:5000/nginx:3", "--dry-run=client"];
    assert_eq!(agent.run(&all).await.good(), "pod/web image updated (dry run)\n");
    assert_eq!(sent(&agent)["spec"]["containers"][0]["image"], "registry:5000/nginx:3");
    let absent = agent.run(&["set", "image", "pod/web", "other=i"]).await.bad(1);
    assert_eq!(absent, "error: unable to find container named \"other\"\n");
    agent.run(&["set", "image", "pod/gone", "app=i"]).await.bad(3);
    for args in [
        &["set", "image", "pod/web"][..],
        &["set", "image", "app=i"],
        &["set", "image", "pod/web", "app="],
        &["set", "image", "node/host", "app=i"],
        &["set", "env", "pod/web", "A=b"],
    ] {
        agent.run(args).await.bad(2);
    }
}
