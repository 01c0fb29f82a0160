use base64::Engine as _;

use super::registry::{Reply, Request};
use super::*;

const SECRET: &str = "S3CRET";

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A registry that requires a bearer token, with the token server at `/token` of the same host.
async fn bearer(content: Content) -> Registry {
    Registry::with_hook(content, |request| {
        let host = request.header("host");
        if request.path == "/token" {
            return Some(token(request));
        }
        if request.header("authorization") == "Bearer T0KEN" {
            return None;
        }
        let scope = "repository:team/app:pull";
        let realm =
            format!("Bearer realm=\"http://{host}/token\",service=\"reg\",scope=\"{scope}\"");
        Some(Reply::status(401).with("WWW-Authenticate", realm))
    })
    .await
}

fn token(request: &Request) -> Reply {
    let basic = format!("Basic {}", base64(&format!("u:{SECRET}")));
    let form = format!("grant_type=refresh_token&client_id=podbay&refresh_token={SECRET}");
    let good = if request.method == "POST" {
        request.body.starts_with(&form)
            && request.body.contains("scope=repository%3Ateam%2Fapp%3Apull")
    } else {
        request.header("authorization") == basic
            && request.query.contains("service=reg")
            && request.query.contains("scope=repository%3Ateam%2Fapp%3Apull")
    };
    if good {
        Reply::ok(r#"{"access_token": "T0KEN", "expires_in": 60}"#)
    } else {
        Reply::status(401)
    }
}

async fn basic(content: Content) -> Registry {
    let wanted = format!("Basic {}", base64(&format!("u:{SECRET}")));
    Registry::with_hook(content, move |request| {
        let good = request.header("authorization") == wanted;
        (!good).then(|| Reply::status(401).with("WWW-Authenticate", "Basic realm=\"r\""))
    })
    .await
}

#[tokio::test]
async fn each_kind_of_credentials_works() {
    let auth = Credentials { auth: base64(&format!("u:{SECRET}\0")), ..Default::default() };
    let refresh = Credentials { identity_token: SECRET.into(), ..Default::default() };
    let token = Credentials { registry_token: "T0KEN".into(), ..Default::default() };
    for (name, good_for_basic, given) in [
        ("password", true, user("u", SECRET)),
        ("auth", true, Some(auth)),
        ("identity token", false, Some(refresh)),
        ("registry token", false, Some(token)),
        ("wrong password", false, user("u", "S3CRET-wrong")),
        ("none", false, None),
    ] {
        let (content, parts) = three_layers();
        let (basic, bearer) = (basic(content.clone()).await, bearer(content).await);
        let room = room();
        let pulled = room.images.pull(&basic.name("team/app:v1"), given.clone()).await;
        assert_eq!(pulled.is_ok(), good_for_basic, "basic with {name}");
        let good_for_bearer = !matches!(name, "none" | "wrong password");
        let other = room.images.pull(&bearer.name("team/app:v1"), given).await;
        assert_eq!(other.is_ok(), good_for_bearer, "bearer with {name}");
        for failed in [pulled, other] {
            match failed {
                Ok(image) => assert_eq!(image.id, parts.config),
                Err(error) => {
                    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
                    assert!(!chain(&error).contains(SECRET), "{}", chain(&error));
                }
            }
        }
        let tokens = bearer.requests().iter().filter(|r| r.path == "/token").count();
        assert!(tokens <= 1, "a token is asked for once in a pull");
    }
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let (content, _) = three_layers();
    let issued = std::sync::atomic::AtomicUsize::new(0);
    let registry = Registry::with_hook(content, move |request| {
        let host = request.header("host");
        if request.path == "/token" {
            let n = issued.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            return Some(Reply::ok(format!(r#"{{"token": "T{n}"}}"#)));
        }
        // The first token is valid for manifests and has expired when the blobs are requested.
        let token = request.header("authorization");
        let good = token.starts_with("Bearer T")
            && !(token == "Bearer T0" && request.path.contains("/blobs/"));
        let realm = format!("Bearer realm=\"http://{host}/token\"");
        (!good).then(|| Reply::status(401).with("WWW-Authenticate", realm))
    })
    .await;
    room().images.pull(&registry.name("app:v1"), None).await.unwrap();
}

#[tokio::test]
async fn an_endless_challenge_ends() {
    let registry = Registry::with_hook(Content::default(), |request| {
        let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host"));
        let token = Reply::ok(r#"{"token": "T"}"#);
        let more = Reply::status(401).with("WWW-Authenticate", realm);
        Some(if request.path == "/token" { token } else { more })
    })
    .await;
    let error = room().images.pull(&registry.name("app"), None).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(registry.requests().len(), 3);
}

#[tokio::test]
async fn credentials_are_for_their_server_only() {
    let (content, _) = three_layers();
    let registry = basic(content).await;
    let given =
        Credentials { server_address: "other.example.com".into(), ..user("u", SECRET).unwrap() };
    let error = room().images.pull(&registry.name("team/app:v1"), Some(given)).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert!(!registry.saw_secrets());
    let configured = room_with(|options| {
        let host = registry.address.to_string();
        options.registry_auth = BTreeMap::from([(host, user("u", SECRET).unwrap())]);
    });
    configured.images.pull(&registry.name("team/app:v1"), None).await.unwrap();
}

#[tokio::test]
async fn authorization_does_not_follow_a_redirect() {
    let (content, parts) = three_layers();
    let elsewhere = Registry::start(content.clone()).await;
    let wanted = format!("Basic {}", base64(&format!("u:{SECRET}")));
    let other = elsewhere.address;
    let registry = Registry::with_hook(content, move |request| {
        if request.header("authorization") != wanted {
            return Some(Reply::status(401).with("WWW-Authenticate", "Basic"));
        }
        let to = format!("http://{other}{}?sig=S3CRET", request.path);
        request.path.contains("/blobs/").then(|| Reply::status(307).with("Location", to))
    })
    .await;
    let pulled = room().images.pull(&registry.name("app:v1"), user("u", SECRET)).await.unwrap();
    assert_eq!(pulled.id, parts.config);
    assert_eq!(elsewhere.count("/blobs/"), 4);
    assert!(!elsewhere.saw_secrets());
}

#[tokio::test]
async fn strange_token_servers_and_redirects_are_refused() {
    for (name, reply) in [
        (
            "link-local realm",
            Reply::status(401)
                .with("WWW-Authenticate", "Bearer realm=\"http://169.254.169.254/t?sig=S3CRET\""),
        ),
        ("no realm", Reply::status(401)),
        (
            "link-local redirect",
            Reply::status(302).with("Location", "http://169.254.169.254/?sig=S3CRET"),
        ),
        ("redirect to a file", Reply::status(302).with("Location", "file:///etc/shadow?S3CRET")),
        ("redirect to nowhere", Reply::status(302)),
        ("forbidden", Reply { status: 403, ..Reply::ok("token S3CRET is bad") }),
    ] {
        let registry = Registry::with_hook(Content::default(), move |_| Some(reply.clone())).await;
        let room = room();
        let error =
            room.images.pull(&registry.name("app:v1"), user("u", SECRET)).await.unwrap_err();
        assert!(!matches!(error, Error::RegistryUnavailable { .. }), "{name}: {error}");
        assert!(!chain(&error).contains(SECRET), "{name}: {}", chain(&error));
        assert!(!registry.saw_secrets() && room.store.is_empty(), "{name}");
    }
}

#[tokio::test]
async fn secrets_of_a_url_stay_out_of_errors() {
    // An unreachable storage server behind a signed URL.
    let gone = Registry::start(Content::default()).await.address;
    let (content, _) = three_layers();
    let registry = Registry::with_hook(content, move |request| {
        let to = format!("http://user:S3CRET@{gone}/blob?sig=S3CRET");
        request.path.contains("/blobs/").then(|| Reply::status(307).with("Location", to))
    })
    .await;
    let room = room();
    let error = room.images.pull(&registry.name("app:v1"), None).await.unwrap_err();
    assert!(error.to_string().starts_with("RegistryUnavailable: "), "{error}");
    assert!(!chain(&error).contains(SECRET), "{}", chain(&error));
    assert!(room.store.is_empty());
}

#[tokio::test]
async fn a_docker_file_gives_credentials() {
    let (content, _) = three_layers();
    let registry = basic(content).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let auth = base64(&format!("u:{SECRET}"));
    let file = serde_json::json!({"auths": {registry.address.to_string(): {"auth": auth}}});
    std::fs::write(&path, file.to_string()).unwrap();
    let room = room_with(|options| options.docker_config = Some(path));
    room.images.pull(&registry.name("team/app:v1"), None).await.unwrap();
}
