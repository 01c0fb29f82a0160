//! Containers that are added to a running pod.

use super::*;

fn one(name: &str) -> Value {
    json!({"name": name, "image": "tools:1"})
}

fn at(name: &str, target: &str) -> Value {
    json!({"name": name, "image": "tools:1", "targetContainerName": target})
}

#[test]
fn one_is_started_in_a_running_pod_and_nothing_else_changes() {
    let mut stage = running(json!({}));
    let before = stage.status();
    stage.debug(one("look"));
    assert_eq!(stage.play(), ["start look 0"]);
    let status = stage.status();
    let (found, conditions) = (status.ephemeral_container_statuses.clone(), &status.conditions);
    let found = &found.expect("statuses")[0];
    assert_eq!((found.ready, found.started, found.restart_count), (false, None, 0));
    assert!(found.state.as_ref().is_some_and(|state| state.running.is_some()), "{found:?}");
    assert_eq!((&status.phase, conditions), (&before.phase, &before.conditions));
    assert_eq!(status.container_statuses, before.container_statuses);
    assert_eq!(status.qos_class, before.qos_class);
}

#[test]
fn it_is_never_started_again() {
    for policy in ["Always", "OnFailure", "Never"] {
        for code in [0, 3] {
            let mut stage = running(json!({"restartPolicy": policy}));
            stage.debug(one("look"));
            stage.play();
            stage.exit("look", code);
            assert_eq!(stage.play(), [""; 0], "{policy} {code}");
            stage.after(3600);
            stage.agent_restarts();
            assert_eq!(stage.play(), ["prepare"], "{policy} {code}");
            let home = stage.seen.sandboxes[0].id.clone();
            stage.sandbox_dies(&home);
            let done = stage.play();
            assert!(!done.iter().any(|text| text.contains("look")), "{policy} {code}: {done:?}");
            let end = stage.life.unit("look").ended().cloned().expect("its end");
            assert_eq!(end.code, code, "{policy}");
        }
    }
}

#[test]
fn it_waits_for_the_sandbox_and_for_no_init_container() {
    let mut stage = Stage::new(json!({"initContainers": [plain("init")]}));
    stage.debug(one("look"));
    assert_eq!(stage.play(), ["prepare", "sandbox 0", "start look 0", "start init 0"]);
}

#[test]
fn one_with_a_target_waits_until_that_runs() {
    let mut stage = Stage::new(json!({"initContainers": [plain("init")]}));
    stage.debug(at("look", "app"));
    assert_eq!(stage.play(), ["prepare", "sandbox 0", "start init 0"]);
    let waits = |wait: &&super::super::Wait| wait.container.as_deref() == Some("look");
    let wait = stage.plan.waits.iter().find(waits).expect("it is told");
    assert_eq!(wait.step, "its target container app runs");
    stage.exit("init", 0);
    assert_eq!(stage.play(), ["start app 0", "start look 0"]);
    // The next one is added while the target waits for its back-off.
    stage.exit("app", 1);
    stage.play();
    stage.exit("app", 1);
    stage.debug(at("later", "app"));
    assert_eq!(stage.play(), [""; 0]);
    stage.after(11);
    assert_eq!(stage.play(), ["start app 2", "start later 0", "remove app 0"]);
}

#[test]
fn one_that_cannot_be_started_is_tried_again() {
    let mut stage = running(json!({}));
    stage.debug(one("look"));
    stage.bad.insert("start look".into(), "ErrImagePull");
    assert_eq!(stage.play(), ["start look 0"]);
    assert_eq!(stage.status().phase.as_deref(), Some("Running"));
    stage.bad.clear();
    stage.after(11);
    assert_eq!(stage.play(), ["start look 0"], "it never ran");
    assert_eq!(stage.life.unit("look").restarts(), 0);
}

#[test]
fn a_pod_that_was_only_looked_at_has_not_run() {
    let mut stage = Stage::new(json!({"restartPolicy": "Never"}));
    stage.bad.insert("start app".into(), "ErrImagePull");
    stage.debug(one("look"));
    stage.play();
    let home = stage.seen.sandboxes[0].id.clone();
    stage.sandbox_dies(&home);
    let done = stage.play();
    assert!(done.contains(&"sandbox 1".to_owned()), "{done:?}");
    assert!(stage.life.verdict.is_none());
}

#[test]
fn a_pod_ends_whether_it_runs_or_not() {
    let mut stage = running(json!({"restartPolicy": "Never"}));
    stage.debug(one("look"));
    stage.play();
    stage.exit("look", 7);
    assert_eq!(stage.play(), [""; 0], "its failure is nobody's");
    stage.debug(one("again"));
    stage.play();
    stage.exit("app", 0);
    assert_eq!(stage.play(), ["kill again 30", "stop sandbox 0", "settle"]);
    assert_eq!(stage.status().phase.as_deref(), Some("Succeeded"));
}

#[test]
fn sidecars_do_not_wait_for_it_at_the_end() {
    let mut stage = running(json!({"initContainers": [sidecar("side")]}));
    stage.debug(one("look"));
    stage.play();
    stage.delete(None);
    let actions: Vec<_> = stage.look().actions.iter().map(|it| stage.text(it)).collect();
    assert_eq!(actions, ["kill app 30", "kill look 30"]);
    for action in stage.look().actions {
        stage.begin(action);
    }
    stage.exit("app", 0);
    let actions: Vec<_> = stage.look().actions.iter().map(|it| stage.text(it)).collect();
    assert_eq!(actions, ["kill side 30"], "look has not ended");
}

#[test]
fn no_app_starts_the_later_for_it() {
    let mut stage = running(json!({"containers": [plain("a"), plain("b")]}));
    stage.debug(one("look"));
    stage.exit("a", 1);
    assert_eq!(stage.play(), ["start look 0", "start a 1"]);
}
