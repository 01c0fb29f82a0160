//! Periods in milliseconds.

use tokio::time::sleep;

use super::*;

#[tokio::test(start_paused = true)]
async fn periods_may_be_milliseconds() {
    let world = World::new();
    let mut pod = pod(&[Kind::Readiness, Kind::Liveness]);
    let key = "probe.podbay.io/web.readiness.periodMilliseconds".to_owned();
    pod.metadata.annotations = Some([(key, "250".to_owned())].into());
    assert_eq!(check_periods(&pod), []);
    world.prober.sync("u", vec![target(pod)]);
    sleep(Duration::from_millis(900)).await;
    assert_eq!(world.asked("readiness"), [0, 250, 500, 750]);
    assert_eq!(world.asked("liveness"), [0]);
}

#[test]
fn period_annotations_that_mean_nothing_are_faults() {
    for (key, value, says) in [
        ("web.readiness.periodMilliseconds", "9", "not a number of milliseconds"),
        ("web.readiness.periodMilliseconds", "3600001", "not a number of milliseconds"),
        ("web.readiness.periodMilliseconds", "1s", "not a number of milliseconds"),
        ("web.readiness.periodMilliseconds", "-5", "not a number of milliseconds"),
        ("web.liveness.periodMilliseconds", "100", "names no probe"),
        ("db.readiness.periodMilliseconds", "100", "names no probe"),
        ("web.readiness.period", "100", "names no probe"),
        ("readiness", "100", "names no probe"),
    ] {
        let mut pod = pod(&[Kind::Readiness]);
        let key = format!("{PERIOD_PREFIX}{key}");
        pod.metadata.annotations = Some([(key.clone(), value.to_owned())].into());
        let faults = check_periods(&pod);
        assert_eq!(faults.len(), 1, "{key}: {value}");
        assert_eq!(faults[0].path, format!("metadata.annotations[{key}]"));
        assert!(faults[0].message.contains(says), "{}", faults[0].message);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        assert!(!periods::of(&pod, container).contains_key(&Kind::Readiness));
    }
}
