use std::fs;

use super::testing::{Plugins, attachment};
use super::*;

/// A namespace that certainly exists.
const NETNS: &str = "/proc/self/ns/net";

const ANSWER: &str = r#"{"interfaces":[{"name":"eth0","sandbox":"/n"}],
    "ips":[{"address":"fd00::2/64","interface":0},{"address":"10.0.0.2/24","interface":0}]}"#;

/// A [`Cni`] over fake plugins `one` and `two`, which record their calls.
struct Bench {
    plugins: Plugins,
    dir: tempfile::TempDir,
    cni: Cni,
}

impl Bench {
    fn new(version: &str) -> Self {
        let bench = Self::empty(None);
        bench.config("10-net.conflist", version, "net");
        for kind in ["one", "two"] {
            bench.plugin(kind, &format!("echo '{ANSWER}'"));
        }
        bench
    }

    fn empty(default_network: Option<DefaultNetwork>) -> Self {
        let (plugins, dir) = (Plugins::new(), tempfile::tempdir().unwrap());
        let cni = Cni::new(Options {
            conf_dir: dir.path().join("net.d"),
            bin_dirs: vec![plugins.dir().to_owned()],
            cache_dir: dir.path().join("cache"),
            default_network,
            use_pod_cidr: true,
            ..Options::default()
        })
        .unwrap();
        Self { plugins, dir, cni }
    }

    fn config(&self, file: &str, version: &str, name: &str) {
        let list = format!(
            r#"{{"cniVersion":"{version}","name":"{name}",
                "plugins":[{{"type":"one"}},{{"type":"two"}}]}}"#
        );
        self.file(file, &list);
    }

    fn file(&self, name: &str, text: &str) {
        fs::create_dir_all(self.dir.path().join("net.d")).unwrap();
        fs::write(self.dir.path().join("net.d").join(name), text).unwrap();
    }

    fn plugin(&self, kind: &str, script: &str) {
        let log = self.dir.path().join("log");
        let script =
            format!("echo \"$CNI_COMMAND {kind} [$CNI_NETNS]\" >> {}\n{script}", log.display());
        self.plugins.add(kind, &script);
    }

    /// The calls since the last look.
    fn calls(&self) -> Vec<String> {
        let path = self.dir.path().join("log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(path);
        text.lines().map(str::to_owned).collect()
    }

    fn cached(&self) -> usize {
        fs::read_dir(self.dir.path().join("cache/results")).map_or(0, Iterator::count)
    }
}

fn pod() -> Attachment {
    Attachment { netns: Some(NETNS.into()), ..attachment() }
}

fn calls(of: &[(&str, &str)]) -> Vec<String> {
    of.iter().map(|(call, netns)| format!("{call} [{netns}]")).collect()
}

#[tokio::test]
async fn attaches_and_detaches_once_each() {
    let bench = Bench::new("1.0.0");
    let pod = pod();
    let status = bench.cni.attach(&pod).await.unwrap();
    let ips: Vec<String> = status.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.0.0.2", "fd00::2"], "IPv4 is preferred");
    assert_eq!(bench.cached(), 1);
    assert_eq!(bench.cni.recall(&pod).await.unwrap(), Some(status));
    bench.cni.detach(&pod).await.unwrap();
    assert_eq!(bench.cached(), 0);
    assert_eq!(bench.cni.recall(&pod).await.unwrap(), None);
    let all = [("ADD one", NETNS), ("ADD two", NETNS), ("DEL two", NETNS), ("DEL one", NETNS)];
    assert_eq!(bench.calls(), calls(&all));
    bench.cni.detach(&pod).await.unwrap();
}

#[tokio::test]
async fn detach_uses_the_configuration_of_attach_and_keeps_the_cache_until_done() {
    let bench = Bench::new("1.0.0");
    let mut pod = pod();
    bench.cni.attach(&pod).await.unwrap();
    bench.calls();
    fs::remove_file(bench.dir.path().join("net.d/10-net.conflist")).unwrap();
    bench.plugin("one", "echo '{\"code\":99,\"msg\":\"no\"}'; exit 1");
    let error = bench.cni.detach(&pod).await.unwrap_err();
    assert!(error_text(&error).contains("code 99"), "{}", error_text(&error));
    assert_eq!(bench.cached(), 1, "what is left must be known");
    assert_eq!(bench.calls(), calls(&[("DEL two", NETNS), ("DEL one", NETNS)]));

    bench.plugin("one", "exit 0");
    // A leftover from before a reboot: a plain file is not a namespace.
    let plain = bench.dir.path().join("plain");
    fs::write(&plain, "").unwrap();
    pod.netns = Some(plain);
    bench.cni.detach(&pod).await.unwrap();
    assert_eq!(bench.calls(), calls(&[("DEL two", ""), ("DEL one", "")]));
    assert_eq!(bench.cached(), 0);
}

#[tokio::test]
async fn a_pod_never_attached_is_fine_with_and_without_networks() {
    let bench = Bench::new("1.0.0");
    let pod = attachment();
    bench.cni.detach(&pod).await.unwrap();
    assert_eq!(bench.calls(), calls(&[("DEL two", ""), ("DEL one", "")]));
    Bench::empty(None).cni.detach(&pod).await.unwrap();
}

#[tokio::test]
async fn every_failed_add_is_taken_back_at_once() {
    for (script, kind, part) in [
        ("exit 1", ErrorKind::Other, "exit status: 1"),
        (r#"echo '{"code":11,"msg":"wait"}'; exit 1"#, ErrorKind::Unavailable, "wait"),
        ("echo garbage", ErrorKind::Other, "not valid JSON"),
        ("echo '{}'", ErrorKind::Other, "no address to eth0"),
        (r#"echo '{"ips":[{"address":"x"}]}'"#, ErrorKind::Other, "no usable address"),
        ("exec yes", ErrorKind::Other, "printed more than"),
    ] {
        let bench = Bench::new("1.0.0");
        bench.plugin("two", &format!("[ $CNI_COMMAND = DEL ] && exit 0; {script}"));
        let error = bench.cni.attach(&pod()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{script}");
        let text = error_text(&error);
        assert!(text.contains(part) && text.len() < 5_000, "{script}: {text}");
        let all = [("ADD one", NETNS), ("ADD two", NETNS), ("DEL two", NETNS), ("DEL one", NETNS)];
        assert_eq!(bench.calls(), calls(&all), "{script}");
        assert_eq!(bench.cached(), 0, "{script}");
    }
}

#[tokio::test]
async fn attach_refuses_what_no_plugin_should_see() {
    let bench = Bench::new("1.0.0");
    for netns in [None, Some("/no/such/netns".into()), Some("/etc/passwd".into())] {
        let pod = Attachment { netns, ..attachment() };
        let error = bench.cni.attach(&pod).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
    }
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn several_networks_get_an_interface_each() {
    let mut bench = Bench::new("1.0.0");
    bench.config("20-more.conflist", "1.0.0", "more");
    bench.plugin("two", &format!("echo '{ANSWER}' | sed s/eth0/$CNI_IFNAME/"));
    let options = Options { max_conf: 0, ..bench.cni.0.options.clone() };
    bench.cni = Cni::new(options).unwrap();
    let pod = pod();
    bench.cni.attach(&pod).await.unwrap();
    assert_eq!(bench.cached(), 2);
    assert_eq!(bench.calls().len(), 4);
    bench.cni.detach(&pod).await.unwrap();
    assert_eq!(bench.calls().len(), 4);
    assert_eq!(bench.cached(), 0);
}

async fn reason(cni: &Cni) -> Option<String> {
    match cni.readiness().await {
        NetworkReadiness::Ready => None,
        NetworkReadiness::NotReady(reason) => Some(reason),
    }
}

#[tokio::test]
async fn readiness_follows_the_folder_and_names_broken_files() {
    let bench = Bench::empty(None);
    assert!(reason(&bench.cni).await.unwrap().contains("no network configuration"));
    assert_eq!(bench.cni.attach(&pod()).await.unwrap_err().kind, ErrorKind::Unavailable);
    bench.file("05-bad.conflist", "{");
    assert!(reason(&bench.cni).await.unwrap().contains("05-bad.conflist is not valid JSON"));
    bench.config("10-net.conflist", "1.0.0", "net");
    assert!(reason(&bench.cni).await.unwrap().contains("plugin \"one\" is in none of"));
    bench.plugin("one", "exit 1");
    bench.plugin("two", "exit 1");
    assert_eq!(reason(&bench.cni).await, None);
    assert!(bench.calls().is_empty(), "1.0.0 knows no STATUS");
    bench.config("10-net.conflist", "1.1.0", "renamed");
    bench.plugin("two", r#"echo '{"code":50,"msg":"daemon is away"}'; exit 1"#);
    bench.plugin("one", "exit 0");
    assert!(reason(&bench.cni).await.unwrap().contains("daemon is away"));
    assert_eq!(bench.calls().len(), 2);
    assert!(reason(&bench.cni).await.is_some());
    assert!(bench.calls().is_empty(), "the answer is kept for a while");
}

#[tokio::test]
async fn an_own_network_is_written_only_where_there_is_none() {
    let bench = Bench::empty(Some(DefaultNetwork::default()));
    let file = bench.dir.path().join("net.d").join(own::FILE);
    let why = reason(&bench.cni).await.unwrap();
    assert!(why.contains("\"bridge\" is in none of"), "{why}");
    bench.plugin("bridge", r#"echo '{"supportedVersions":["1.0.0","1.1.0"]}'"#);
    bench.plugin("host-local", "exit 1");
    bench.plugin("portmap", "exit 1");
    assert_eq!(reason(&bench.cni).await, None);
    assert!(fs::read_to_string(&file).unwrap().contains("10.87.0.0/16"));

    bench.cni.set_pod_cidr("10.3.4.0/24,fd03::/64").await.unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("10.3.4.0/24") && text.contains("fd03::/64"), "{text}");
    for bad in ["10.3.4.0", "10.0.0.0/24,10.1.0.0/24", "x", "10.0.0.0/24,"] {
        let error = bench.cni.set_pod_cidr(bad).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{bad}");
    }

    let bench = Bench::new("1.0.0");
    let file = bench.dir.path().join("net.d").join(own::FILE);
    assert_eq!(reason(&bench.cni).await, None);
    assert!(!file.exists());

    let unused = Cni::new(Options::default()).unwrap();
    unused.set_pod_cidr("no range").await.expect("nobody uses it");
}
