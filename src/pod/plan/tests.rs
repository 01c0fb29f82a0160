//! The order of actions in various scenarios.

mod ends;
mod ephemeral;
mod plays;
mod restarts;
mod rules;

use serde_json::{Value, json};

use super::super::record::State;
use super::super::rehearsal::{DAWN, Ending, SECOND, Stage, seconds_after};
use super::{Action, Job};
use crate::model::UnixNanos;

fn sidecar(name: &str) -> Value {
    json!({"name": name, "image": "side:1", "restartPolicy": "Always"})
}

fn plain(name: &str) -> Value {
    json!({"name": name, "image": "plain:1"})
}

fn hooked(name: &str, hook: &str) -> Value {
    json!({"name": name, "image": "app:1", "lifecycle": {hook: {"exec": {"command": ["x"]}}}})
}

/// A stage on which the pod with this spec is running.
fn running(spec: Value) -> Stage {
    let mut stage = Stage::new(spec);
    stage.play();
    stage
}

#[test]
fn a_plain_pod_is_prepared_then_housed_then_started() {
    let mut stage = Stage::new(json!({}));
    assert_eq!(stage.play(), ["prepare", "sandbox 0", "start app 0"]);
    assert_eq!(stage.life.started, Some(DAWN));
    assert_eq!((stage.plan.wake_at, &stage.plan.waits[..]), (None, &[][..]));
    assert!(!stage.at_rest());
}

#[test]
fn apps_start_together_and_an_action_is_never_begun_twice() {
    let mut stage = Stage::new(json!({"containers": [plain("a"), plain("b")]}));
    for job in [Job::Prepare, Job::Sandbox] {
        let [action] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
        assert_eq!(action.job(), job);
        stage.begin(action.clone());
        assert_eq!(stage.look().actions, [], "{job:?} is under way");
        stage.end(&job, Ending::Well);
    }
    let both: Vec<_> = stage.look().actions.iter().map(Action::job).collect();
    assert_eq!(both, [Job::Start("a".into()), Job::Start("b".into())]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let mut stage = running(json!({"initContainers": [plain("one"), plain("two")]}));
    assert_eq!(stage.life.unit("one").made, 1);
    assert_eq!(stage.play(), [""; 0], "it waits for the first");
    let waiting: Vec<_> =
        stage.plan.waits.iter().map(|w| w.container.as_deref().unwrap_or("-")).collect();
    assert_eq!(waiting, ["one", "two", "app"]);
    stage.exit("one", 0);
    assert_eq!(stage.play(), ["start two 0"]);
    stage.exit("two", 0);
    assert_eq!(stage.play(), ["start app 0"]);
}

#[test]
fn an_init_container_that_fails_is_tried_again_or_ends_the_pod() {
    // Policy of the pod, policy of the container, whether the pod goes on.
    let table = [
        ("Always", None, true),
        ("OnFailure", None, true),
        ("Never", None, false),
        ("Always", Some("Never"), false),
        ("Never", Some("OnFailure"), true),
    ];
    for (pod, own, goes_on) in table {
        let mut init = plain("init");
        if let Some(own) = own {
            init["restartPolicy"] = json!(own);
        }
        let mut stage = running(json!({"restartPolicy": pod, "initContainers": [init]}));
        stage.exit("init", 3);
        let done = stage.play();
        if goes_on {
            assert_eq!(done, ["start init 1"], "{pod} {own:?}");
            assert!(stage.life.verdict.is_none());
        } else {
            assert_eq!(done, ["stop sandbox 0", "settle"], "{pod} {own:?}");
            let verdict = stage.life.verdict.as_ref().expect("a verdict");
            assert!(!verdict.succeeded);
            assert!(stage.at_rest());
        }
    }
}

#[test]
fn a_sidecar_lets_the_next_one_go_on_when_it_is_up() {
    let mut probed = sidecar("probed");
    probed["startupProbe"] = json!({"tcpSocket": {"port": 1}});
    let mut hook = hooked("hook", "postStart");
    hook["restartPolicy"] = json!("Always");
    let mut stage = Stage::new(json!({"initContainers": [probed, hook, plain("init")]}));
    assert_eq!(stage.play(), ["prepare", "sandbox 0", "start probed 0"]);
    stage.probe("probed", false, false);
    assert_eq!(stage.play(), [""; 0]);
    stage.probe("probed", true, false);
    assert_eq!(
        stage.play(),
        ["start hook 0", "postStart hook", "start init 0"],
        "not its readiness"
    );
    stage.exit("init", 0);
    assert_eq!(stage.play(), ["start app 0"]);
}

#[test]
fn a_sidecar_is_started_again_and_holds_up_only_what_has_not_begun() {
    let mut stage = running(json!({
        "restartPolicy": "Never",
        "initContainers": [sidecar("side"), plain("init")],
    }));
    stage.exit("side", 0);
    assert_eq!(stage.play(), ["start side 1"], "while init containers run");
    stage.exit("init", 0);
    assert_eq!(stage.play(), ["start app 0"]);
    stage.exit("side", 1);
    stage.after(10);
    assert_eq!(stage.play(), ["start side 2", "remove side 0"], "beside the apps");
    stage.exit("app", 0);
    assert_eq!(
        stage.play(),
        ["kill side 30", "stop sandbox 0", "settle"],
        "it does not hold the pod"
    );
    assert!(stage.life.verdict.as_ref().is_some_and(|verdict| verdict.succeeded));
}

#[test]
fn a_sidecar_in_its_back_off_holds_up_nobody_once_it_has_been_up() {
    let mut stage = running(json!({"initContainers": [sidecar("side"), plain("init")]}));
    stage.exit("side", 1);
    assert_eq!(stage.play(), ["start side 1"]);
    stage.exit("side", 1);
    assert_eq!(stage.play(), [""; 0], "back-off");
    stage.exit("init", 0);
    assert_eq!(stage.play(), ["start app 0"]);
    assert_eq!(stage.life.unit("init").made, 1);
    stage.after(10);
    assert_eq!(stage.play()[0], "start side 2");
}

#[test]
fn a_sandbox_that_dies_is_made_anew_with_all_that_it_held() {
    let mut stage = running(json!({"initContainers": [plain("init")]}));
    stage.exit("init", 0);
    stage.play();
    let sandbox = stage.seen.sandboxes[0].id.clone();
    stage.sandbox_dies(&sandbox);
    let expected = ["kill app 30", "stop sandbox 0", "sandbox 1", "start init 1"];
    assert_eq!(stage.play()[..4], expected);
    stage.exit("init", 0);
    assert!(stage.play().contains(&"start app 1".to_owned()));
    assert_eq!(stage.life.sandboxes, 2);
}

#[test]
fn a_sandbox_is_made_anew_only_for_those_that_would_run() {
    // Policy, exit code of the app before the sandbox dies, and the result for the pod.
    let table = [
        ("Never", None, Some(false)),
        ("OnFailure", None, None),
        ("Always", None, None),
        ("Never", Some(0), Some(true)),
        ("OnFailure", Some(0), Some(true)),
        ("OnFailure", Some(1), None),
        ("Always", Some(0), None),
    ];
    for (policy, code, expected) in table {
        let mut stage = running(json!({"restartPolicy": policy}));
        if let Some(code) = code {
            stage.exit("app", code);
        }
        let sandbox = stage.seen.sandboxes[0].id.clone();
        stage.sandbox_dies(&sandbox);
        let done = stage.play();
        assert_eq!(
            stage.life.verdict.as_ref().map(|v| v.succeeded),
            expected,
            "{policy}: {done:?}"
        );
        assert_eq!(done.contains(&"sandbox 1".to_owned()), expected.is_none(), "{policy}");
    }
}

#[test]
fn a_sandbox_without_address_cannot_be_used() {
    let mut stage = running(json!({}));
    stage.seen.sandboxes[0].ips.clear();
    assert_eq!(stage.look().actions.len(), 1, "the app is ended first");
    stage.seen.sandboxes[0].host_network = true;
    assert_eq!(stage.look().actions, []);
}

#[test]
fn what_fails_for_the_pod_is_tried_again_later() {
    for (step, before) in [("prepare", 0), ("sandbox", 1)] {
        let mut stage = Stage::new(json!({}));
        stage.bad.insert(step.to_owned(), "Failed");
        assert_eq!(stage.play().len(), before + 1, "{step}");
        assert_eq!(stage.plan.wake_at, Some(seconds_after(DAWN, 10)));
        assert_eq!(stage.plan.waits[0].last_error.as_deref(), Some("no luck"));
        stage.bad.clear();
        stage.after(10);
        assert!(stage.play().contains(&"start app 0".to_owned()));
        assert_eq!(stage.life.trouble, None);
    }
}

#[test]
fn a_pod_that_has_begun_goes_on_while_its_preparation_fails() {
    let mut stage = running(json!({"restartPolicy": "OnFailure"}));
    stage.seen.prepared = false;
    stage.exit("app", 1);
    assert_eq!(stage.look().actions, [Action::Prepare], "it may still succeed");
    stage.bad.insert("prepare".to_owned(), "ResizeError");
    assert_eq!(stage.play(), ["prepare", "start app 1"]);
    assert_eq!(stage.plan.waits[0].last_error.as_deref(), Some("no luck"));
}

#[test]
fn a_pod_whose_apps_have_ended_needs_no_preparation() {
    let mut stage = running(json!({"restartPolicy": "Never"}));
    stage.agent_restarts();
    stage.exit("app", 0);
    assert_eq!(stage.look().actions.len(), 1);
    assert!(stage.life.verdict.as_ref().is_some_and(|verdict| verdict.succeeded));
    assert_eq!(stage.play()[0], "stop sandbox 0");
}

#[test]
fn a_pod_waits_for_the_one_that_it_replaces() {
    let mut stage = Stage::new(json!({}));
    stage.seen.predecessor = true;
    assert_eq!(stage.play(), [""; 0]);
    assert_eq!(stage.life.started, None);
    assert_eq!(stage.plan.waits[0].step, "the pod that it replaces ends");
    stage.seen.predecessor = false;
    assert_eq!(stage.play(), ["prepare", "sandbox 0", "start app 0"]);
}

#[test]
fn a_container_that_was_made_and_not_started_is_replaced_without_counting() {
    let mut stage = running(json!({}));
    stage.exit("app", 1);
    let kept = stage.newest("app").id;
    let [action] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    let job = action.job();
    stage.begin(action.clone());
    stage.end(&job, Ending::Halfway);
    stage.look();
    let stale = stage.newest("app");
    assert_eq!(stale.state, State::Created);
    stage.after(20);
    assert_eq!(stage.play(), ["start app 1"]);
    let unit = stage.life.unit("app");
    assert_eq!((unit.made, unit.previous.clone()), (2, Some(kept)), "the log of the one before");
    assert!(stage.seen.containers.iter().all(|container| container.id != stale.id));
}

fn wake(stage: &Stage) -> Option<i64> {
    stage.plan.wake_at.map(|at: UnixNanos| (at - stage.now) / SECOND)
}
