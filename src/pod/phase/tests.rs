//! Statuses of pods in every phase of their lifecycle.

mod conditions;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use serde_json::json;

use super::super::object::Source;
use super::super::record::{State, User, Verdict};
use super::super::rehearsal::{DAWN, Ending, SECOND, Stage};
use crate::board::EndReason;

/// State and last state of a container in a few words.
fn told(status: &ContainerStatus) -> (String, String) {
    let words = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        let Some(state) = state else { return String::new() };
        match (&state.waiting, &state.running, &state.terminated) {
            (Some(waiting), None, None) => waiting.reason.clone().unwrap_or_default(),
            (None, Some(_), None) => "running".to_owned(),
            (None, None, Some(end)) => {
                format!("{} {}", end.reason.clone().unwrap_or_default(), end.exit_code)
            }
            other => panic!("one of three: {other:?}"),
        }
    };
    (words(status.state.as_ref()), words(status.last_state.as_ref()))
}

fn app(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().expect("statuses")[0]
}

fn app_json(status: &PodStatus) -> serde_json::Value {
    serde_json::to_value(app(status)).expect("json")
}

fn init(status: &PodStatus) -> &ContainerStatus {
    &status.init_container_statuses.as_ref().expect("statuses")[0]
}

/// Phase, state and last state of the first app.
fn shown(stage: &mut Stage) -> (String, String, String) {
    let status = stage.status();
    let (state, last) = told(app(&status));
    (status.phase.clone().expect("a phase"), state, last)
}

fn check(stage: &mut Stage, (phase, state, last): (&str, &str, &str)) {
    assert_eq!(shown(stage), (phase.to_owned(), state.to_owned(), last.to_owned()));
}

fn deadline_exceeded() -> Verdict {
    Verdict {
        succeeded: false,
        reason: "DeadlineExceeded".to_owned(),
        message: "too long".to_owned(),
        at: DAWN,
        deadline: DAWN,
        disrupted: false,
    }
}

#[test]
fn a_plain_pod_comes_up() {
    let mut stage = Stage::new(json!({}));
    check(&mut stage, ("Pending", "ContainerCreating", ""));
    stage.play();
    check(&mut stage, ("Running", "running", ""));
    let status = stage.status();
    let it = app(&status);
    assert_eq!((it.ready, it.started, it.restart_count), (true, Some(true), 0));
    assert_eq!((it.image.as_str(), it.image_id.as_str()), ("registry.test/app:1", "sha256:1"));
    assert_eq!(it.stop_signal.as_deref(), Some("SIGTERM"));
    let id = it.container_id.as_deref().expect("an id");
    assert!(id.starts_with("containerd://"), "{id}");
    assert_eq!(status.pod_ip.as_deref(), Some("10.0.0.0"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.start_time.map(|time| time.0.as_second()), Some(DAWN / SECOND));
    assert_eq!((status.reason, status.message), (None, None));
}

#[test]
fn init_containers_come_first() {
    let mut stage = Stage::new(json!({"initContainers": [{"name": "init", "image": "init:1"}]}));
    check(&mut stage, ("Pending", "PodInitializing", ""));
    assert_eq!(told(init(&stage.status())).0, "PodInitializing");
    stage.play();
    check(&mut stage, ("Pending", "PodInitializing", ""));
    let status = stage.status();
    assert_eq!((told(init(&status)).0.as_str(), init(&status).ready), ("running", false));
    stage.exit("init", 0);
    stage.play();
    check(&mut stage, ("Running", "running", ""));
    let status = stage.status();
    assert_eq!((told(init(&status)).0.as_str(), init(&status).ready), ("Completed 0", true));
}

#[test]
fn an_init_container_that_fails_backs_off() {
    let mut stage = Stage::new(json!({"initContainers": [{"name": "init", "image": "init:1"}]}));
    stage.play();
    for _ in 0..2 {
        stage.exit("init", 2);
        stage.play();
    }
    let status = stage.status();
    assert_eq!(told(init(&status)), ("CrashLoopBackOff".to_owned(), "Error 2".to_owned()));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
}

#[test]
fn a_pod_whose_only_start_failed_was_never_running() {
    for (policy, phase) in [("Never", "Pending"), ("Always", "Running")] {
        let mut stage = Stage::new(json!({"restartPolicy": policy}));
        stage.play();
        let id = stage.newest("app").id;
        stage.seen.containers[0].state = State::Created;
        stage.container_ends(&id, 128);
        let State::Ended(end) = &mut stage.seen.containers[0].state else { panic!("it ended") };
        end.reason = EndReason::StartError;
        // Seen before the plan has decided that this is the end of the pod.
        super::super::observe::fold(&mut stage.life, &stage.seen, stage.now);
        assert_eq!(super::phase(&stage.life, &stage.seen).as_str(), phase, "{policy}");
    }
}

#[test]
fn a_container_that_was_not_started_is_no_restart() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    stage.exit("app", 3);
    let [action] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
    let job = action.job();
    stage.begin(action.clone());
    stage.end(&job, Ending::Halfway);
    stage.look();
    assert_eq!(stage.newest("app").state, State::Created);
    assert_eq!(app(&stage.status()).restart_count, 0);
    stage.after(20);
    stage.play();
    assert_eq!(app(&stage.status()).restart_count, 1);
}

#[test]
fn a_crash_is_shown_as_what_it_is() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    stage.exit("app", 3);
    stage.look();
    // The restart is decided and in progress.
    let [action] = &stage.plan.actions[..] else { panic!("one action: {:?}", stage.plan) };
    let job = action.job();
    stage.begin(action.clone());
    check(&mut stage, ("Running", "Error 3", ""));
    stage.end(&job, Ending::Well);
    stage.look();
    check(&mut stage, ("Running", "running", "Error 3"));
    assert_eq!(app(&stage.status()).restart_count, 1);
    stage.exit("app", 4);
    stage.play();
    check(&mut stage, ("Running", "CrashLoopBackOff", "Error 4"));
    let status = stage.status();
    let waiting = app(&status).state.as_ref().and_then(|state| state.waiting.as_ref());
    let expected = "back-off 10s restarting failed container=app pod=web_ns(u-1)";
    assert_eq!(waiting.and_then(|waiting| waiting.message.as_deref()), Some(expected));
    assert!(!app(&status).ready);
    assert_eq!(app(&status).started, Some(false));
    stage.after(10);
    stage.play();
    check(&mut stage, ("Running", "running", "Error 4"));
}

#[test]
fn long_pauses_are_told_as_go_does() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    let mut told = Vec::new();
    for _ in 0..7 {
        stage.exit("app", 1);
        if stage.play().is_empty() {
            let status = stage.status();
            let waiting = app(&status).state.as_ref().and_then(|state| state.waiting.clone());
            let message = waiting.and_then(|waiting| waiting.message).expect("a message");
            told.push(message.split(' ').nth(1).expect("a pause").to_owned());
            stage.after(300);
            stage.play();
        }
    }
    assert_eq!(told, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s"]);
}

#[test]
fn a_pull_that_fails_is_an_error_then_a_back_off() {
    let mut stage = Stage::new(json!({}));
    stage.bad.insert("start app".to_owned(), "ErrImagePull");
    stage.play();
    check(&mut stage, ("Pending", "ErrImagePull", ""));
    stage.after(5);
    check(&mut stage, ("Pending", "ImagePullBackOff", ""));
    let status = stage.status();
    let waiting = app(&status).state.as_ref().and_then(|state| state.waiting.clone());
    let expected = "Back-off pulling image \"app:1\": ErrImagePull: no luck";
    assert_eq!(waiting.and_then(|waiting| waiting.message).as_deref(), Some(expected));
    stage.delete(None);
    check(&mut stage, ("Failed", "ContainerStatusUnknown 137", ""));
}

#[test]
fn other_troubles_are_told_by_their_name() {
    for reason in ["CreateContainerConfigError", "ErrImageNeverPull", "InvalidImageName"] {
        let mut stage = Stage::new(json!({}));
        stage.bad.insert("start app".to_owned(), reason);
        stage.play();
        for _ in 0..2 {
            check(&mut stage, ("Pending", reason, ""));
            stage.after(6);
        }
    }
}

#[test]
fn trouble_with_a_restart_keeps_the_last_state() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    stage.exit("app", 5);
    stage.bad.insert("start app".to_owned(), "ErrImagePull");
    stage.play();
    check(&mut stage, ("Running", "ErrImagePull", "Error 5"));
}

#[test]
fn a_pod_that_may_end_ends() {
    // Policy, exit code, phase, state.
    let table = [
        ("Never", 0, "Succeeded", "Completed 0"),
        ("OnFailure", 0, "Succeeded", "Completed 0"),
        ("Never", 1, "Failed", "Error 1"),
    ];
    for (policy, code, phase, state) in table {
        let mut stage = Stage::new(json!({"restartPolicy": policy}));
        stage.play();
        stage.exit("app", code);
        stage.play();
        check(&mut stage, (phase, state, ""));
        assert_eq!(stage.status().pod_ip.as_deref(), Some("10.0.0.0"), "it had that");
    }
}

#[test]
fn a_pod_has_not_ended_while_something_of_it_runs() {
    let side = json!({"name": "side", "image": "side:1", "restartPolicy": "Always"});
    let mut stage = Stage::new(json!({"restartPolicy": "Never", "initContainers": [side]}));
    stage.play();
    stage.exit("app", 0);
    stage.look();
    assert!(stage.life.verdict.is_some());
    check(&mut stage, ("Running", "Completed 0", ""));
    stage.play();
    check(&mut stage, ("Succeeded", "Completed 0", ""));
}

#[test]
fn a_pod_of_several_apps_runs_when_all_have_begun() {
    let containers = json!([{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]);
    let mut stage = Stage::new(json!({"containers": containers, "restartPolicy": "Never"}));
    stage.bad.insert("start b".to_owned(), "ErrImagePull");
    stage.play();
    check(&mut stage, ("Pending", "running", ""));
    stage.bad.clear();
    stage.after(10);
    stage.play();
    check(&mut stage, ("Running", "running", ""));
    stage.exit("a", 1);
    stage.play();
    check(&mut stage, ("Running", "Error 1", ""));
    stage.exit("b", 0);
    stage.play();
    check(&mut stage, ("Failed", "Error 1", ""));
}

#[test]
fn a_container_is_not_shown_as_running_before_its_post_start_is_done() {
    let hook = json!({"postStart": {"exec": {"command": ["x"]}}});
    let app = json!({"name": "app", "image": "app:1", "lifecycle": hook});
    let mut stage = Stage::new(json!({"containers": [app]}));
    for _ in 0..3 {
        let [action] = &stage.look().actions[..] else { panic!("one action: {:?}", stage.plan) };
        let (action, job) = (action.clone(), action.job());
        stage.begin(action);
        stage.end(&job, Ending::Well);
    }
    stage.look();
    check(&mut stage, ("Pending", "ContainerCreating", ""));
    stage.play();
    check(&mut stage, ("Running", "running", ""));
}

#[test]
fn a_deleted_pod_runs_until_it_does_not() {
    let mut stage = Stage::new(json!({}));
    stage.play();
    stage.delete(None);
    stage.look();
    check(&mut stage, ("Running", "running", ""));
    stage.exit("app", 0);
    stage.look();
    check(&mut stage, ("Succeeded", "Completed 0", ""));
}

#[test]
fn a_verdict_from_outside_is_told_with_its_reason() {
    let mut stage = Stage::new(json!({}));
    stage.life.judge(Verdict {
        succeeded: false,
        reason: "OutOfcpu".to_owned(),
        message: "Node didn't have enough resource: cpu".to_owned(),
        at: DAWN,
        deadline: DAWN,
        disrupted: false,
    });
    stage.play();
    let status = stage.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(status.message.as_deref(), Some("Node didn't have enough resource: cpu"));
}

#[test]
fn a_pod_that_was_not_taken_has_no_containers_to_tell_of() {
    let mut stage = Stage::new(json!({}));
    stage.life.rejected = true;
    stage.life.started = Some(DAWN);
    stage.life.judge(Verdict {
        succeeded: false,
        reason: "NodePorts".to_owned(),
        message: "Pod was rejected: Predicate NodePorts failed".to_owned(),
        at: DAWN,
        deadline: DAWN,
        disrupted: false,
    });
    stage.play();
    let status = stage.status();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    assert_eq!((status.container_statuses, status.conditions, status.host_ip), (None, None, None));
    assert_eq!(status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(status.start_time.map(|time| time.0.as_second()), Some(DAWN / SECOND));
}

#[test]
fn mounts_and_user_of_a_container_are_told() {
    let mounts = json!([
        {"name": "v", "mountPath": "/rw"},
        {"name": "v", "mountPath": "/ro", "readOnly": true, "recursiveReadOnly": "IfPossible"},
        {"name": "v", "mountPath": "/plain", "readOnly": true},
    ]);
    let app = json!({"name": "app", "image": "app:1", "volumeMounts": mounts,
                     "resources": {"requests": {"cpu": "1"}}});
    let mut stage = Stage::new(json!({"containers": [app]}));
    let told = |stage: &mut Stage| app_json(&stage.status());
    let before = told(&mut stage);
    assert!(before["resources"].is_null() && before["volumeMounts"][0]["name"] == "v");
    stage.play();
    let user = User { uid: 7, gid: 8, groups: vec![8, 9] };
    stage.seen.containers[0].user = Some(user);
    stage.look();
    let running = told(&mut stage);
    for (supported, if_possible) in [(true, "Enabled"), (false, "Disabled")] {
        stage.seen.recursive_read_only = supported;
        let running = told(&mut stage);
        let recursive = |at: usize| running["volumeMounts"][at]["recursiveReadOnly"].clone();
        assert_eq!(
            [recursive(0), recursive(1), recursive(2)],
            [json!(null), json!(if_possible), json!("Disabled")]
        );
    }
    assert_eq!(running["user"]["linux"], json!({"uid": 7, "gid": 8, "supplementalGroups": [8, 9]}));
    assert_eq!(running["resources"]["requests"], json!({"cpu": "1"}));
    assert_eq!(running["allocatedResources"], json!({"cpu": "1"}));
    assert_eq!(stage.status().observed_generation, Some(1));
}

#[test]
fn apps_are_told_by_name_and_init_containers_in_their_order() {
    let names = json!([{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:1"}]);
    let inits = json!([{"name": "d", "image": "d:1"}, {"name": "c", "image": "c:1"}]);
    let status = Stage::new(json!({"containers": names, "initContainers": inits})).status();
    let names = |list: Option<Vec<ContainerStatus>>| -> Vec<String> {
        list.into_iter().flatten().map(|status| status.name).collect()
    };
    assert_eq!(names(status.container_statuses), ["a", "b"]);
    assert_eq!(names(status.init_container_statuses), ["d", "c"]);
}

#[test]
fn a_vanished_container_is_told_as_such() {
    let mut stage = Stage::new(json!({"restartPolicy": "Never"}));
    stage.play();
    stage.seen.containers.clear();
    stage.play();
    check(&mut stage, ("Failed", "ContainerStatusUnknown 137", ""));
}

#[test]
fn a_container_that_never_ran_has_ended_with_its_pod() {
    const NEVER: &str = "ContainerStatusUnknown 137";
    let init = json!([{"name": "init", "image": "init:1"}, {"name": "next", "image": "next:1"}]);
    // Whether it has init containers, what fails, then the states of the first init container, the
    // second one and the app.
    let table = [
        (json!({}), "start app", ["", "", NEVER]),
        (
            json!({"initContainers": init}),
            "start init",
            [NEVER, "PodInitializing", "PodInitializing"],
        ),
        (
            json!({"initContainers": init}),
            "start next",
            ["Completed 0", "PodInitializing", "PodInitializing"],
        ),
        (json!({"initContainers": init}), "start app", ["Completed 0", "Completed 0", NEVER]),
    ];
    for (spec, fails, expected) in table {
        for deleted in [true, false] {
            let mut stage = Stage::new(spec.clone());
            stage.bad.insert(fails.to_owned(), "ErrImagePull");
            stage.play();
            for name in ["init", "next"] {
                if stage.seen.containers.iter().any(|found| found.name == name) {
                    stage.exit(name, 0);
                    stage.play();
                }
            }
            assert_eq!(stage.status().phase.as_deref(), Some("Pending"), "{fails}");
            if deleted {
                stage.delete(None);
            } else {
                stage.life.judge(deadline_exceeded());
            }
            stage.play();
            let status = stage.status();
            let inits = status.init_container_statuses.iter().flatten();
            let mut states: Vec<_> = inits.map(|status| told(status).0).collect();
            states.resize(2, String::new());
            states.push(told(app(&status)).0);
            assert_eq!(states, expected, "{fails} {deleted}");
            assert_eq!(status.phase.as_deref(), Some("Failed"), "{fails} {deleted}");
        }
    }
}

#[test]
fn a_deleted_static_pod_that_never_ran_keeps_its_phase() {
    let mut stage = Stage::new(json!({}));
    stage.life.given.source = Source::File;
    stage.bad.insert("start app".to_owned(), "ErrImagePull");
    stage.play();
    stage.delete(None);
    stage.play();
    check(&mut stage, ("Pending", "ContainerCreating", ""));
}

#[test]
fn a_container_of_unknown_state_may_run() {
    let mut stage = Stage::new(json!({"restartPolicy": "Never"}));
    stage.play();
    stage.seen.containers[0].state = State::Unknown;
    stage.look();
    assert_eq!(stage.status().phase.as_deref(), Some("Running"));
    assert!(!app(&stage.status()).ready);
}
