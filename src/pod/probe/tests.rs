mod fine;
mod world;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Probe;

use self::world::*;
use super::*;
use crate::pod::handler::{ExecEnd, ExecError};

#[tokio::test(start_paused = true)]
async fn without_probes_a_container_is_started_and_ready() {
    let world = World::new();
    world.prober.sync("u", vec![target(pod(&[]))]);
    let state = world.state();
    assert!(state.started && state.ready && state.failed.is_none());
    assert!(world.changes.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn initial_values_are_those_of_the_kubelet() {
    use Kind::{Liveness, Readiness, Startup};
    for (kinds, started, ready) in [
        (&[Readiness][..], true, false),
        (&[Liveness][..], true, true),
        (&[Startup][..], false, false),
        (&[Startup, Liveness, Readiness][..], false, false),
    ] {
        let world = World::new();
        world.prober.sync("u", vec![target(pod(kinds))]);
        let state = world.state();
        assert_eq!((state.started, state.ready), (started, ready), "{kinds:?}");
        assert_eq!(state.failed, None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_question_comes_after_the_initial_delay_and_then_one_a_period() {
    let world = World::new();
    let mut pod = pod(&[Kind::Readiness]);
    set(&mut pod, Kind::Readiness, |probe| {
        probe.initial_delay_seconds = Some(5);
        probe.period_seconds = Some(3);
    });
    world.prober.sync("u", vec![target(pod)]);
    after(4).await;
    assert!(!world.state().ready);
    after(8).await;
    assert!(world.state().ready);
    assert_eq!(world.asked("readiness"), [5000, 8000, 11000]);
    assert_eq!(*world.changes.lock(), ["u"]);
}

#[tokio::test(start_paused = true)]
async fn the_initial_delay_counts_from_the_start_of_the_container() {
    let world = World::new();
    after(60).await; // The container is younger than the agent.
    let mut pod = pod(&[Kind::Readiness]);
    set(&mut pod, Kind::Readiness, |probe| probe.initial_delay_seconds = Some(5));
    let mut target = target(pod);
    target.started_at = NOW - 3 * SECOND;
    // The clock stands still, so the prober's start is set back.
    let world = World { prober: Prober { born: 0, ..world.prober }, ..world };
    world.prober.sync("u", vec![target]);
    after(3).await;
    assert_eq!(world.asked("readiness"), [62_000]);
}

#[tokio::test(start_paused = true)]
async fn defaults_are_ten_seconds_and_three_failures() {
    let world = World::new();
    let mut pod = pod(&[Kind::Liveness]);
    set(&mut pod, Kind::Liveness, |probe| {
        *probe = Probe { exec: probe.exec.clone(), ..Probe::default() };
    });
    world.answer("liveness", Answer::Code(1));
    world.prober.sync("u", vec![target(pod)]);
    after(19).await;
    assert_eq!(world.state().failed, None);
    after(2).await;
    assert!(world.state().failed.is_some());
    assert_eq!(world.asked("liveness"), [0, 10_000, 20_000]);
}

#[tokio::test(start_paused = true)]
async fn thresholds_count_answers_in_a_row() {
    let world = World::new();
    let mut pod = pod(&[Kind::Readiness]);
    set(&mut pod, Kind::Readiness, |probe| {
        probe.success_threshold = Some(2);
        probe.failure_threshold = Some(3);
    });
    world.prober.sync("u", vec![target(pod)]);
    let mut seen = Vec::new();
    for code in [0, 1, 0, 0, 1, 1, 0, 1, 1, 1] {
        world.answer("readiness", Answer::Code(code));
        after(1).await;
        seen.push(u8::from(world.state().ready));
        after(9).await;
    }
    assert_eq!(seen, [0, 0, 0, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(world.changes.lock().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_others_wait_for_the_startup_probe() {
    let world = World::new();
    let all = [Kind::Startup, Kind::Liveness, Kind::Readiness];
    world.answer("startup", Answer::Code(1));
    world.prober.sync("u", vec![target(pod(&all))]);
    after(15).await;
    world.answer("startup", Answer::Code(0));
    after(6).await;
    assert_eq!(world.asked("startup"), [0, 10_000, 20_000]);
    // At once rather than at the next period, as in a kubelet.
    assert_eq!(world.asked("readiness"), [20_000]);
    assert_eq!(world.asked("liveness"), [20_000]);
    let state = world.state();
    assert!(state.started && state.ready && state.failed.is_none());
    after(100).await;
    assert_eq!(world.asked("startup").len(), 3, "a startup probe ends with its success");
}

#[tokio::test(start_paused = true)]
async fn a_container_that_does_not_start_is_failed_once_and_left_alone() {
    let world = World::new();
    let mut pod = pod(&[Kind::Startup, Kind::Liveness]);
    set(&mut pod, Kind::Startup, |probe| {
        probe.failure_threshold = Some(2);
        probe.termination_grace_period_seconds = Some(3);
    });
    world.answer("startup", Answer::Code(1));
    world.prober.sync("u", vec![target(pod)]);
    after(100).await;
    let failure = world.state().failed.unwrap();
    assert_eq!((failure.kind, failure.grace), (Kind::Startup, Some(3)));
    assert_eq!(failure.killing("web"), "Container web failed startup probe, will be restarted");
    assert_eq!(world.asked("startup").len(), 2);
    assert!(world.asked("liveness").is_empty());
    assert_eq!(world.changes.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_liveness_failure_is_held_until_the_container_is_a_new_one() {
    let world = World::new();
    let pod = pod(&[Kind::Liveness]);
    world.answer("liveness", Answer::Code(1));
    world.prober.sync("u", vec![target(pod.clone())]);
    after(25).await;
    let failure = world.state().failed.unwrap();
    assert_eq!((failure.kind, failure.message.as_str()), (Kind::Liveness, "so it is"));
    // Level-triggered: another sync, even with other labels, restarts nothing.
    let mut again = target(pod.clone());
    Arc::make_mut(&mut again.pod).metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    world.prober.sync("u", vec![again]);
    after(100).await;
    assert_eq!(world.asked("liveness").len(), 3);
    assert_eq!(world.changes.lock().len(), 1);
    world.answer("liveness", Answer::Code(0));
    world.prober.sync("u", vec![ProbeTarget { container_id: id('b'), ..target(pod) }]);
    assert_eq!((world.state().container_id, world.state().failed), (id('b'), None));
    after(1).await;
    assert_eq!(world.asked("liveness").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_asked_is_tried_three_times_and_says_nothing() {
    let world = World::new();
    let mut pod = pod(&[Kind::Liveness]);
    set(&mut pod, Kind::Liveness, |probe| probe.failure_threshold = Some(2));
    world.answer("liveness", Answer::Code(1));
    world.prober.sync("u", vec![target(pod)]);
    after(1).await;
    world.answer("liveness", Answer::Broken);
    after(10).await;
    assert_eq!(world.asked("liveness"), [0, 10_000, 10_000, 10_000]);
    assert_eq!(world.state().failed, None);
    // The count of failures continues.
    world.answer("liveness", Answer::Late);
    after(10).await;
    assert!(world.state().failed.is_some());
    assert_eq!(
        world.messages(),
        [
            "Unhealthy: Liveness probe failed: so it is",
            "Unhealthy: Liveness probe errored and resulted in unknown state: \
             run the command: no shim",
            "Unhealthy: Liveness probe failed: command \"liveness\" timed out",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_hangs_is_an_error_of_the_prober() {
    let world = World::new();
    world.answer("liveness", Answer::Never);
    world.prober.sync("u", vec![target(pod(&[Kind::Liveness]))]);
    after(34).await;
    assert_eq!(world.asked("liveness")[..3], [0, 11_000, 22_000]);
    assert_eq!(world.state().failed, None);
    assert_eq!(
        world.messages(),
        ["Unhealthy: Liveness probe errored and resulted in unknown state: run the command: \
          the runtime does not answer"]
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_restart_of_the_agent_what_was_known_stays_and_questions_are_spread() {
    let mut seen = Vec::new();
    for seed in [1, 1, 2] {
        let world = World::seeded(seed);
        let mut old = target(pod(&[Kind::Startup, Kind::Readiness]));
        old.started_at = NOW - 100 * SECOND;
        old.known = Known { started: true, ready: true };
        world.prober.sync("u", vec![old]);
        assert!(world.state().ready && world.state().started);
        after(10).await;
        assert!(world.state().ready);
        assert!(world.asked("startup").is_empty());
        let first = world.asked("readiness")[0];
        assert!(first > 0 && first <= 10_000, "{first}");
        assert!(world.changes.lock().is_empty());
        seen.push(first);
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

#[tokio::test(start_paused = true)]
async fn at_deletion_only_readiness_goes_on() {
    let world = World::new();
    let all = pod(&[Kind::Startup, Kind::Liveness, Kind::Readiness]);
    world.prober.sync("u", vec![target(all.clone())]);
    after(1).await;
    world.answer("liveness", Answer::Code(1));
    world.prober.sync("u", vec![ProbeTarget { terminating: true, ..target(all) }]);
    after(60).await;
    assert_eq!(world.asked("liveness").len(), 1);
    assert_eq!(world.asked("readiness").len(), 7);
    assert_eq!(world.state().failed, None);
    world.answer("readiness", Answer::Code(1));
    after(30).await;
    assert!(!world.state().ready);
}

#[tokio::test(start_paused = true)]
async fn a_question_longer_than_the_period_is_made_up_for_once() {
    struct Slow(Asked, Instant);
    #[async_trait]
    impl Exec for Slow {
        async fn exec_sync(
            &self,
            _: &ContainerId,
            _: &[String],
            _: Option<Duration>,
        ) -> Result<ExecEnd, ExecError> {
            self.0.lock().push((self.1.elapsed(), String::new()));
            after(25).await;
            Ok(ExecEnd::default())
        }
    }
    let world = World::new();
    let exec = Arc::new(Slow(Arc::clone(&world.asked), Instant::now()));
    let prober = Prober { options: Options { exec, ..world.prober.options }, ..world.prober };
    let mut pod = pod(&[Kind::Readiness]);
    set(&mut pod, Kind::Readiness, |probe| probe.timeout_seconds = Some(60));
    prober.sync("u", vec![target(pod)]);
    after(80).await;
    // Due at 0, 10, 20, …: the one of 10 at 25, the one of 30 at 50, the one of 60 at 75.
    assert_eq!(world.asked.lock().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn exactly_what_is_given_is_probed() {
    let world = World::new();
    let pod = pod(&[Kind::Readiness]);
    world.prober.sync("u", vec![target(pod.clone())]);
    world.prober.sync("v", vec![target(pod.clone())]);
    after(5).await;
    world.prober.sync("u", vec![target(pod.clone())]);
    after(1).await;
    assert_eq!(world.asked("readiness"), [0, 0], "the same again starts nothing");
    world.prober.sync("u", Vec::new());
    assert!(world.prober.states("u").is_empty());
    let unknown = ProbeTarget { container: "db".to_owned(), ..target(pod) };
    world.prober.sync("w", vec![unknown]);
    assert!(world.prober.states("w").is_empty());
    after(5).await;
    assert_eq!(world.asked("readiness").len(), 3, "v alone goes on");
}

#[tokio::test(start_paused = true)]
async fn a_new_address_is_asked_and_the_state_stays() {
    let world = World::new();
    let pod = pod(&[Kind::Readiness]);
    world.prober.sync("u", vec![target(pod.clone())]);
    after(1).await;
    let moved = Some("10.0.0.9".to_owned());
    world.prober.sync("u", vec![ProbeTarget { pod_ip: moved, ..target(pod) }]);
    assert!(world.state().ready);
    after(1).await;
    assert_eq!(world.asked("readiness").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn sidecars_are_probed() {
    let world = World::new();
    let mut pod = pod(&[Kind::Startup]);
    let spec = pod.spec.as_mut().unwrap();
    spec.init_containers = Some(std::mem::take(&mut spec.containers));
    world.prober.sync("u", vec![target(pod)]);
    after(1).await;
    assert!(world.state().started);
}

#[tokio::test(start_paused = true)]
async fn the_drain_ends_all_probes() {
    let world = World::new();
    world.answer("liveness", Answer::Never);
    let kinds = [Kind::Liveness, Kind::Readiness];
    world.prober.sync("u", vec![target(pod(&kinds))]);
    after(1).await;
    assert!(world.tasks.drain(Duration::from_secs(1)).await);
}
