use std::ffi::OsString;
use std::io;

use super::*;

#[derive(Default)]
struct World {
    file: Option<&'static str>,
    variables: Vec<(&'static str, &'static str)>,
}

impl Inputs for World {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        let all = [("HOME", "/home/me")].into_iter().chain(self.variables.clone());
        all.map(|(key, value)| (key.into(), value.into())).collect()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let known = ["/home/me/.config/podbay/config.toml", "/xdg/podbay/config.toml", "/my.toml"];
        assert!(known.iter().any(|known| path == Path::new(known)), "{}", path.display());
        self.file.map(str::to_owned).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

const FILE: &str = r#"
current = "here"

[contexts.here]
address = "unix:///run/here.sock"
namespace = "mine"

[contexts.lab]
address = "https://10.0.0.5:7443"
ca = "lab/ca.pem"
cert = "lab/me.pem"
key = "/keys/me.key"
server_name = "agent-1"
"#;

fn args(context: Option<&str>, address: Option<&str>) -> ContextArgs {
    ContextArgs {
        context: context.map(str::to_owned),
        address: address.map(str::to_owned),
        client_config: None,
    }
}

#[test]
fn typed_wins_over_environment_over_file() {
    let shown = |args: &ContextArgs, world: &World| args.resolve(world).expect("resolve").shown;
    let none = args(None, None);
    assert_eq!(shown(&none, &World::default()), DEFAULT_SOCKET);
    let mut world = World { file: Some(FILE), ..World::default() };
    assert_eq!(shown(&none, &world), "unix:///run/here.sock");
    assert_eq!(none.resolve(&world).expect("resolve").namespace.as_deref(), Some("mine"));
    world.variables.push(("PODBAY_CONTEXT", "lab"));
    assert_eq!(shown(&none, &world), "https://10.0.0.5:7443");
    world.variables.push(("PODBAY_ADDRESS", "/env.sock"));
    assert_eq!(shown(&none, &world), "/env.sock");
    assert_eq!(shown(&args(Some("lab"), None), &world), "https://10.0.0.5:7443");
    assert_eq!(shown(&args(None, Some("/typed.sock")), &world), "/typed.sock");
}

#[test]
fn certificates_belong_to_the_context_and_lie_beside_the_file() {
    let world = World { file: Some(FILE), variables: vec![("XDG_CONFIG_HOME", "/xdg")] };
    let meant = args(Some("lab"), Some("[::1]:99")).resolve(&world).expect("resolve");
    let files = TlsFiles {
        ca: "/xdg/podbay/lab/ca.pem".into(),
        cert: "/xdg/podbay/lab/me.pem".into(),
        key: "/keys/me.key".into(),
        server_name: "agent-1".to_owned(),
    };
    assert_eq!(meant.address, Address::Tls { host: "::1".to_owned(), port: 99, files });
}

#[test]
fn bad_addresses_and_files_are_misuse() {
    let world = World { file: Some(FILE), ..World::default() };
    let fault = |context, address| {
        let error = args(context, address).resolve(&world).expect_err("bad");
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    for bad in
        ["unix://x", "http://h:1", "https://h", "https://h:1/x", "h", "https://u@h:1", "", "h:0x1"]
    {
        assert!(fault(Some("lab"), Some(bad)).contains("address"), "{bad}");
    }
    assert!(fault(Some("gone"), None).contains("no context \"gone\" in /home/me"));
    assert!(fault(Some("here"), Some("h:1")).contains("needs a context with \"ca\""));
    let broken = |file| {
        let world =
            World { file: Some(file), variables: vec![("PODBAY_CLIENT_CONFIG", "/my.toml")] };
        args(None, None).resolve(&world).expect_err("bad").to_string()
    };
    assert!(broken("current = 1").starts_with("/my.toml:1: "));
    assert!(broken("\n[contexts.a]\nadress = \"x\"").starts_with("/my.toml:3: unknown field"));
    let named = World { file: None, variables: vec![("PODBAY_CLIENT_CONFIG", "/my.toml")] };
    assert!(args(None, None).resolve(&named).expect_err("absent").to_string().contains("/my.toml"));
}
