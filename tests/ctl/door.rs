//! Selection of the agent: addresses, contexts, TLS, and no agent.

use super::agent::Agent;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_told_as_such() {
    let agent = Agent::start().await;
    let fault = agent.run(&["--address", "/no/such.sock", "get", "pods"]).await.bad(4);
    assert!(fault.starts_with("error: connect to /no/such.sock: "), "{fault}");
    assert!(fault.contains("No such file"), "{fault}");
    let fault = agent.run(&["--context", "lab", "get", "pods"]).await.bad(2);
    assert!(fault.contains("no context \"lab\""), "{fault}");
    let fault = agent.run(&["--address", "h:1", "get", "pods"]).await.bad(2);
    assert!(fault.contains("needs a context with \"ca\""), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_come_from_the_file() {
    let agent = Agent::start().await;
    let folder = agent.dir.path().join(".config/podbay");
    std::fs::create_dir_all(&folder).expect("folder");
    let socket = agent.dir.path().join("agent.sock");
    let text = format!(
        "current = \"here\"\n[contexts.here]\naddress = {socket:?}\nnamespace = \"mine\"\n"
    );
    std::fs::write(folder.join("config.toml"), text).expect("file");
    let table = agent.run(&["contexts"]).await.good();
    assert!(table.contains("*         here"), "{table}");
    let done = agent.run(&["--context", "here", "get", "pods"]).await;
    assert_eq!(done.err, "No resources found in mine namespace.\n");
    let names = agent.run(&["contexts", "-o", "jsonpath={.items[*].metadata.name}"]).await.good();
    assert_eq!(names, "here");
    std::fs::write(folder.join("config.toml"), "curent = 1").expect("file");
    let fault = agent.run(&["get", "pods"]).await.bad(2);
    assert!(fault.contains("config.toml:1: unknown field"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_tells_the_exit_codes_and_the_version_needs_nobody() {
    let agent = Agent::start().await;
    let help = agent.run(&["--help"]).await.good();
    assert!(help.contains("Exit codes:") && help.contains("PODBAY_CONTEXT"), "{help}");
    let own = format!("Client Version: podbay {}\n", env!("CARGO_PKG_VERSION"));
    let alone = ["--address", "/no/such.sock", "version"];
    assert_eq!(agent.run(&[&alone[..], &["--client"]].concat()).await.good(), own);
    let lonely = agent.run(&alone).await;
    assert_eq!((lonely.code, lonely.out.as_str()), (0, own.as_str()));
    assert!(lonely.err.starts_with("no server version: connect to /no/such.sock"), "{lonely:?}");
    let both = agent.run(&["version"]).await.good();
    assert_eq!(both, format!("{own}Server Version: podbay 1\n"));
    let json = agent.run(&["version", "-o", "json"]).await.good();
    let json: serde_json::Value = serde_json::from_str(&json).expect("json");
    assert_eq!(json["serverVersion"]["gitVersion"], "podbay 1");
    assert!(json["clientVersion"]["gitVersion"].is_string());
    let script = agent.run(&["completion", "bash"]).await.good();
    assert!(script.contains("port-forward"));
    std::fs::create_dir(agent.dir.path().join("man")).expect("man");
    agent.run(&["man", "man"]).await.good();
    assert!(agent.dir.path().join("man/podbay-get.1").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn contexts_are_chosen_as_with_kubectl() {
    let agent = Agent::start().await;
    let folder = agent.dir.path().join(".config/podbay");
    std::fs::create_dir_all(&folder).expect("folder");
    let file = folder.join("config.toml");
    let text = "# mine\n[contexts.a]\naddress = \"/a\"\n[contexts.b]\naddress = \"/b\"\n";
    std::fs::write(&file, text).expect("file");
    agent.run(&["config", "current-context"]).await.bad(1);
    let told = agent.run(&["config", "use-context", "b"]).await.good();
    assert_eq!(told, "Switched to context \"b\".\n");
    assert_eq!(agent.run(&["config", "current-context"]).await.good(), "b\n");
    let set = ["config", "set-context", "--current", "--namespace=web"];
    assert_eq!(agent.run(&set).await.good(), "Context \"b\" modified.\n");
    let listed = agent.run(&["config", "get-contexts"]).await.good();
    assert!(listed.ends_with("*         b      /b        web\n"), "{listed}");
    let now = std::fs::read_to_string(&file).expect("file");
    assert!(now.contains("# mine\n[contexts.a]\naddress = \"/a\"\n"), "{now}");
    agent.run(&["config", "use-context", "none"]).await.bad(2);
    let kinds = agent.run(&["api-resources"]).await.good();
    assert!(kinds.contains("pods         po "), "{kinds}");
}
