//! Each role with each RPC, and the grant that handlers get.

use tonic::Code;

use super::super::super::auth::{Role, rows};
use super::world::World;
use crate::proto::podbay::v1::GetRequest;
use crate::proto::podbay::v1::pods_client::PodsClient;

#[tokio::test]
async fn each_role_may_call_what_the_table_says() {
    let world = World::start().await;
    for (name, role) in [
        ("nobody", None),
        ("view", Some(Role::View)),
        ("operate", Some(Role::Operate)),
        ("admin", Some(Role::Admin)),
    ] {
        let mut caller = world.caller(name).await;
        for (path, needed) in rows() {
            // It never answers; the audit test shows that it is allowed.
            if path.ends_with("/RestartContainer") && role >= Some(needed) {
                continue;
            }
            let code = caller.call(path).await.err().map(|status| status.code());
            let denied = code == Some(Code::PermissionDenied);
            assert_eq!(!denied, role >= Some(needed), "{name} {path}: {code:?}");
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn a_handler_learns_the_namespaces() {
    let world = World::start().await;
    for (name, namespace, code) in [
        ("team", "team-a", None),
        ("team", "team-b", Some(Code::PermissionDenied)),
        ("team", "", Some(Code::PermissionDenied)),
        ("view", "team-b", None),
        ("view", "", None),
    ] {
        let mut pods = PodsClient::new(world.caller(name).await.0);
        let request = GetRequest { namespace: namespace.to_owned(), name: "web".to_owned() };
        let answer = pods.get(request).await.err().map(|status| status.code());
        assert_eq!(answer, code, "{name} {namespace}");
    }
    world.stop().await;
}
