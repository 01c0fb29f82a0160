//! Restarts, back-off, probes and hooks of a running pod.

use super::*;
use crate::board::EndReason;
use crate::pod::observe::doom;

#[test]
fn the_restart_policy_decides() {
    // Policy of the pod, of the container, exit code, whether it is started again.
    let table = [
        ("Always", None, 0, true),
        ("Always", None, 1, true),
        ("OnFailure", None, 0, false),
        ("OnFailure", None, 1, true),
        ("Never", None, 0, false),
        ("Never", None, 1, false),
        ("Never", Some("Always"), 0, true),
        ("Always", Some("Never"), 1, false),
        ("Always", Some("OnFailure"), 0, false),
        ("Never", Some("OnFailure"), 1, true),
    ];
    for (pod, own, code, again) in table {
        let mut app = plain("app");
        if let Some(own) = own {
            app["restartPolicy"] = json!(own);
        }
        let mut stage = running(json!({"restartPolicy": pod, "containers": [app]}));
        stage.exit("app", code);
        let done = stage.play();
        let verdict = stage.life.verdict.as_ref().map(|verdict| verdict.succeeded);
        if again {
            assert_eq!(
                (done, verdict),
                (vec!["start app 1".to_owned()], None),
                "{pod} {own:?} {code}"
            );
        } else {
            assert_eq!(done, ["stop sandbox 0", "settle"], "{pod} {own:?} {code}");
            assert_eq!(verdict, Some(code == 0), "{pod} {own:?} {code}");
        }
    }
}

#[test]
fn a_pod_lives_until_its_last_app_has_ended() {
    let mut stage = running(json!({
        "restartPolicy": "Never", "containers": [plain("a"), plain("b")],
    }));
    stage.exit("a", 1);
    assert_eq!(stage.play(), [""; 0]);
    stage.exit("b", 0);
    assert_eq!(stage.play(), ["stop sandbox 0", "settle"]);
    assert!(stage.life.verdict.as_ref().is_some_and(|verdict| !verdict.succeeded));
}

#[test]
fn the_first_restart_is_made_at_once_and_the_pauses_double() {
    let mut stage = running(json!({}));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        stage.after(1);
        stage.exit("app", 1);
        if stage.play().is_empty() {
            let pause = wake(&stage).expect("a time to look again");
            pauses.push(pause);
            assert_eq!(stage.plan.waits[0].step, "wait for back-off");
            stage.after(pause - 1);
            assert_eq!(stage.play(), [""; 0], "a second too early");
            stage.after(1);
            assert_eq!(stage.play()[0], format!("start app {}", pauses.len() + 1));
        }
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(stage.life.unit("app").restarts(), 8);
}

#[test]
fn ten_quiet_minutes_end_the_back_off() {
    let mut stage = running(json!({}));
    for pause in [0, 10, 20] {
        stage.exit("app", 1);
        stage.after(pause);
        stage.play();
    }
    stage.after(601);
    stage.exit("app", 1);
    assert!(stage.play().contains(&"start app 4".to_owned()), "at once");
    stage.exit("app", 1);
    stage.look();
    assert_eq!(wake(&stage), Some(10), "from the beginning");
}

#[test]
fn other_limits_wait_for_the_end_of_who_restarts_for_them() {
    let mut stage = running(json!({"restartPolicy": "OnFailure"}));
    stage.seen.prepared = false;
    let (now, unit) = (stage.now, stage.life.unit("app"));
    let current = unit.current.as_mut().expect("a container");
    unit.again = Some(current.id.clone());
    doom(current, "resize".to_owned(), std::time::Duration::from_secs(30), now);
    current.doom.iter_mut().for_each(|doom| doom.for_resize = true);
    assert_eq!(stage.play(), ["kill app 30", "prepare", "start app 1"]);
    assert_eq!(stage.life.unit("app").backoff, None, "no failure");
}

#[test]
fn a_pod_may_ask_for_other_pauses() {
    let mut stage = running(json!({}));
    stage.note("backoff.podbay.io/initial", "2s");
    stage.note("backoff.podbay.io/longest", "3s");
    stage.note("backoff.podbay.io/exempt-success", "true");
    for code in [0, 0, 0] {
        stage.exit("app", code);
        assert!(stage.play()[0].starts_with("start app"), "a success waits for nothing");
    }
    let mut pauses = Vec::new();
    for _ in 0..4 {
        stage.exit("app", 1);
        if !stage.play().iter().any(|done| done.starts_with("start app")) {
            let pause = wake(&stage).expect("a time to look again");
            pauses.push(pause);
            stage.after(pause);
            stage.play();
        }
    }
    assert_eq!(pauses, [2, 3, 3]);
}

#[test]
fn a_restart_of_the_agent_keeps_the_back_off() {
    let mut stage = running(json!({}));
    stage.exit("app", 1);
    stage.play();
    stage.exit("app", 1);
    stage.after(3);
    stage.agent_restarts();
    assert_eq!(stage.play(), ["prepare"]);
    assert_eq!(wake(&stage), Some(7));
}

#[test]
fn pulls_that_fail_have_pauses_of_their_own() {
    let mut stage = Stage::new(json!({}));
    stage.bad.insert("start app".to_owned(), "ErrImagePull");
    stage.play();
    for pause in [10, 20, 40, 80, 160, 300, 300] {
        let turns = (pause / 2).min(10);
        assert_eq!(wake(&stage), Some(turns), "its status changes");
        stage.after(turns);
        assert_eq!(stage.play(), [""; 0]);
        assert_eq!(wake(&stage), Some(pause - turns), "and not again before the next try");
        assert_eq!(stage.plan.waits[0].step, "pull the image");
        assert!(stage.life.unit("app").trouble.as_ref().is_some_and(|it| it.backs_off));
        stage.after(pause - turns);
        assert_eq!(stage.play(), ["start app 0"]);
    }
    stage.bad.clear();
    stage.after(300);
    stage.play();
    let unit = stage.life.unit("app");
    assert_eq!((unit.trouble.clone(), unit.backoff, unit.made), (None, None, 1));
}

#[test]
fn post_start_runs_once_and_its_failure_ends_the_container() {
    let spec = json!({"containers": [hooked("app", "postStart")]});
    let mut stage = Stage::new(spec.clone());
    assert_eq!(stage.play()[2..], ["start app 0", "postStart app"]);
    assert_eq!(stage.play(), [""; 0]);
    let mut stage = Stage::new(spec);
    stage.bad.insert("postStart app".to_owned(), "PostStartHookError");
    let done = stage.play();
    assert_eq!(done[2..6], ["start app 0", "postStart app", "kill app 30", "start app 1"]);
}

#[test]
fn a_failed_probe_ends_a_container_with_the_grace_of_the_probe() {
    for (grace, expected) in [(None, "kill app 40"), (Some(5), "kill app 5")] {
        let mut stage = running(json!({"terminationGracePeriodSeconds": 40}));
        stage.probe_fails("app", grace);
        stage.look();
        stage.probe("app", true, true);
        let done = stage.play();
        assert_eq!(done, [expected, "start app 1"], "the decision stands");
    }
}

#[test]
fn a_failed_probe_of_an_old_container_harms_nobody() {
    let mut stage = running(json!({}));
    stage.probe_fails("app", None);
    stage.exit("app", 1);
    assert_eq!(stage.play(), ["start app 1"]);
    assert_eq!(stage.play(), [""; 0]);
}

#[test]
fn a_failed_probe_follows_the_restart_policy() {
    let mut stage = running(json!({"restartPolicy": "Never"}));
    stage.probe_fails("app", None);
    assert_eq!(stage.play(), ["kill app 30", "stop sandbox 0", "settle"]);
    assert!(stage.life.verdict.as_ref().is_some_and(|verdict| !verdict.succeeded));
}

#[test]
fn another_image_restarts_what_runs_and_wakes_nothing_that_is_done() {
    let mut stage = running(json!({
        "restartPolicy": "OnFailure", "containers": [plain("a"), plain("b")],
    }));
    stage.exit("a", 0);
    stage.play();
    stage.set_image("a", "plain:2");
    assert_eq!(stage.play(), [""; 0], "it has succeeded");
    stage.set_image("b", "plain:2");
    assert_eq!(stage.play(), ["kill b 30", "start b 1"]);
    assert_eq!(stage.life.unit("b").backoff, None, "no failure");
}

#[test]
fn another_image_of_an_init_container_begins_anew() {
    let mut stage = running(json!({"initContainers": [plain("init")]}));
    stage.exit("init", 0);
    stage.play();
    stage.set_image("init", "plain:2");
    let expected = ["kill app 30", "stop sandbox 0", "sandbox 1", "start init 1"];
    assert_eq!(stage.play()[..4], expected);
}

#[test]
fn a_container_whose_state_is_unknown_is_ended_before_it_is_started_again() {
    let mut stage = running(json!({}));
    stage.seen.containers[0].state = State::Unknown;
    assert_eq!(stage.play(), ["kill app 30", "start app 1"]);
}

#[test]
fn only_the_newest_two_containers_are_kept() {
    let mut stage = running(json!({}));
    for code in 1..4 {
        stage.exit("app", code);
        stage.after(601);
        stage.play();
        let count = stage.seen.containers.len();
        assert_eq!(count, 2, "the running one and the one before, for its log");
    }
    stage.seen.containers.retain(|container| container.attempt == 3);
    stage.look();
    assert_eq!(stage.life.unit("app").previous, None);
    assert_eq!(stage.life.unit("app").last.as_ref().map(|end| end.code), Some(3));
}

#[test]
fn a_container_that_vanished_counts_as_failed() {
    let mut stage = running(json!({"restartPolicy": "OnFailure"}));
    stage.seen.containers.clear();
    assert_eq!(stage.play(), ["start app 1"]);
    let last = stage.life.unit("app").last.clone().expect("an end");
    assert_eq!((last.code, last.reason), (137, EndReason::ContainerStatusUnknown));
    assert_eq!(stage.life.unit("app").previous, None, "there is nothing of it to read");
}
