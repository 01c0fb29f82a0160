use serde_json::json;

use super::*;
use crate::pod::object::Source;
use crate::store::stored;

#[test]
fn a_stored_pod_keeps_its_meaning() {
    let life: Life = stored::now();
    assert_eq!(life.key(), life.given.uid());
    assert_eq!(life.given.key().to_string(), "default/web");
    assert_eq!(life.given.source, Source::Http);
    assert_eq!(life.given.spec().containers[0].name, "app");
    let data = |life: &Life| life.given.objects.config_maps["settings"].data.clone();
    assert_eq!(data(&life).expect("data")["a"], "1");
    assert_eq!(life.grace(), Duration::from_secs(7));
    assert_eq!((life.generation, life.sandboxes, life.user_ids), (4, 2, Some(131_072)));
    assert!(life.is_ending() && life.rejected && life.settled);
    assert_eq!(life.asked.expect("a resize").reason, "Deferred");
    let limits = life.resources.and_then(|resources| resources.limits).expect("limits");
    assert_eq!(limits["cpu"].0, "2");
    let unit = &life.units["app"];
    let current = unit.current.as_ref().expect("a container");
    assert_eq!((unit.restarts(), current.is_live()), (1, true));
    assert_eq!(current.doom.as_ref().expect("its end").grace, Duration::from_secs(30));
    assert_eq!(unit.last.as_ref().expect("the one before").code, 3);
    let pause = life.trouble.expect("trouble").backoff.pause;
    assert_eq!(pause, Duration::new(20, 5));
    let verdict = life.verdict.expect("a verdict");
    assert!(verdict.succeeded && verdict.disrupted && life.conditions["Ready"].status);
    assert_eq!(json!([State::Created, State::Unknown]), json!(["created", "unknown"]));
    let end = json!(State::Ended(unit.last.clone().expect("the one before")));
    assert_eq!(end["ended"]["reason"], "Error");
    assert_eq!(json!([Source::Api, Source::File]), json!(["api", "file"]));
}

#[test]
fn a_pod_of_an_earlier_agent_is_read() {
    let life: Life = stored::old();
    assert_eq!((life.generation, life.sandboxes, life.settled), (first_generation(), 0, false));
    assert!(!life.trouble.expect("trouble").backs_off);
    let current = life.units["app"].current.as_ref().expect("a container");
    assert_eq!((current.started, current.shown_image()), (false, current.image.as_str()));
}
