//! Tests on real sockets: which clients are accepted and which are refused.

mod audit;
mod crowds;
mod ends;
mod roles;
mod world;

use rustls::AlertDescription;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tonic::Code;

use super::*;
use world::{Authority, LIMIT, World, day};

#[tokio::test]
async fn a_known_caller_is_served_and_the_cri_is_not() {
    let world = World::start().await;
    let mut caller = world.caller("admin").await;
    caller.call("/podbay.v1.Pods/Get").await.unwrap();
    caller.call("/grpc.health.v1.Health/Check").await.unwrap();
    for path in ["/runtime.v1.RuntimeService/Version", "/runtime.v1.ImageService/ListImages", "/x"]
    {
        assert_eq!(caller.call(path).await.unwrap_err().code(), Code::PermissionDenied, "{path}");
    }
    assert_eq!(
        caller.services().await,
        ["grpc.health.v1.Health", "podbay.v1.Images", "podbay.v1.Pods"].map(str::to_owned)
    );
    world.stop().await;
}

#[tokio::test]
async fn certificates_of_strangers_are_refused() {
    let world = World::start().await;
    let stranger = Authority::new("world");
    let own = &world.authority;
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    let past = |params: &mut rcgen::CertificateParams| {
        (params.not_before, params.not_after) = (day(-2), day(-1));
    };
    let future = |params: &mut rcgen::CertificateParams| {
        (params.not_before, params.not_after) = (day(1), day(2));
    };
    for (what, made, alert) in [
        ("none", None, Some(AlertDescription::CertificateRequired)),
        ("a stranger's", Some(stranger.client("admin")), Some(AlertDescription::UnknownCA)),
        ("expired", Some(own.made("admin", past)), Some(AlertDescription::CertificateExpired)),
        // The alert for these depends on the TLS library.
        ("not yet valid", Some(own.made("admin", future)), None),
        ("a server's", Some(own.made("admin", server_only)), None),
    ] {
        let refused = world.refusal(made.as_ref(), &TLS13).await.expect(what);
        assert!(alert.is_none_or(|alert| alert == refused), "{what}: {refused:?}");
    }
    world.caller("admin").await.call("/podbay.v1.Pods/Get").await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn older_tls_and_plain_text_are_refused() {
    let world = World::start().await;
    let good = world.authority.client("admin");
    let alert = world.refusal(Some(&good), &TLS12).await;
    assert_eq!(alert, Some(AlertDescription::ProtocolVersion));

    let mut plain = TcpStream::connect(world.address).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // At most an alert, then end-of-file.
    let read = timeout(LIMIT, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_err() || answer.len() <= 7, "{answer:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_self_made_name_does_not_help() {
    let world = World::start().await;
    // A valid certificate whose name only resembles an admin's.
    for name in ["admin2", "ADMIN", "cn:admin", "dns:admin", ""] {
        let mut caller = world.connect(&world.authority.client(name)).await;
        let denied = caller.call("/podbay.v1.Pods/Get").await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied, "{name}");
    }
    world.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_is_ended() {
    let world = World::start().await;
    let started = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    // Also one that has begun its handshake.
    let mut slow = TcpStream::connect(world.address).await.unwrap();
    slow.write_all(&[0x16, 3, 1]).await.unwrap();
    for stream in [&mut silent, &mut slow] {
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
    }
    let took = started.elapsed();
    assert!(took >= HANDSHAKE && took < HANDSHAKE * 2, "{took:?}");
    world.stop().await;
}

#[tokio::test]
async fn changed_files_count_from_then_on() {
    let world = World::start().await;
    let mut caller = world.caller("view").await;
    let apply = "/podbay.v1.Pods/Apply";
    assert_eq!(caller.call(apply).await.unwrap_err().code(), Code::PermissionDenied);

    // An invalid policy changes nothing; a valid one applies to open connections too.
    world.write("policy.toml", "[[allow]]\nrole = 7");
    world.write("agent.key", "no key");
    world.settle().await;
    caller.call("/podbay.v1.Pods/Get").await.unwrap();
    world.caller("admin").await.call("/podbay.v1.Pods/Get").await.unwrap();
    world.write("policy.toml", "[[allow]]\nnames = [\"cn:view\"]\nrole = \"operate\"");
    world.until(async || caller.call(apply).await.is_ok()).await;

    // A new client authority and a new certificate of the agent.
    let new = Authority::new("new");
    world.write("ca.crt", &new.pem());
    world.write("ca.crl", &new.crl(&[]));
    world.install(&new.agent());
    let (old, new) = (world.authority.client("view"), new.client("view"));
    world.until(async || world.refusal(Some(&old), &TLS13).await.is_some()).await;
    let mut caller = world.connect(&new).await;
    caller.call(apply).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_door_with_bad_files_does_not_open() {
    let fault = async |world: &World| {
        let error = Remote::open(world.options()).await.expect_err("a fault");
        crate::telemetry::error_chain(&error)
    };
    let foreign_key = Authority::new("other").agent().key;
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (file, text, said) in [
        ("agent.key", foreign_key.as_str(), "use the certificate"),
        ("agent.key", "nothing", "read a private key from"),
        ("agent.crt", "nothing", "there is no certificate in"),
        ("agent.crt", broken, "use the certificate"),
        ("ca.crt", "", "there is no certificate in"),
        ("ca.crt", broken, "use the certificate authority"),
        ("ca.crl", "nothing", "there is no list of revoked certificates in"),
        ("ca.crl", &broken.replace("CERTIFICATE", "X509 CRL"), "check clients' certificates"),
        ("policy.toml", "x = 1\ny = 2", "policy.toml:2: y: unknown key"),
    ] {
        let world = World::new();
        world.write(file, text);
        let told = fault(&world).await;
        assert!(told.contains(said), "{file}: {told}");
    }
    for (file, said) in [
        ("agent.key", "read a private key from"),
        ("agent.crt", "read certificates from"),
        ("ca.crt", "read certificates from"),
        ("ca.crl", "read lists of revoked certificates from"),
        ("policy.toml", "read the policy"),
    ] {
        let world = World::new();
        std::fs::remove_file(world.path(file)).unwrap();
        let told = fault(&world).await;
        assert!(told.contains(said) && told.contains(file), "{file}: {told}");
    }
    let world = World::new();
    let first = Remote::open(world.options()).await.unwrap();
    let taken = RemoteOptions { address: first.address(), ..world.options() };
    assert!(matches!(Remote::open(taken).await, Err(RemoteError::Listen { .. })));
}
