//! Rules that must hold in the lifecycle of every pod, whatever happens in whatever order.

use proptest::prelude::*;

use super::super::super::record::{Life, Unit};
use super::super::{Role, Wanted, wanted};
use super::*;

/// An event in the life of a pod, with a number for choices.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Ends(Ending),
    Exits(i32),
    Later(i64),
    SandboxDies,
    ProbeFails,
    ProbeSucceeds,
    Deleted(u64),
    AgentRestarts,
    OtherImage,
    Lost,
    Debugged,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => Just(Turn::Ends(Ending::Well)),
        3 => Just(Turn::Ends(Ending::Badly("ErrImagePull"))),
        1 => Just(Turn::Ends(Ending::Halfway)),
        4 => (0..3_i32).prop_map(Turn::Exits),
        4 => prop_oneof![0..15_i64, 0..700_i64].prop_map(Turn::Later),
        1 => Just(Turn::SandboxDies),
        1 => Just(Turn::ProbeFails),
        3 => Just(Turn::ProbeSucceeds),
        1 => (0..60_u64).prop_map(Turn::Deleted),
        1 => Just(Turn::AgentRestarts),
        1 => Just(Turn::OtherImage),
        1 => Just(Turn::Lost),
        1 => Just(Turn::Debugged),
    ]
}

fn container(prefix: &'static str) -> impl Strategy<Value = Value> {
    let policy = prop_oneof![
        3 => Just(None), 2 => Just(Some("Always")), 1 => Just(Some("OnFailure")),
        1 => Just(Some("Never")),
    ];
    (policy, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(policy, ruled, pre_stop, post_start, probed)| {
            let mut container = json!({"name": prefix, "image": "x:1", "lifecycle": {}});
            if let Some(policy) = policy {
                container["restartPolicy"] = json!(policy);
                if ruled {
                    let codes = json!({"operator": "In", "values": [0, 2]});
                    container["restartPolicyRules"] =
                        json!([{"action": "Restart", "exitCodes": codes}]);
                }
            }
            let plain_init = prefix == "init" && policy != Some("Always");
            let handler = json!({"exec": {"command": ["x"]}});
            if pre_stop && !plain_init {
                container["lifecycle"]["preStop"] = handler.clone();
            }
            if post_start && !plain_init {
                container["lifecycle"]["postStart"] = handler;
            }
            if probed && !plain_init {
                container["startupProbe"] = json!({"tcpSocket": {"port": 1}});
            }
            container
        },
    )
}

fn spec() -> impl Strategy<Value = Value> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let inits = prop::collection::vec(container("init"), 0..4);
    let apps = prop::collection::vec(container("app"), 1..3);
    let deadline = prop_oneof![3 => Just(None), 1 => (1..2000_i64).prop_map(Some)];
    (policy, inits, apps, deadline).prop_map(|(policy, inits, apps, deadline)| {
        let number = |list: Vec<Value>| {
            let numbered = list.into_iter().enumerate().map(|(i, mut container)| {
                let name = format!("{}{i}", container["name"].as_str().expect("a name"));
                container["name"] = json!(name);
                container
            });
            numbered.collect::<Vec<_>>()
        };
        json!({
            "restartPolicy": policy, "activeDeadlineSeconds": deadline,
            "initContainers": number(inits), "containers": number(apps),
        })
    })
}

fn happen(stage: &mut Stage, turn: Turn, pick: usize) {
    let live: Vec<_> = stage.seen.live().cloned().collect();
    let one = live.get(pick % live.len().max(1));
    match turn {
        Turn::Ends(ending) => {
            let jobs: Vec<_> = stage.under_way.keys().cloned().collect();
            if let Some(job) = jobs.get(pick % jobs.len().max(1)) {
                stage.end(job, ending);
            }
        }
        Turn::Exits(code) => one.iter().for_each(|c| stage.container_ends(&c.id, code)),
        Turn::Later(seconds) => stage.after(seconds),
        Turn::SandboxDies => {
            let newest = stage.seen.sandboxes.last().map(|sandbox| sandbox.id.clone());
            newest.iter().for_each(|id| stage.sandbox_dies(id));
        }
        Turn::ProbeFails => one.iter().for_each(|c| stage.probe_fails(&c.name, Some(3))),
        Turn::ProbeSucceeds => one.iter().for_each(|c| stage.probe(&c.name, true, true)),
        Turn::Deleted(grace) => stage.delete(Some(grace)),
        Turn::AgentRestarts => stage.agent_restarts(),
        Turn::OtherImage => {
            let names: Vec<_> = stage.life.units.keys().cloned().collect();
            let name = names.get(pick % names.len().max(1));
            name.iter().for_each(|name| stage.set_image(name, &format!("x:{pick}")));
        }
        Turn::Lost => {
            let id = one.map(|container| container.id.clone());
            stage.seen.containers.retain(|container| Some(&container.id) != id.as_ref());
        }
        Turn::Debugged => {
            let count = stage.life.given.spec().ephemeral_containers.iter().flatten().count();
            // Some target an app, some an app that the spec does not have.
            let target = [None, Some("app0"), Some("app1")][pick % 3];
            let name = format!("look{count}");
            stage.debug(json!({"name": name, "image": "x:1", "targetContainerName": target}));
        }
    }
}

/// Whether this init container is done in the current sandbox.
fn has_done(unit: Option<&Unit>, init: &Wanted<'_>, stage: &Stage) -> bool {
    let Some(current) = unit.and_then(|unit| unit.current.as_ref()) else { return false };
    let here = stage.seen.home().is_some_and(|home| home.id == current.sandbox);
    here && match init.role {
        Role::Sidecar => current.is_up(),
        _ => matches!(&current.state, State::Ended(end) if end.code == 0),
    }
}

fn check_start(stage: &Stage, name: &str) -> Result<(), TestCaseError> {
    let (life, given) = (&stage.life, stage.life.given.clone());
    let wanted = wanted(given.spec());
    prop_assert!(!stage.seen.live().any(|container| container.name == name), "{name} runs");
    let home = stage.seen.home().expect("a sandbox to start in").id.clone();
    if let Some(one) = wanted.iter().find(|w| w.name == name && w.role == Role::Ephemeral) {
        let ran = life.units.get(name).is_some_and(|unit| unit.ended().is_some());
        prop_assert!(!ran, "{name} ran before");
        let runs =
            |target: &str| stage.seen.live().any(|it| it.name == target && it.sandbox == home);
        prop_assert!(one.target.is_none_or(runs), "{name} starts without its target");
        return Ok(());
    }
    if super::super::apps_begun(life, &wanted, &home) {
        return Ok(());
    }
    let begun = |w: &Wanted<'_>| {
        let current = life.units.get(w.name).and_then(|unit| unit.current.as_ref());
        w.role.is_init() && current.is_some_and(|current| current.sandbox == home)
    };
    // All before the last started one had been done by then.
    let passed = wanted.iter().rposition(begun).unwrap_or(0);
    let ahead = wanted.iter().take_while(|w| w.name != name).skip(passed);
    for before in ahead.filter(|w| w.role.is_init()) {
        let done = has_done(life.units.get(before.name), before, stage);
        prop_assert!(done, "{name} starts ahead of {}", before.name);
    }
    Ok(())
}

fn check_actions(stage: &Stage, before: &Life) -> Result<(), TestCaseError> {
    let mut jobs = std::collections::BTreeSet::new();
    for action in &stage.plan.actions {
        let text = stage.text(action);
        prop_assert!(jobs.insert(action.job()), "{text} twice");
        if let Some(until) = stage.seen.busy.get(&action.job()) {
            prop_assert!(until.is_some() && action.deadline() < *until, "{text} again");
        }
        let ends = matches!(
            action,
            Action::Kill { .. }
                | Action::PreStop { .. }
                | Action::StopSandbox { .. }
                | Action::Settle
                | Action::Finish
        );
        prop_assert!(ends || !stage.life.is_ending(), "{text} after the end was decided");
        if let (Some(end), Some(deadline)) = (stage.life.deadline(), action.deadline()) {
            prop_assert!(deadline <= end, "{text} goes on for too long");
        }
        if matches!(action, Action::Finish | Action::Settle) {
            prop_assert_eq!(stage.seen.live().count(), 0, "{}", text);
        }
        if let Action::Start { name, attempt, .. } = action {
            check_start(stage, name)?;
            let made = before.units.get(name).map_or(0, |unit| unit.made);
            prop_assert!(*attempt + 1 >= made, "{text}: attempts go back");
        }
    }
    Ok(())
}

/// Invariants between two looks.
fn check(stage: &Stage, before: &Life) -> Result<(), TestCaseError> {
    let (life, now) = (&stage.life, stage.now);
    check_actions(stage, before)?;
    prop_assert!(stage.plan.wake_at.is_none_or(|at| at > now), "a busy loop");
    let goes_on = !stage.plan.actions.is_empty() || !stage.seen.busy.is_empty();
    let waits = stage.plan.wake_at.is_some() || stage.at_rest();
    prop_assert!(goes_on || waits || !life.is_ending(), "stuck: {:?}", stage.plan);
    prop_assert!(before.verdict.is_none() || before.verdict == life.verdict);
    if let (Some(old), Some(new)) = (&before.deletion, &life.deletion) {
        prop_assert!(new.grace <= old.grace);
    }
    for (name, unit) in &life.units {
        let restarts = unit.restarts();
        prop_assert!(restarts == 0 || !name.starts_with("look"), "{name}: {restarts} restarts");
    }
    for (name, unit) in &before.units {
        let new = life.units.get(name).and_then(|unit| unit.backoff);
        if let (Some(old), Some(new)) = (unit.backoff, new) {
            let quiet = now > seconds_after(old.updated, 600);
            prop_assert!(new.pause >= old.pause || quiet, "{name}: {old:?} then {new:?}");
        }
    }
    for container in stage.seen.live() {
        let same = stage.seen.live().filter(|other| other.name == container.name).count();
        prop_assert_eq!(same, 1, "{} runs twice", container.name);
    }
    Ok(())
}

/// Deletes the pod; from now on everything succeeds. It must be gone after a limited number of
/// looks.
fn finish(stage: &mut Stage) -> Result<(), TestCaseError> {
    stage.delete(Some(30));
    for _ in 0..60 {
        for action in stage.look().actions {
            stage.begin(action);
        }
        let jobs: Vec<_> = stage.under_way.keys().cloned().collect();
        for job in &jobs {
            stage.end(job, Ending::Well);
        }
        if stage.gone {
            return Ok(());
        }
        if jobs.is_empty() {
            let at = stage.plan.wake_at;
            prop_assert!(at.is_some(), "it hangs: {:?}", stage.plan);
            stage.now = at.unwrap_or(stage.now);
        }
    }
    Err(TestCaseError::fail(format!("it does not end: {:?}", stage.plan)))
}

/// One look; all planned actions are started. A pod once shown as ended must stay ended.
fn look(stage: &mut Stage, ended: &mut Option<String>) -> Result<(), TestCaseError> {
    let before = stage.life.clone();
    stage.look();
    check(stage, &before)?;
    for action in stage.plan.actions.clone() {
        stage.begin(action);
    }
    let phase = stage.status().phase;
    prop_assert!(ended.is_none() || *ended == phase, "{ended:?}, then {phase:?}");
    *ended = phase.filter(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn every_life_keeps_the_rules(
        spec in spec(),
        // The event, its target, and whether the pod is looked at before.
        turns in prop::collection::vec((turn(), 0..16_usize, prop::bool::weighted(0.8)), 0..100),
    ) {
        let mut stage = Stage::new(spec);
        let mut ended = None;
        let mut deadline = None;
        for (turn, pick, looks) in turns {
            if looks {
                look(&mut stage, &mut ended)?;
            }
            happen(&mut stage, turn, pick);
            let now = stage.life.deletion.as_ref().map(|deletion| deletion.deadline);
            if !matches!(turn, Turn::AgentRestarts) {
                prop_assert!(deadline.is_none() || now <= deadline, "grace grows");
            }
            deadline = now;
            if stage.gone {
                return Ok(());
            }
        }
        finish(&mut stage)?;
    }
}
