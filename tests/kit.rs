//! Tests of the test kit itself: leaks are detected, images and the registry are as specified.

mod support;

use support::census::Census;
use support::containerd::Line;
use support::env::TestEnv;
use support::images::{Bundle, ImageBuilder, this_architecture};
use support::registry::{Options, Registry};

#[tokio::test]
async fn images_can_be_pushed_to_every_kind_of_registry() {
    for options in [
        Options::default(),
        Options { password: true, tls: false },
        Options { password: true, tls: true },
    ] {
        let registry = Registry::start_with(options).await;
        let web = ImageBuilder::web().user("worker").volume("/data").build();
        let foreign = ImageBuilder::empty().file("/x", b"x", 0o644).architecture("s390x").build();
        registry.push(&web, "test/web", "1").await;
        registry.push(&Bundle::index(&[web.clone(), foreign]), "test/web", "all").await;
        let link = registry
            .storage()
            .join("docker/registry/v2/repositories/test/web/_manifests/tags/1/current/link");
        assert_eq!(std::fs::read_to_string(link).expect("the tag"), web.root.digest);
    }
}

#[test]
fn an_image_is_the_same_each_time_and_says_what_was_asked() {
    let make = || ImageBuilder::busybox().user("1000").stop_signal("SIGUSR1").env("A=b").build();
    let image = make();
    assert_eq!(image.root, make().root);
    let config: serde_json::Value =
        serde_json::from_slice(&image.blobs[0].bytes).expect("the configuration");
    assert_eq!(config["config"]["User"], "1000");
    assert_eq!(config["config"]["StopSignal"], "SIGUSR1");
    assert_eq!(config["config"]["Env"][1], "A=b");
    assert_eq!(config["architecture"], this_architecture());
    assert_eq!(image.id, image.blobs[0].digest);
}

/// Whether somebody else's leak is not ours, and ours is found.
#[tokio::test]
async fn the_census_sees_what_a_pod_leaves() {
    let env = TestEnv::start(Line::V2).await;
    let other = TestEnv::start(Line::V2).await;
    let before = Census::take(&env).await;
    let id = "ab".repeat(32);
    plant(&env, &id);
    let found = Census::take(&env).await.difference(&before);
    for kind in [
        "network namespace",
        "veth",
        "address",
        "CNI cache",
        "firewall rule",
        "file of a pod",
        "cgroup",
    ] {
        assert!(found.contains(&format!("+ {kind}: ")), "{kind} is missing in:\n{found}");
    }
    let none = Census::take(&other).await.difference(&Census::default());
    assert_eq!(none, "", "the leaks of one world are seen in another");
}

/// Leaves one thing of each kind.
fn plant(env: &TestEnv, id: &str) {
    let write = |path: std::path::PathBuf| {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, "").expect("a file");
    };
    write(env.netns_dir().join("podbay-1"));
    write(env.ipam_dir().join("net").join(format!("{}.2", env.subnet_prefix())));
    write(env.cni_cache_dir().join(format!("results/net-{id}-eth0")));
    write(env.state().join("sandboxes").join(id).join("hosts"));
    let (bridge, cgroup) = (env.bridge(), env.cgroup_parent());
    let veth = format!("{bridge}v");
    for command in [
        format!("ip link add {bridge} type bridge"),
        format!("ip link add {veth} master {bridge} type veth peer name {veth}p"),
        format!("iptables -w -t nat -A POSTROUTING -s {} -j ACCEPT", env.subnet()),
        format!(
            "mkdir -p /sys/fs/cgroup/pids{cgroup}/{id} || mkdir -p /sys/fs/cgroup{cgroup}/{id}"
        ),
    ] {
        let status = std::process::Command::new("sh").args(["-ec", &command]).status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    }
}
