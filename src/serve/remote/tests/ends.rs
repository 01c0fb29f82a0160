//! The end of a certificate ends its connections.

use rustls::AlertDescription;
use rustls::version::TLS13;
use time::OffsetDateTime;
use tonic::{Code, Status};

use super::super::LOOK;
use super::world::{Authority, Caller, Made, World, day};

const ENDLESS: &str = "/podbay.v1.Pods/RestartContainer";
const GET: &str = "/podbay.v1.Pods/Get";
/// A call allowed for everybody with a valid certificate.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A caller with an endless call in progress.
struct Busy(tokio::task::JoinHandle<Result<(), Status>>);

impl Busy {
    async fn start(world: &World, made: &Made) -> Self {
        let Caller(channel) = world.connect(made).await;
        let mut first = Caller(channel.clone());
        first.call(CHECK).await.unwrap();
        Self(tokio::spawn(async move { Caller(channel).call(ENDLESS).await }))
    }

    /// Checks that it is disconnected soon.
    async fn ends(self) {
        let ended = self.0.await.expect("in time");
        let code = ended.expect_err("an end").code();
        assert!(matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled), "{code:?}");
    }
}

#[tokio::test]
async fn a_revoked_caller_is_refused_and_cut_off() {
    let world = World::start().await;
    let own = &world.authority;
    let [thief, honest] = [own.client("operate"), own.client("operate")];
    let (busy, other) = (Busy::start(&world, &thief).await, Busy::start(&world, &honest).await);
    world.write("ca.crl", &own.crl(&[&thief]));
    busy.ends().await;
    assert_eq!(
        world.refusal(Some(&thief), &TLS13).await,
        Some(AlertDescription::CertificateRevoked)
    );
    assert!(!other.0.is_finished());
    world.connect(&honest).await.call(GET).await.unwrap();

    // A damaged list, or one of another authority, does not restore access.
    world.write("ca.crl", "gone");
    world.settle().await;
    assert!(world.refusal(Some(&thief), &TLS13).await.is_some());
    world.connect(&honest).await.call(GET).await.unwrap();
    world.write("ca.crl", &Authority::new("own").crl(&[]));
    world.until(async || world.refusal(Some(&honest), &TLS13).await.is_some()).await;
    other.ends().await;
    world.write("ca.crl", &own.crl(&[]));
    world.until(async || world.refusal(Some(&thief), &TLS13).await.is_none()).await;
    world.stop().await;
}

#[tokio::test]
async fn a_call_does_not_outlive_its_certificate() {
    let world = World::start().await;
    let soon = LOOK * 4;
    let made = world.authority.made("operate", |params| {
        params.not_before = day(-1);
        params.not_after = OffsetDateTime::now_utc() + soon;
    });
    let (begun, busy) = (std::time::Instant::now(), Busy::start(&world, &made).await);
    busy.ends().await;
    assert!(begun.elapsed() >= soon - LOOK, "{:?}", begun.elapsed());
    let alert = world.refusal(Some(&made), &TLS13).await;
    assert_eq!(alert, Some(AlertDescription::CertificateExpired));
    world.stop().await;
}

#[tokio::test]
async fn a_call_ends_with_its_authority_and_with_its_rights() {
    let world = World::start().await;
    let made = world.authority.client("team");
    let busy = Busy::start(&world, &made).await;
    // Additional permissions are no reason to disconnect.
    let rule =
        |role, more: &str| format!("[[allow]]\nnames = [\"cn:team\"]\nrole = \"{role}\"\n{more}");
    world.write("policy.toml", &rule("operate", ""));
    world.settle().await;
    assert!(!busy.0.is_finished());
    world.write("policy.toml", &rule("operate", "namespaces = [\"team-a\"]"));
    busy.ends().await;

    let busy = Busy::start(&world, &made).await;
    world.write("policy.toml", &rule("view", "namespaces = [\"team-a\", \"team-b\"]"));
    busy.ends().await;

    world.write("policy.toml", &rule("operate", ""));
    world
        .until(async || world.connect(&made).await.call("/podbay.v1.Pods/Apply").await.is_ok())
        .await;
    let busy = Busy::start(&world, &made).await;
    let new = Authority::new("new");
    world.write("ca.crt", &new.pem());
    busy.ends().await;
    world.stop().await;
}
