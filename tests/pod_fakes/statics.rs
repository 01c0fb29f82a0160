//! Static pods.

use podbay::pod::{Apply, Delete, Error};
use serde_json::json;

use crate::rig::{Rig, container, named, phase, pod, quick, uid};

#[tokio::test]
async fn a_static_pod_lives_as_long_as_it_is_wanted() {
    let world = quick();
    let agent = world.agent().await;
    let rig = Rig(&agent);
    let first = pod("fixed", &[container("a", &["run"])], json!({}));
    rig.set_static(std::slice::from_ref(&first)).await;
    let running = rig.phase("fixed", "Running").await;
    let refused = Delete { selector: named("fixed"), ..Delete::default() };
    assert!(matches!(rig.try_delete(refused).await.expect_err("static"), Error::Static(_)));
    let change = Apply { manifest: first.to_string(), ..Apply::default() };
    assert!(matches!(rig.try_apply(change).await.expect_err("static"), Error::Static(_)));
    rig.set_static(std::slice::from_ref(&first)).await;
    assert_eq!(uid(&rig.get("fixed").expect("there")), uid(&running));
    // Another one of the name ends the first, then begins.
    let second = pod("fixed", &[container("a", &["cat"])], json!({}));
    rig.set_static(&[second]).await;
    let old = uid(&running).to_owned();
    rig.until("fixed", "another", |pod| uid(pod) != old && !phase(pod).is_empty()).await;
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    // The first one may come again.
    rig.set_static(&[first]).await;
    rig.phase("fixed", "Running").await;
    rig.set_static(&[]).await;
    rig.gone("fixed").await;
    world.clean().await;
}
