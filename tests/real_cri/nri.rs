//! Plugins that use the stub of the reference implementation, with a real agent: the events they
//! get, their changes of real containers, and refusing, hanging and reconnecting.

use std::path::{Path, PathBuf};
use std::process::Command;

use podbay::proto::runtime::v1 as cri;
use serde_json::{Value, json};

use crate::rig::{Rig, SOON};
use crate::support::builders::Container;
use crate::support::containerd::Line;
use crate::support::env::TestEnv;
use crate::support::process::Daemon;
use crate::support::{eventually, parts};

/// The plugin, built from `tests/clients/nri` by scripts/setup.sh.
fn program() -> PathBuf {
    let path = parts().join("nri-plugin");
    assert!(path.exists(), "{} is missing: run scripts/setup.sh test", path.display());
    path
}

/// A world where plugins may connect, and where one is started by the agent if it has rules.
async fn rig(line: Line, started: Option<Value>) -> Rig {
    let env = prepared(line).await;
    if let Some(mut rules) = started {
        rules["log"] = json!(env.file("started.log"));
        std::fs::copy(program(), env.file("nri/plugins/10-started")).expect("the program");
        std::fs::write(env.file("nri/conf.d/10-started.conf"), rules.to_string())
            .expect("its rules");
    }
    Rig::start_in(env).await
}

async fn prepared(line: Line) -> TestEnv {
    let mut env = TestEnv::start(line).await;
    let (plugins, configs) = (env.file("nri/plugins"), env.file("nri/conf.d"));
    env.add_config(&format!(
        "[nri]\nenable = true\nsocket_path = {:?}\nplugin_path = {plugins:?}\n\
         plugin_config_path = {configs:?}\nrequest_timeout = \"1500ms\"",
        env.file("nri/nri.sock"),
    ));
    std::fs::create_dir_all(&plugins).expect("the folder of plugins");
    std::fs::create_dir_all(&configs).expect("the folder of configurations");
    env
}

/// Starts a plugin that connects; returns when it has been synchronised.
async fn outside(rig: &Rig, index: &str, mut rules: Value) -> (Daemon, PathBuf) {
    let log = rig.env().file(&format!("outside-{index}.log"));
    rules["log"] = json!(log);
    let mut command = Command::new(program());
    command.args(["-name", "outside", "-idx", index, "-rules", &rules.to_string(), "-socket"]);
    let before = count(&log, "Synchronize");
    let plugin = Daemon::start(
        command.arg(rig.env().file("nri/nri.sock")),
        &rig.env().file(&format!("outside-{index}.out")),
    );
    let joined =
        eventually(SOON, async || (count(&log, "Synchronize") > before).then_some(())).await;
    assert!(joined.is_some(), "{}", plugin.last_words());
    (plugin, log)
}

/// What a plugin has told, one object for each call.
fn told(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn calls(log: &Path) -> Vec<String> {
    told(log).iter().map(|line| line["call"].as_str().expect("a call").to_owned()).collect()
}

fn count(log: &Path, call: &str) -> usize {
    calls(log).iter().filter(|told| *told == call).count()
}

/// Waits until a plugin has told of a call.
async fn hears(log: &Path, call: &str) -> Value {
    let found = eventually(SOON, async || told(log).into_iter().rfind(|l| l["call"] == call)).await;
    found.unwrap_or_else(|| panic!("{call} is not in {:?}", calls(log)))
}

pub async fn plugins_hear_and_adjust(line: Line) {
    let rules = json!({
        "rlimits": {"RLIMIT_NOFILE": 321},
        "env": {"COLOUR": "red"},
        "devices": [{"Path": "/dev/nri-zero", "Type": "c", "Major": 1, "Minor": 5}],
    });
    let rig = rig(line, Some(rules)).await;
    let started = rig.env().file("started.log");
    let hello = hears(&started, "Configure").await;
    assert!(hello["text"].as_str().is_some_and(|text| text.starts_with("podbay ")), "{hello}");
    let source = rig.env().file("mounted");
    std::fs::create_dir_all(&source).expect("a folder");
    std::fs::write(source.join("note"), "from a plugin").expect("a file");
    let rules = json!({
        "remove_env": ["GONE"],
        "annotations": {"example.com/by": "plugin"},
        "mounts": [{
            "destination": "/srv/data", "type": "bind", "source": source,
            "options": ["bind", "ro"],
        }],
        "cpu_shares": 321,
    });
    let (_plugin, outside_log) = outside(&rig, "20", rules).await;
    let pod = rig.run(rig.pod_spec("web").label("app", "web")).await;
    let spec = Container::waiting("app", &rig.image).env("GONE", "1").label("tier", "front");
    let id = rig.launch(&pod, &spec).await;

    let script = "ulimit -n; echo \"[$COLOUR][$GONE]\"; cat /srv/data/note; echo; \
                  head -c 3 /dev/nri-zero | wc -c; touch /srv/data/x 2>/dev/null || echo read-only";
    assert_eq!(rig.exec(&id, script).await, "321\n[red][]\nfrom a plugin\n3\nread-only");
    let info = rig.info(&id).await;
    assert_eq!(info["runtimeSpec"]["annotations"]["example.com/by"], "plugin");
    assert_eq!(info["runtimeSpec"]["linux"]["resources"]["cpu"]["shares"], 321);

    rig.stop(&id, 1).await;
    rig.remove(&id).await;
    rig.stop_pod(&pod.id).await;
    rig.stop_pod(&pod.id).await;
    rig.remove_pod(&pod.id).await;
    let life = [
        "Configure",
        "Synchronize",
        "RunPodSandbox",
        "CreateContainer",
        "ValidateContainerAdjustment",
        "PostCreateContainer",
        "StartContainer",
        "PostStartContainer",
        "StopContainer",
        "RemoveContainer",
        "StopPodSandbox",
        "RemovePodSandbox",
    ];
    assert_eq!(calls(&started), life);
    assert_eq!(calls(&outside_log), life);
    let created = hears(&outside_log, "CreateContainer").await;
    assert_eq!(created["container"]["name"], "app");
    assert_eq!(created["container"]["labels"]["tier"], "front");
    assert_eq!(created["pod"]["labels"]["app"], "web");
    let env = created["container"]["env"].to_string();
    assert!(env.contains("COLOUR=red"), "what the first plugin wanted is not shown: {env}");
    let stopped = hears(&started, "StopPodSandbox").await;
    assert_eq!(stopped["pod"]["id"], pod.id);
    rig.finish().await;
}

pub async fn refusals_leave_nothing(line: Line) {
    let rig = rig(line, None).await;
    let (plugin, log) = outside(&rig, "10", json!({"fail": {"CreateContainer": "no room"}})).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    let spec = Container::waiting("app", &rig.image);
    let refused = rig.create(&pod, &spec).await.expect_err("a refusal");
    assert!(refused.message().contains("NRI plugin 10-outside: no room"), "{refused}");
    assert!(rig.containers(Default::default()).await.is_empty());
    hears(&log, "RemoveContainer").await;
    drop(plugin);
    let (_plugin, log) = outside(&rig, "11", json!({"fail": {"RunPodSandbox": "go away"}})).await;
    let refused = rig.try_run(&rig.pod_spec("other")).await.expect_err("a refusal");
    assert!(refused.message().contains("NRI plugin 11-outside: go away"), "{refused}");
    hears(&log, "RemovePodSandbox").await;
    assert_eq!(rig.pods(Default::default()).await.len(), 1);
    rig.launch(&pod, &spec).await;
    rig.finish().await;
}

pub async fn hanging_plugins_are_dropped(line: Line) {
    let rig = rig(line, None).await;
    let (mut plugin, log) = outside(&rig, "10", json!({"hang": ["RunPodSandbox"]})).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    let id = rig.launch_waiting(&pod, "app").await;
    assert_eq!(rig.exec(&id, "echo it runs").await, "it runs");
    // The stub ends when it is hung up on.
    let ended = eventually(SOON, async || plugin.ended()).await;
    assert!(ended.is_some(), "it is still connected");
    assert_eq!(calls(&log)[..3], ["Configure", "Synchronize", "RunPodSandbox"]);
    assert_eq!(count(&log, "CreateContainer"), 0);
    rig.finish().await;
}

pub async fn plugins_and_agents_come_back(line: Line) {
    let mut rig = rig(line, Some(json!({}))).await;
    let started = rig.env().file("started.log");
    let (plugin, log) = outside(&rig, "20", json!({})).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    let id = rig.launch_waiting(&pod, "app").await;
    drop(plugin);
    // It comes back with a wish for all that is there.
    let (mut plugin, _) = outside(&rig, "20", json!({"shares_of_all": 345})).await;
    let all = hears(&log, "Synchronize").await;
    assert_eq!((&all["pods"][0]["id"], &all["containers"][0]["id"]), (&json!(pod.id), &json!(id)));
    let done = hears(&log, "Updated").await;
    assert_eq!(done["text"], "0 failed, error <nil>");
    let info = rig.info(&id).await;
    assert_eq!(info["runtimeSpec"]["linux"]["resources"]["cpu"]["shares"], 345);

    rig.agent.kill9();
    let ended = eventually(SOON, async || plugin.ended()).await;
    assert!(ended.is_some(), "the plugin has not seen the agent die");
    let before = count(&started, "Synchronize");
    rig.agent.restart().await;
    // The one that the agent starts has joined before it is healthy.
    assert_eq!(count(&started, "Synchronize"), before + 1);
    let all = hears(&started, "Synchronize").await;
    assert_eq!(all["containers"][0]["id"], json!(id));
    let (_plugin, log) = outside(&rig, "30", json!({})).await;
    let all = hears(&log, "Synchronize").await;
    assert_eq!(all["pods"][0]["id"], json!(pod.id));
    rig.stop(&id, 0).await;
    hears(&log, "StopContainer").await;
    rig.finish().await;
}

pub async fn plugins_have_a_say_in_updates(line: Line) {
    let rig = rig(line, None).await;
    let pod = rig.run(rig.pod_spec("web")).await;
    let id = rig.launch_waiting(&pod, "app").await;
    let (_plugin, log) = outside(&rig, "10", json!({"cpu_shares": 234})).await;
    let limits = cri::LinuxContainerResources {
        cpu_shares: 600,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    };
    let update = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(limits.clone()),
        ..Default::default()
    };
    rig.runtime().update_container_resources(update).await.expect("the update");
    let info = rig.info(&id).await;
    let now = &info["runtimeSpec"]["linux"]["resources"];
    assert_eq!((&now["cpu"]["shares"], &now["memory"]["limit"]), (&json!(234), &json!(64 << 20)));
    let asked = hears(&log, "UpdateContainer").await;
    assert_eq!(asked["resources"]["cpu"]["shares"]["value"], 600);
    hears(&log, "PostUpdateContainer").await;
    let resize = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.id.clone(),
        overhead: None,
        resources: Some(limits),
    };
    rig.runtime().update_pod_sandbox_resources(resize).await.expect("the resize");
    let asked = hears(&log, "UpdatePodSandbox").await;
    assert_eq!(asked["resources"]["memory"]["limit"]["value"], 64 << 20);
    let done = hears(&log, "PostUpdatePodSandbox").await;
    let shown = &done["pod"]["linux"]["pod_resources"];
    assert_eq!(shown["memory"]["limit"]["value"], 64 << 20, "{done}");
    rig.finish().await;
}

/// More than a frame of the plugin's connection, and more than a message may have.
pub async fn much_is_told(line: Line) {
    let rig = rig(line, None).await;
    let (_first, log) = outside(&rig, "10", json!({})).await;
    let text = "0123456789abcdef".repeat(1 << 16);
    for number in 0..6 {
        rig.run(rig.pod_spec(&format!("pod-{number}")).annotation("text", &text)).await;
    }
    let heard = told(&log).into_iter().filter(|line| line["call"] == "RunPodSandbox");
    let annotations: Vec<_> = heard.map(|mut line| line["pod"]["annotations"].take()).collect();
    assert_eq!(annotations.len(), 6);
    assert!(annotations.iter().all(|it| it["text"].as_str() == Some(&text)));
    let (_second, log) = outside(&rig, "20", json!({})).await;
    let all = hears(&log, "Synchronize").await;
    let pods = all["pods"].as_array().expect("pods");
    assert_eq!(pods.len(), 6);
    assert!(pods.iter().all(|pod| pod["annotations"]["text"].as_str() == Some(&text)));
    rig.finish().await;
}

/// A sample plugin of the reference implementation, with the stub of an older version of it.
pub async fn a_sample_plugin_adjusts_limits(line: Line) {
    let env = prepared(line).await;
    let sample = parts().join("nri-ulimit-adjuster");
    assert!(sample.exists(), "{} is missing: run scripts/setup.sh test", sample.display());
    std::fs::copy(sample, env.file("nri/plugins/10-ulimits")).expect("the sample");
    let rig = Rig::start_in(env).await;
    let key = |container: &str| format!("ulimits.nri.containerd.io/container.{container}");
    let pod = rig.run(
        rig.pod_spec("web")
            .annotation(&key("app"), r#"[{"type": "nofile", "hard": 432, "soft": 234}]"#)
            .annotation(&key("odd"), r#"[{"type": "nothing", "hard": 1, "soft": 1}]"#),
    );
    let pod = pod.await;
    let id = rig.launch_waiting(&pod, "app").await;
    // Not of the exec: runc 1.1 gives one the hard limit for the soft one.
    let limits = async |id: &str| rig.exec(id, "grep files /proc/1/limits | tr -s ' '").await;
    assert_eq!(limits(&id).await, "Max open files 234 432 files");
    let refused = rig.create(&pod, &Container::waiting("odd", &rig.image)).await;
    let refused = refused.expect_err("a limit that there is not");
    assert!(refused.message().contains("NRI plugin 10-ulimits"), "{refused}");
    let other = rig.launch_waiting(&pod, "other").await;
    assert_ne!(limits(&other).await, "Max open files 234 432 files");
    rig.finish().await;
}
