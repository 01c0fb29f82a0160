//! `cp` in both directions, and malicious archives.

use super::agent::Agent;

#[tokio::test(flavor = "multi_thread")]
async fn files_go_there_and_come_back() {
    let agent = Agent::start().await;
    let here = agent.dir.path();
    let there = here.join("there");
    std::fs::create_dir_all(here.join("from/deep")).expect("from");
    std::fs::create_dir(&there).expect("there");
    std::fs::write(here.join("from/deep/file"), vec![3; 100_000]).expect("file");
    let far = format!("web:{}", there.display());
    agent.run(&["cp", "from", &far]).await.good();
    assert_eq!(std::fs::read(there.join("from/deep/file")).expect("copied").len(), 100_000);
    agent.run(&["cp", "from/deep/file", &format!("ns/{far}/renamed"), "-c", "app"]).await.good();
    assert_eq!(std::fs::read(there.join("renamed")).expect("copied").len(), 100_000);
    assert!(agent.asked().contains("namespace: \"ns\"") && agent.asked().contains("\"app\""));
    agent.run(&["cp", &format!("{far}/from"), "back"]).await.good();
    assert_eq!(std::fs::read(here.join("back/deep/file")).expect("back").len(), 100_000);
    std::fs::create_dir(here.join("into")).expect("into");
    agent.run(&["cp", &format!("{far}/renamed"), "into"]).await.good();
    assert_eq!(std::fs::read(here.join("into/renamed")).expect("back").len(), 100_000);
    let fault = agent.run(&["cp", &format!("{far}/absent"), "x"]).await.bad(1);
    assert!(fault.contains("tar exited with code") && fault.contains("absent"), "{fault}");
    let fault = agent.run(&["cp", "from", &format!("{far}/no/such/x")]).await.bad(1);
    assert!(fault.contains("tar exited"), "{fault}");
    for args in [["cp", "a", "b"], ["cp", "web:/a", "web:/b"], ["cp", "absent", "web:/a"]] {
        agent.run(&args).await.bad(2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_container_writes_nothing_outside() {
    let agent = Agent::start().await;
    let here = agent.dir.path();
    std::fs::create_dir(here.join("into")).expect("into");
    for name in ["../evil", "a/../../evil", "/tmp/podbay-evil", "other"] {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_mode(0o644);
        header.set_cksum();
        archive.append(&header, &b"x"[..]).expect("append");
        agent.state(|state| state.hostile = Some(archive.into_inner().expect("archive")));
        let fault = agent.run(&["cp", "web:/a", "into"]).await.bad(1);
        assert!(fault.contains("outside the requested path"), "{name}: {fault}");
        assert_eq!(std::fs::read_dir(here.join("into")).expect("into").count(), 0, "{name}");
        assert!(!here.join("evil").exists());
    }
}
