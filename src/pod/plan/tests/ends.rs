//! Deletion, deadlines, verdicts.

use std::time::Duration;

use super::*;

fn grace(stage: &Stage) -> u64 {
    stage.life.deletion.as_ref().expect("a deletion").grace.as_secs()
}

#[test]
fn a_deleted_pod_is_taken_down_in_order() {
    let mut stage = running(json!({"containers": [plain("a"), plain("b")]}));
    stage.delete(None);
    assert_eq!(stage.play(), ["kill a 30", "kill b 30", "stop sandbox 0", "finish"]);
    assert!(stage.gone);
}

#[test]
fn the_grace_period_is_the_callers_or_the_pods_and_one_second_at_least() {
    // Of the pod, of the caller, in force.
    let table = [
        (None, None, 30),
        (Some(5), None, 5),
        (Some(5), Some(60), 60),
        (Some(5), Some(0), 1),
        (Some(0), None, 1),
    ];
    for (of_pod, of_caller, expected) in table {
        let mut stage = running(json!({"terminationGracePeriodSeconds": of_pod}));
        stage.delete(of_caller);
        assert_eq!(grace(&stage), expected, "{of_pod:?} {of_caller:?}");
        assert_eq!(stage.play()[0], format!("kill app {expected}"));
    }
}

#[test]
fn the_grace_period_only_shrinks() {
    let mut stage = running(json!({}));
    stage.delete(Some(60));
    let [kill] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    stage.begin(kill.clone());
    assert_eq!(wake(&stage), Some(60));
    stage.delete(Some(90));
    assert_eq!((stage.look().actions, grace(&stage)), (vec![], 60));
    stage.after(10);
    stage.delete(Some(5));
    let [kill] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    assert_eq!((stage.text(kill), grace(&stage)), ("kill app 5".to_owned(), 5));
    stage.begin(kill.clone());
    stage.after(6);
    assert_eq!(stage.look().actions, []);
    assert_eq!(stage.plan.wake_at, None, "a time that has passed wakes nobody");
}

#[test]
fn a_forced_deletion_hides_the_pod_and_ends_it_all_the_same() {
    let mut stage = running(json!({}));
    stage.life.delete(Some(Duration::ZERO), true, stage.now);
    assert!(stage.life.deletion.as_ref().is_some_and(|deletion| deletion.hidden));
    stage.delete(None);
    assert!(stage.life.deletion.as_ref().is_some_and(|deletion| deletion.hidden), "for good");
    assert_eq!(stage.play(), ["kill app 1", "stop sandbox 0", "finish"]);
}

#[test]
fn another_agent_grants_the_whole_grace_period_again() {
    let mut stage = running(json!({}));
    stage.delete(Some(20));
    let [kill] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    stage.begin(kill.clone());
    stage.after(500);
    stage.agent_restarts();
    assert_eq!(stage.play(), ["kill app 20", "stop sandbox 0", "finish"]);
}

#[test]
fn sidecars_end_after_the_apps_the_last_one_first() {
    let mut stage = running(json!({"initContainers": [sidecar("one"), sidecar("two")]}));
    stage.delete(None);
    let expected = ["kill app 30", "kill two 30", "kill one 30", "stop sandbox 0", "finish"];
    assert_eq!(stage.play(), expected);
}

#[test]
fn sidecars_end_at_the_deadline_whoever_still_runs() {
    let mut stage = running(json!({"initContainers": [sidecar("one"), sidecar("two")]}));
    stage.delete(Some(10));
    let [kill] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    stage.begin(kill.clone());
    stage.after(10);
    let late: Vec<_> = stage.look().actions.iter().map(|action| stage.text(action)).collect();
    assert_eq!(late, ["kill one 0", "kill two 0"]);
}

#[test]
fn a_sidecars_pre_stop_runs_ahead_and_once() {
    let mut side = hooked("side", "preStop");
    side["restartPolicy"] = json!("Always");
    let mut stage = running(json!({"initContainers": [side]}));
    stage.delete(None);
    let actions = stage.look().actions;
    let jobs: Vec<_> = actions.iter().map(|action| stage.text(action)).collect();
    assert_eq!(jobs, ["preStop side", "kill app 30"]);
    for action in actions.clone() {
        stage.begin(action);
    }
    let kill = actions.iter().map(Action::job).find(|job| matches!(job, Job::Kill(_)));
    stage.end(&kill.expect("a kill"), Ending::Well);
    assert_eq!(stage.look().actions, [], "its turn has come, but its hook still runs");
    let hook = actions.iter().map(Action::job).find(|job| matches!(job, Job::PreStop(_)));
    stage.end(&hook.expect("a hook"), Ending::Well);
    let [Action::Kill { pre_stop, name, .. }] = &stage.look().actions[..] else {
        panic!("one kill: {:?}", stage.plan)
    };
    assert_eq!((name.as_str(), *pre_stop), ("side", false));
}

#[test]
fn a_hook_that_runs_at_the_deadline_is_not_run_again() {
    let mut side = hooked("side", "preStop");
    side["restartPolicy"] = json!("Always");
    let mut stage = running(json!({"initContainers": [side]}));
    stage.delete(Some(10));
    for action in stage.look().actions {
        stage.begin(action);
    }
    stage.after(10);
    let [Action::Kill { pre_stop, name, .. }] = &stage.look().actions[..] else {
        panic!("one kill: {:?}", stage.plan)
    };
    assert_eq!((name.as_str(), *pre_stop), ("side", false));
}

#[test]
fn a_deletion_stops_starts_and_waits_for_what_cannot_be_stopped() {
    let mut stage = Stage::new(json!({}));
    for _ in 0..3 {
        let [action] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
        let (action, job) = (action.clone(), action.job());
        stage.begin(action);
        let mut life = stage.life.clone();
        std::mem::swap(&mut life, &mut stage.life);
        stage.delete(None);
        let plan = stage.look();
        assert_eq!(plan.actions, [], "while {job:?}");
        assert!(plan.cancel.contains(&job));
        stage.life = life;
        stage.end(&job, Ending::Well);
    }
}

#[test]
fn a_pod_that_never_ran_is_just_taken_away() {
    let mut stage = Stage::new(json!({}));
    stage.delete(None);
    assert_eq!(stage.play(), ["finish"]);
    assert_eq!(stage.life.started, None);
}

#[test]
fn steps_of_an_end_that_fail_are_tried_again() {
    for step in ["kill app", "stop sandbox", "finish"] {
        let mut stage = running(json!({}));
        stage.delete(Some(300));
        stage.bad.insert(step.to_owned(), "Failed");
        let done = stage.play();
        assert!(done.last().is_some_and(|last| last.starts_with(step)), "{step}: {done:?}");
        assert_eq!(wake(&stage), Some(1));
        assert!(stage.plan.waits.iter().any(|w| w.last_error.as_deref() == Some("no luck")));
        stage.bad.clear();
        stage.after(1);
        assert_eq!(stage.play().last().map(String::as_str), Some("finish"));
    }
}

#[test]
fn a_pod_that_is_active_for_too_long_fails() {
    let mut stage = running(json!({"activeDeadlineSeconds": 60}));
    stage.look();
    assert_eq!(wake(&stage), Some(60));
    stage.after(59);
    assert_eq!(stage.play(), [""; 0]);
    stage.after(1);
    assert_eq!(stage.play(), ["kill app 30", "stop sandbox 0", "settle"]);
    let verdict = stage.life.verdict.clone().expect("a verdict");
    assert_eq!((verdict.succeeded, verdict.reason.as_str()), (false, "DeadlineExceeded"));
    assert!(stage.at_rest());
}

#[test]
fn a_verdict_is_final_and_the_pod_stays_until_it_is_deleted() {
    let mut stage = running(json!({"restartPolicy": "Never", "activeDeadlineSeconds": 60}));
    stage.exit("app", 0);
    stage.play();
    let verdict = stage.life.verdict.clone().expect("a verdict");
    stage.after(100);
    stage.set_image("app", "app:2");
    stage.agent_restarts();
    assert_eq!(stage.play(), [""; 0]);
    assert_eq!((stage.at_rest(), stage.plan.wake_at), (true, None));
    assert_eq!(stage.life.verdict, Some(verdict));
    stage.delete(None);
    assert_eq!(stage.play(), ["finish"]);
}

#[test]
fn nothing_is_begun_in_the_moment_of_the_verdict() {
    let mut stage = running(json!({
        "restartPolicy": "Never", "initContainers": [sidecar("side")],
    }));
    stage.exit("side", 1);
    stage.exit("app", 0);
    assert_eq!(stage.play(), ["stop sandbox 0", "settle"]);
}

#[test]
fn a_restart_that_was_asked_for_needs_no_policy_and_no_back_off() {
    let mut stage = running(json!({"restartPolicy": "Never"}));
    let id = stage.newest("app").id;
    stage.life.unit("app").again = Some(id.clone());
    stage.container_ends(&id, 0);
    assert_eq!(stage.play(), ["start app 1"]);
    let unit = stage.life.unit("app");
    assert_eq!((unit.again.clone(), unit.backoff), (None, None));
}

#[test]
fn another_agent_grants_it_after_verdicts_and_failed_probes_too() {
    let spec = json!({"initContainers": [sidecar("side")], "restartPolicy": "Never"});
    // Whether the host ends, and the seconds left to the sidecar.
    for (host_ends, left) in [(false, 30), (true, 10)] {
        let mut stage = running(spec.clone());
        stage.exit("app", 0);
        stage.look();
        stage.life.ended_with = host_ends.then(|| "boot-1".to_owned());
        stage.after(20);
        for _ in 0..2 {
            stage.agent_restarts();
            let [kill] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
            assert_eq!(stage.text(kill), format!("kill side {left}"));
        }
    }
    let mut stage = running(json!({}));
    stage.probe_fails("app", None);
    stage.look();
    stage.after(20);
    stage.agent_restarts();
    assert!(stage.play().contains(&"kill app 30".to_owned()));
}
