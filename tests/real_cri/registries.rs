//! Registries with passwords, mirrors, and bad content.

use podbay::proto::runtime::v1 as cri;
use tonic::Code;

use crate::rig::Rig;
use crate::support::containerd::Line;
use crate::support::gate::{Gate, IDENTITY, TOKEN};
use crate::support::images::ImageBuilder;
use crate::support::registry::{Options, PASSWORD, Registry, USER, free_port};

/// base64 of "podbay:secret".
const AUTH: &str = "cG9kYmF5OnNlY3JldA==";

pub async fn private_registries_want_the_password(line: Line) {
    let rig = Rig::start(line).await;
    let registry = Registry::start_with(Options { password: true, tls: false }).await;
    let image = ImageBuilder::web().build();
    let name = registry.push(&image, "private", "1").await;
    let auth = |username: &str, password: &str| cri::AuthConfig {
        username: username.into(),
        password: password.into(),
        ..Default::default()
    };
    let encoded = |auth: &str, server: &str| cri::AuthConfig {
        auth: auth.into(),
        server_address: server.into(),
        ..Default::default()
    };
    let without = rig.pull(&name).await.expect_err("no password");
    let wrong = rig.pull_with(&name, Some(auth(USER, "wrong"))).await.expect_err("a wrong one");
    let elsewhere = encoded(AUTH, "registry.test");
    let elsewhere = rig.pull_with(&name, Some(elsewhere)).await.expect_err("for another host");
    for refused in [without, wrong, elsewhere] {
        let text = refused.message();
        assert!(text.contains(&registry.host()), "{refused}");
        assert!(!text.contains("wrong") && !text.contains(AUTH), "a secret is told: {refused}");
        assert_ne!(refused.code(), Code::Internal, "{refused}");
    }
    rig.agent.assert_clean().await;
    for auth in [auth(USER, PASSWORD), encoded(AUTH, ""), encoded(AUTH, &registry.host())] {
        assert_eq!(rig.pull_with(&name, Some(auth)).await.expect("the pull"), image.id);
        rig.remove_image(&name).await;
    }
    assert!(!rig.agent.log().contains(AUTH), "the log tells a secret");
    rig.finish().await;
}

pub async fn tokens_are_passed_on(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::web().build();
    rig.registry.push(&image, "private", "1").await;
    let gate = Gate::with_token(&rig.registry).await;
    let name = format!("{}/private:1", gate.host());
    let identity =
        |token: &str| cri::AuthConfig { identity_token: token.into(), ..Default::default() };
    let bearer =
        |token: &str| cri::AuthConfig { registry_token: token.into(), ..Default::default() };
    for wrong in [identity("wr0ng"), bearer("wr0ng")] {
        let refused = rig.pull_with(&name, Some(wrong)).await.expect_err("a wrong token");
        assert!(refused.message().contains(&gate.host()), "{refused}");
        assert!(!refused.message().contains("wr0ng"), "a secret is told: {refused}");
    }
    rig.agent.assert_clean().await;
    for token in [identity(IDENTITY), bearer(TOKEN)] {
        assert_eq!(rig.pull_with(&name, Some(token)).await.expect("the pull"), image.id);
        rig.remove_image(&name).await;
    }
    for secret in [TOKEN, IDENTITY] {
        assert!(!rig.agent.log().contains(secret), "the log tells a secret");
    }
    rig.finish().await;
}

pub async fn mirrors_are_asked_first(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::web().env("FROM=mirror").build();
    rig.registry.push(&image, "team/app", "1").await;
    let host = |name: &str, text: String| {
        let folder = rig.env().certs_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("hosts.toml"), text).expect("hosts.toml");
    };
    let capabilities = "capabilities = [\"pull\", \"resolve\"]";
    let mirror = rig.registry.host();
    let dead = free_port();
    host(
        "registry.test",
        format!(
            "server = \"http://127.0.0.1:{dead}\"\n\
             [host.\"http://127.0.0.1:{dead}\"]\n{capabilities}\n\
             [host.\"http://{mirror}\"]\n{capabilities}\n"
        ),
    );
    let pulled = rig.pull("registry.test/team/app:1").await.expect("from the second mirror");
    assert_eq!(pulled, image.id);
    let found = rig.image_status("registry.test/team/app:1").await.expect("the image");
    assert_eq!(found.repo_tags, ["registry.test/team/app:1"]);
    rig.remove_image(&image.id).await;

    // Plain HTTP for a host that is not this machine's, TLS with a CA of our own.
    let port = mirror.rsplit(':').next().expect("a port");
    host("plain.test", format!("server = \"http://127.0.0.1:{port}\"\n"));
    assert_eq!(rig.pull("plain.test/team/app:1").await.expect("plain HTTP"), image.id);
    rig.remove_image(&image.id).await;
    let tls = Registry::start_with(Options { password: false, tls: true }).await;
    tls.push(&image, "team/app", "1").await;
    let server = format!("server = \"https://{}\"\n{capabilities}\n", tls.host());
    host("tls.test", server.clone());
    let refused = rig.pull("tls.test/team/app:1").await.expect_err("an unknown CA");
    assert!(refused.message().contains("certificate"), "{refused}");
    host("tls.test", format!("{server}ca = {:?}\n", tls.ca_file()));
    assert_eq!(rig.pull("tls.test/team/app:1").await.expect("a known CA"), image.id);
    rig.remove_image(&image.id).await;

    // Nobody there.
    let nobody = rig.pull(&format!("127.0.0.1:{dead}/x:1")).await.expect_err("nobody there");
    assert!(nobody.message().starts_with("RegistryUnavailable"), "{nobody}");
    let missing = rig.pull(&format!("{mirror}/none:1")).await.expect_err("no such image");
    assert_eq!(missing.code(), Code::NotFound, "{missing}");
    for bad in ["", "a/UPPER:1", "a b", "x@sha256:12"] {
        let refused = rig.pull(bad).await.expect_err(bad);
        assert_eq!(refused.code(), Code::InvalidArgument, "{bad:?}: {refused}");
    }
    rig.finish().await;
}

pub async fn tampered_content_is_refused(line: Line) {
    let rig = Rig::start(line).await;
    let image = ImageBuilder::web().env("SOME=thing").build();
    let name = rig.registry.push(&image, "tampered", "1").await;
    let by_digest = format!("{}/tampered@{}", rig.registry.host(), image.root.digest);
    for (what, blob) in [
        ("configuration", &image.blobs[0]),
        ("layer", image.blobs.last().expect("a layer")),
        ("manifest", &image.root),
    ] {
        let hex = blob.digest.trim_start_matches("sha256:");
        let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let path = rig.registry.storage().join(path);
        let good = std::fs::read(&path).expect("the blob");
        let mut bad = good.clone();
        *bad.last_mut().expect("a byte") ^= 1;
        std::fs::write(&path, &bad).expect("the blob");
        let refused = rig.pull(&by_digest).await.expect_err(what);
        assert_ne!(refused.code(), Code::Internal, "{what}: {refused}");
        if what == "layer" {
            rig.pull(&name).await.expect_err(what);
        }
        assert!(rig.image_status(&name).await.is_none());
        rig.agent.assert_clean().await;
        std::fs::write(&path, &good).expect("the blob");
    }
    assert_eq!(rig.pull(&name).await.expect("all is well again"), image.id);
    rig.remove_image(&name).await;
    rig.finish().await;
}
