//! Watches across the end of an agent.

use futures::StreamExt;
use podbay::backend::Process;
use podbay::pod::{Error, Face, Revision, Selector, Watch, WatchEvent};
use podbay::store::Record;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::rig::{Rig, container, phase, pod, quick};
use crate::world::{Agent, eventually};

/// The change up to which an agent has written down what it shows.
#[derive(Serialize, Deserialize)]
struct Mark {
    shown: u64,
}

impl Record for Mark {
    const TABLE: &'static str = "watch";
    const VERSION: u16 = 1;

    fn key(&self) -> &str {
        "mark"
    }
}

/// Waits until an agent has written down what it shows.
async fn written(agent: &Agent) -> Revision {
    eventually("what is shown is written down", async || {
        let all = Rig(agent).pods().list(&Selector::default()).expect("a list").revision;
        let marks = agent.rooms.store.load::<Mark>().expect("the mark").records;
        marks.iter().any(|mark| mark.shown == all.number).then_some(all)
    })
    .await
}

fn watch(agent: &Agent, from: &Revision) -> Result<Watch, Error> {
    Rig(agent).pods().watch(Selector::default(), Some(from.clone()))
}

/// The next news: what happened to whom.
async fn next(watch: &mut Watch) -> String {
    let event = watch.next().await.expect("no end").expect("news");
    let (kind, view) = match event {
        WatchEvent::Added(view) => ("added", view),
        WatchEvent::Modified(view) => ("modified", view),
        WatchEvent::Deleted(view) => ("deleted", view),
        WatchEvent::Bookmark(_) => return "bookmark".to_owned(),
    };
    format!("{kind} {} {}", view.key().name, phase(&view.pod))
}

#[tokio::test]
async fn a_watch_goes_on_over_a_killed_agent() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    for name in ["stays", "ends"] {
        rig.apply(&pod(name, &[container("a", &["run"])], json!({ "restartPolicy": "Never" })))
            .await;
        rig.phase(name, "Running").await;
    }
    let seen = written(&agent).await;
    let before = rig.get("stays").expect("it is there").metadata.resource_version;
    let ends = rig.ids("a").pop().expect("an id");
    agent.kill().await;
    // Something happens while nobody is there.
    world.fakes.runtime.end(Process::init(&ends), 3);

    let agent = world.agent().await;
    let rig = Rig(&agent);
    let mut news = watch(&agent, &seen).expect("it goes on");
    let told = next(&mut news).await;
    assert!(told.starts_with("modified "), "{told}");
    let listed = rig.pods().list(&Selector::default()).expect("a list").revision;
    assert_eq!(listed.epoch, seen.epoch);
    assert!(listed.number > seen.number);
    let same = ["stays", "ends"]
        .iter()
        .filter(|name| rig.get(name).expect("it is there").metadata.resource_version == before);
    assert!(same.count() <= 1);
    // A number of before that nobody has written down is of no use.
    let lost = Revision { number: seen.number + 1, ..seen.clone() };
    let refused = watch(&agent, &lost).err().expect("refused");
    assert!(matches!(refused, Error::TooOld { .. }), "{refused}");
    rig.remove_all(&["stays", "ends"]).await;
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let told = next(&mut news).await;
        gone.extend(told.strip_prefix("deleted ").map(str::to_owned));
    }
    agent.kill().await;

    // The store is lost: another history.
    world.delete_store();
    let agent = world.agent().await;
    let refused = watch(&agent, &seen).err().expect("refused");
    assert!(matches!(refused, Error::TooOld { .. }), "{refused}");
    world.clean().await;
}

#[tokio::test]
async fn what_has_not_changed_is_not_told_again() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let inits = json!({ "initContainers": [container("init", &["exit", "0"])] });
    rig.apply(&pod("quiet", &[container("a", &["run"])], inits)).await;
    rig.phase("quiet", "Running").await;
    let seen = written(&agent).await;
    let before = rig.get("quiet");
    agent.kill().await;
    let agent = world.agent().await;
    let rig = Rig(&agent);
    assert_eq!(rig.get("quiet"), before);
    let mut news = watch(&agent, &seen).expect("it goes on");
    assert_eq!(next(&mut news).await, "bookmark");
    rig.delete("quiet", None).await;
    assert!(next(&mut news).await.starts_with("modified quiet"));
    rig.gone("quiet").await;
    world.clean().await;
}
