//! Who is asked: addresses, contexts, TLS, and nobody there.

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
    let version = agent.run(&["--address", "/no/such.sock", "version"]).await.good();
    assert_eq!(version, format!("podbay {}\n", env!("CARGO_PKG_VERSION")));
    let script = agent.run(&["completion", "bash"]).await.good();
    assert!(script.contains("port-forward"));
    std::fs::create_dir(agent.dir.path().join("man")).expect("man");
    agent.run(&["man", "man"]).await.good();
    assert!(agent.dir.path().join("man/podbay-get.1").is_file());
}
