use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use super::*;

#[derive(Default)]
struct World {
    files: BTreeMap<PathBuf, String>,
    variables: Vec<(OsString, OsString)>,
}

impl World {
    fn file(text: &str) -> Self {
        Self::default().with_file(DEFAULT_FILE, text)
    }

    fn with_file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.to_owned());
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> Result<Config, Faults> {
        Config::load(self, &Flags::default())
    }

    fn faults(&self) -> Vec<String> {
        let faults = self.load().expect_err("faults");
        faults.0.iter().map(Fault::to_string).collect()
    }

    /// The only fault, without its source.
    fn fault(&self) -> String {
        let faults = self.faults();
        let [fault] = faults.as_slice() else { panic!("{faults:#?}") };
        fault.split_once(": ").expect("place").1.to_owned()
    }
}

impl Inputs for World {
    fn variables(&self) -> Vec<(OsString, OsString)> {
        self.variables.clone()
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn flag(key: &'static str, name: &'static str, values: &[&str]) -> Flag {
    Flag { key, name, values: values.iter().map(|v| (*v).to_owned()).collect() }
}

#[test]
fn defaults_need_no_file() {
    let config = World::default().load().expect("defaults");
    assert_eq!(config.root, Path::new("/var/lib/podbay"));
    assert_eq!(config.cri.socket_mode, FileMode(0o660));
    assert_eq!(config.cri.socket_gid, None);
    assert_eq!(config.containerd.quick_timeout, Duration::from_secs(10));
    assert_eq!(config.runtimes.handlers["runc"].runtime_type, "io.containerd.runc.v2");
    assert_eq!(config.runtimes.handlers["runc"].systemd_cgroup, None);
    assert_eq!(config.network.bin_dirs.len(), 3);
    assert_eq!(config.network.default_subnets.len(), 1);
    assert_eq!(config.streaming.address.to_string(), "127.0.0.1:0");
    assert_eq!(config.streaming.idle_timeout, Duration::from_secs(4 * 60 * 60));
    assert!(config.streaming.base_url.is_none() && config.streaming.host_network_port_forward);
    assert_eq!(config.source("cri.socket"), Some(&Source::Default));
    assert_eq!(config.source("cri.sock"), None);
}

#[test]
fn the_remote_door_is_off_unless_it_has_an_address() {
    let remote = World::default().load().expect("defaults").remote;
    assert_eq!(remote.address, None);
    assert_eq!(remote.policy, Path::new("/etc/podbay/policy.toml"));
    assert!(remote.crl.is_empty());
    let text = "[remote]\naddress = \"[::]:10350\"\ncert = \"/a.crt\"\ncrl = [\"/a.crl\"]";
    let remote = World::file(text).load().expect("load").remote;
    assert_eq!(remote.address, Some("[::]:10350".parse().expect("address")));
    assert_eq!(remote.cert, Path::new("/a.crt"));
    assert_eq!(remote.crl, [Path::new("/a.crl")]);
    for (text, fault) in [
        ("address = \"node-1:10350\"", "remote.address: must be an IP address and a port"),
        ("policy = \"\"", "remote.policy: must be an absolute path"),
        ("tls = false", "remote.tls: unknown key"),
    ] {
        let told = World::file(&format!("[remote]\n{text}")).fault();
        assert!(told.starts_with(fault), "{told}");
    }
}

#[test]
fn measuring_is_neither_frantic_nor_asleep() {
    let stats = |text: &str| World::file(&format!("[stats]\n{text}"));
    let config = stats("interval = \"2s\"").load().expect("load").stats;
    assert_eq!(config.interval, Duration::from_secs(2));
    assert_eq!(config.layer_interval, Duration::from_secs(60));
    for key in ["interval", "layer_interval"] {
        for value in ["500ms", "2h"] {
            let fault = stats(&format!("{key} = {value:?}")).fault();
            assert!(fault.contains("must be 1 s to 1 h"), "{fault}");
        }
    }
}

#[test]
fn flag_beats_environment_beats_file_beats_default() {
    let world = World::file(
        "[containerd]\nnamespace = \"file\"\naddress = \"/file\"\nsnapshotter = \"native\"",
    )
    .env("PODBAY_CONTAINERD_NAMESPACE", "env")
    .env("PODBAY_CONTAINERD_ADDRESS", "/env");
    let flags = Flags {
        config: None,
        settings: vec![flag("containerd.namespace", "--containerd-namespace", &["flag"])],
    };
    let config = Config::load(&world, &flags).expect("load");
    assert_eq!(config.containerd.namespace, "flag");
    assert_eq!(config.containerd.address, Path::new("/env"));
    assert_eq!(config.containerd.snapshotter, "native");
    let sources = ["namespace", "address", "snapshotter", "slow_timeout"]
        .map(|key| config.source(&format!("containerd.{key}")).expect("key").to_string());
    assert_eq!(
        sources,
        [
            "flag --containerd-namespace",
            "environment PODBAY_CONTAINERD_ADDRESS",
            "/etc/podbay/config.toml:4",
            "default"
        ]
    );
}

#[test]
fn a_named_file_must_exist_and_replaces_the_default_one() {
    let world = World::file("root = \"/default\"").with_file("/my.toml", "root = \"/mine\"");
    let named = |path: &str| Flags { config: Some(path.into()), settings: Vec::new() };
    assert_eq!(Config::load(&world, &named("/my.toml")).expect("load").root, Path::new("/mine"));
    let faults = Config::load(&world, &named("/absent")).expect_err("absent");
    assert!(faults.to_string().starts_with("flag --config: read /absent: "), "{faults}");
    let world = world.env("PODBAY_CONFIG", "/my.toml");
    assert_eq!(world.load().expect("load").root, Path::new("/mine"));
}

#[test]
fn lists_come_from_every_layer() {
    let dirs = |config: Config| config.network.bin_dirs;
    let world = World::file("[network]\nbin_dirs = [\"/a\", \"/b\"]");
    assert_eq!(dirs(world.load().expect("file")), ["/a", "/b"].map(PathBuf::from));
    let world = world.env("PODBAY_NETWORK_BIN_DIRS", "/c, /d");
    assert_eq!(dirs(world.load().expect("env")), ["/c", "/d"].map(PathBuf::from));
    let settings = vec![flag("network.bin_dirs", "--cni-bin-dir", &["/e", "/f"])];
    let flags = Flags { config: None, settings };
    assert_eq!(dirs(Config::load(&world, &flags).expect("flags")), ["/e", "/f"].map(PathBuf::from));
}

#[test]
fn limits_of_processes_are_read() {
    let world = World::file("[oci]\nrlimits = [\"nofile=1024:524288\", \"core=unlimited\"]");
    let limit = |name: &str, soft, hard| Rlimit { name: name.into(), soft, hard };
    let expected = [limit("nofile", 1024, 524_288), limit("core", u64::MAX, u64::MAX)];
    assert_eq!(world.load().expect("file").oci.rlimits, expected);
}

#[test]
fn all_faults_are_told_together_with_key_and_place() {
    let world = World::file(
        "root = \"var\"\n\
         colour = \"red\"\n\
         [cri]\n\
         socket_mode = 660\n\
         sockett = \"/x\"\n\
         [drain]\n\
         timeout = \"0s\"\n\
         [nothing]\n",
    )
    .env("PODBAY_LOG_MAX_LINE", "1")
    .env("PODBAY_LOGS_MAX_LINE", "many");
    assert_eq!(
        world.faults(),
        [
            "/etc/podbay/config.toml:1: root: must be an absolute path without \"..\", not \"var\"",
            "/etc/podbay/config.toml:2: colour: unknown key",
            "/etc/podbay/config.toml:4: cri.socket_mode: must be a string with an octal mode \
             (\"0660\"), not a number",
            "/etc/podbay/config.toml:5: cri.sockett: unknown key",
            "/etc/podbay/config.toml:7: drain.timeout: must be a time such as \"10s\" or \"5m\": \
             it is zero",
            "/etc/podbay/config.toml:8: nothing: unknown table",
            "environment PODBAY_LOGS_MAX_LINE: logs.max_line: must be a whole number, not \"many\"",
            "environment PODBAY_LOG_MAX_LINE: sets no key",
        ]
    );
}

#[test]
fn a_fault_hidden_by_a_higher_layer_is_told() {
    let world = World::file("root = 5").env("PODBAY_ROOT", "/good");
    assert_eq!(world.fault(), "root: must be a string, not a number");
}

#[test]
fn syntax_faults_have_their_line_and_hide_no_other() {
    let faults = World::file("state = \"/ok\"\nroot = \n[cri]\nsocket = \"rel\"\n").faults();
    assert!(faults.iter().any(|f| f.starts_with("/etc/podbay/config.toml:2: ")), "{faults:#?}");
    assert!(faults.iter().any(|f| f.contains("cri.socket: must be an absolute")), "{faults:#?}");
}

#[test]
fn each_limit_is_checked() {
    let long = format!("cri.socket = \"/{}\"", "s".repeat(107));
    for (text, fault) in [
        (long.as_str(), "cri.socket: must not be longer than 107 bytes"),
        ("root = \"/a/../b\"", "root: must be an absolute path without \"..\""),
        ("root = \"/a\"\nstate = \"/a/b\"", "state: must not be in root"),
        ("cri = 5", "cri: must be a table"),
        ("cri.socket_mode = \"0999\"", "cri.socket_mode: must be an octal mode"),
        ("cri.socket_gid = -1", "cri.socket_gid: must be a whole number below 2^32"),
        ("containerd.namespace = \"a..b\"", "containerd.namespace: must be letters"),
        ("containerd.snapshotter = \"\"", "containerd.snapshotter: must be letters"),
        ("containerd.quick_timeout = 10", "containerd.quick_timeout: must be a string"),
        ("runtimes.default = \"kata\"", "runtimes.default: is not one of runtimes.handlers"),
        ("[runtimes.handlers.Bad_Name]", "runtimes.handlers.Bad_Name: a handler's name must be"),
        ("[runtimes.handlers.kata]\ntype = \"kata\"", "runtimes.handlers.kata.type: must be like"),
        (
            "[runtimes.handlers.a]\nbinary = \"./x\"",
            "runtimes.handlers.a.binary: must be a program",
        ),
        ("[runtimes.handlers.a]\nbinry = \"x\"", "runtimes.handlers.a.binry: unknown key"),
        (
            "[runtimes.handlers.a]\noptions.config_path = \"/x\"",
            "runtimes.handlers.a.options: is for shims other than runc's",
        ),
        (
            "[runtimes.handlers.a]\npod_annotations = [\"a***\"]",
            "runtimes.handlers.a.pod_annotations: must be names or patterns",
        ),
        (
            "[runtimes.handlers.a]\ncontainer_annotations = [\"\"]",
            "runtimes.handlers.a.container_annotations: must be names or patterns",
        ),
        ("cdi.spec_dirs = []", "cdi.spec_dirs: must not be empty while CDI is on"),
        ("cdi.spec_dirs = [\"cdi\"]", "cdi.spec_dirs: must be"),
        ("cgroup.driver = \"cgroups\"", "cgroup.driver: must be one of [\"auto\", "),
        ("network.default_network = \"true\"", "network.default_network: must be true or false"),
        ("network.default_bridge = \"a-very-long-name\"", "network.default_bridge: must be an"),
        ("network.default_bridge = \"a/b\"", "network.default_bridge: must be an interface"),
        ("network.default_subnets = []", "network.default_subnets: must not be empty"),
        (
            "network.default_subnets = [\"10.1.2.3/24\"]",
            "network.default_subnets: \"10.1.2.3/24\" has",
        ),
        ("network.default_subnets = [\"10.1.2.0/30\"]", "network.default_subnets: must each have"),
        (
            "network.default_subnets = [\"10.1.0.0/24\", \"10.2.0.0/24\"]",
            "network.default_subnets: must have at most one",
        ),
        ("network.bin_dirs = []", "network.bin_dirs: must not be empty"),
        ("network.bin_dirs = [\"/a:b\"]", "network.bin_dirs: must not contain ':'"),
        ("network.max_conf = -1", "network.max_conf: must not be negative"),
        ("images.max_concurrent_layers = 0", "images.max_concurrent_layers: must be 1 to 64"),
        ("images.max_concurrent_pulls = 0", "images.max_concurrent_pulls: must be 1 to 1024"),
        ("images.min_free_percent = 51", "images.min_free_percent: must be 0 to 50"),
        ("images.auth.\"a b\".auth = \"x\"", "images.auth.\"a b\": must be a registry host"),
        ("images.auth.r.username = \"x\"", "images.auth.r: must have username and password"),
        ("oci.rlimits = [\"nofile=9:1\"]", "oci.rlimits: must be like"),
        ("oci.rlimits = [\"nofiles=1\"]", "oci.rlimits: must be like"),
        ("oci.rlimits = [\"core=1\", \"core=2\"]", "oci.rlimits: must name each limit once"),
        ("oci.annotation_allow_list = [\"a/*\"]", "oci.annotation_allow_list: must be exact names"),
        ("logs.max_line = 10", "logs.max_line: must be 256 to 1048576"),
        ("streaming.address = \"localhost:1\"", "streaming.address: must be an IP address and"),
        ("streaming.address = \"0.0.0.0:1\"", "streaming.address: listens on all addresses"),
        ("streaming.base_url = \"node:1\"", "streaming.base_url: must be a URL such as"),
        ("streaming.base_url = \"ftp://n/\"", "streaming.base_url: must be a URL such as"),
        ("streaming.base_url = \"http://n/?a\"", "streaming.base_url: must be a URL such as"),
        ("streaming.idle_timeout = \"0s\"", "streaming.idle_timeout: must be a time"),
        ("nri.request_timeout = \"2m\"", "nri.request_timeout: must be at most one minute"),
        ("nri.plugin_path = \"plugins\"", "nri.plugin_path: must be an absolute path"),
        ("telemetry.level = \"verbose\"", "telemetry.level: must be off, error"),
        ("telemetry.format = \"xml\"", "telemetry.format: must be one of [\"text\", \"json\"]"),
    ] {
        let told = World::file(text).fault();
        assert!(told.starts_with(fault), "{text}\n{told}");
    }
}

#[test]
fn handlers_and_credentials_have_names_of_the_users_choice() {
    let world = World::file(
        "runtimes.default = \"crun\"\n\
         [runtimes.handlers.crun]\n\
         binary = \"/usr/bin/crun\"\n\
         systemd_cgroup = true\n\
         [runtimes.handlers.kata]\n\
         type = \"io.containerd.kata.v2\"\n\
         snapshotter = \"devmapper\"\n\
         pod_annotations = [\"io.kata/*\"]\n\
         privileged_without_host_devices = true\n\
         options.config_path = \"/etc/kata.toml\"\n\
         options.type_url = \"x.v1\"\n\
         [images.auth.\"registry.example:5000\"]\n\
         username = \"u\"\n\
         password = \"hush\"\n",
    );
    let config = world.load().expect("load");
    let names: Vec<_> = config.runtimes.handlers.keys().collect();
    assert_eq!(names, ["crun", "kata", "runc"]);
    assert_eq!(config.runtimes.handlers["crun"].systemd_cgroup, Some(true));
    assert_eq!(config.runtimes.handlers["kata"].runtime_type, "io.containerd.kata.v2");
    let kata = &config.runtimes.handlers["kata"];
    assert_eq!(kata.config_path.as_deref(), Some(Path::new("/etc/kata.toml")));
    assert_eq!(
        (kata.options_type.as_str(), kata.pod_annotations.as_slice()),
        ("x.v1", &["io.kata/*".to_owned()][..])
    );
    assert!(kata.privileged_without_host_devices);
    assert_eq!(config.images.auth["registry.example:5000"].password.expose(), "hush");
    let again = World::file(&config.show().replace("<redacted>", "hush")).load().expect("shown");
    assert_eq!(again.runtimes, config.runtimes);
}

#[test]
fn secrets_are_printed_by_nobody() {
    let world = World::file(
        "[images.auth.r]\nauth = \"hush1\"\nidentity_token = \"hush2\"\n\
         [images.auth.s]\nusername = \"u\"\npassword = \"hush3\"\n",
    );
    let config = world.load().expect("load");
    let json = config.to_json();
    assert_eq!(json["images"]["auth"]["s"]["username"], "u");
    assert_eq!(json["cri"]["socket"], "/run/podbay/podbay.sock");
    assert!(json["cri"].get("socket_gid").is_none(), "not set: {json}");
    for text in [config.show(), format!("{config:?}"), json.to_string()] {
        assert!(!text.contains("hush"), "{text}");
        assert!(text.contains("<redacted>"), "{text}");
    }
    let fault = World::file("[images.auth.r]\npassword = [\"hush\"]\n").faults().join("\n");
    assert!(!fault.contains("hush"), "{fault}");
}

#[test]
fn what_is_shown_loads_again_as_the_same() {
    let world = World::file(
        "[cri]\nsocket_gid = 7\n[runtimes.handlers.kata]\n[network]\nmax_conf = 0\n\
         [streaming]\naddress = \"[::]:10010\"\nbase_url = \"https://node:10010\"\n\
         [oci]\nannotation_allow_list = [\"a.b/c\"]\n\
         [images.auth.\"r:1\"]\n",
    )
    .env("PODBAY_TELEMETRY_FORMAT", "json");
    let first = world.load().expect("load");
    let shown = first.show();
    assert!(shown.contains("socket_gid = 7  # /etc/podbay/config.toml:2\n"), "{shown}");
    assert!(
        shown.contains("format = \"json\"  # environment PODBAY_TELEMETRY_FORMAT\n"),
        "{shown}"
    );
    assert!(shown.contains("\n[runtimes.handlers.kata]\n"), "{shown}");
    assert!(shown.contains("\n[images.auth.\"r:1\"]\n"), "{shown}");
    assert!(shown.contains("root = \"/var/lib/podbay\"  # default\n"), "{shown}");
    let second = World::file(&shown).load().expect("load what was shown");
    let strip = |text: String| -> Vec<String> {
        text.lines().map(|l| l.split("  # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(strip(second.show()), strip(shown));
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    let world = World::default()
        .env("PODBAY_SERVICE_HOST", "10.0.0.1")
        .env("PODBAY_SERVICE_PORT_GRPC", "1")
        .env("PODBAY_PORT", "tcp://10.0.0.1:1")
        .env("PODBAY_PORT_80_TCP_ADDR", "10.0.0.1")
        .env("OTHER", "x");
    world.load().expect("ignored");
    assert_eq!(World::default().env("PODBAY_PORTAL", "x").fault(), "sets no key");
}

#[test]
fn variables_of_the_client_are_no_settings() {
    let world = World::default()
        .env("PODBAY_ADDRESS", "https://10.0.0.5:7443")
        .env("PODBAY_CONTEXT", "lab")
        .env("PODBAY_CLIENT_CONFIG", "/home/me/lab.toml");
    world.load().expect("ignored");
}

#[test]
fn faults_forge_no_lines() {
    let mut world = World::file("\"a\\nb\" = 1\n");
    world.variables.push(("PODBAY_ROOT".into(), OsString::from_vec(vec![0xff])));
    let faults = world.load().expect_err("faults").to_string();
    assert_eq!(faults.lines().count(), 2, "{faults}");
}

#[test]
fn auto_follows_the_host() {
    let auto = CgroupDriver::Auto;
    let answers =
        [(true, true), (true, false), (false, true)].map(|(s, v2)| auto.is_systemd(s, v2));
    assert_eq!(answers, [true, false, false]);
    assert!(CgroupDriver::Systemd.is_systemd(false, false));
    assert!(!CgroupDriver::Cgroupfs.is_systemd(true, true));
}

#[test]
fn upkeep_of_pods_has_bounds() {
    for (line, key) in [
        ("log_max_size = 0", "log_max_size"),
        ("log_max_files = 1", "log_max_files"),
        ("image_gc_high = 80", "image_gc_high"),
        ("image_gc_high = 101", "image_gc_high"),
        ("eviction = [\"memory<1\"]", "eviction"),
        ("shutdown_grace = \"10ms\"", "shutdown_grace"),
        ("shutdown_grace_critical = \"1s\"", "shutdown_grace_critical"),
        ("shutdown_grace_by_priority = [\"0\"]", "shutdown_grace_by_priority"),
        ("shutdown_grace_by_priority = [\"x=1s\"]", "shutdown_grace_by_priority"),
        ("shutdown_grace_by_priority = [\"1=1s\", \"1=2s\"]", "shutdown_grace_by_priority"),
        (
            "shutdown_grace = \"9s\"\nshutdown_grace_by_priority = [\"1=2s\"]",
            "shutdown_grace_by_priority",
        ),
    ] {
        let faults = World::file(&format!("[pods]\n{line}\n")).faults();
        assert!(faults.len() == 1 && faults[0].contains(key), "{faults:#?}");
    }
    let none = World::file("[pods]\neviction = []\n").load().expect("no eviction");
    assert!(none.pods.eviction.is_empty() && none.pods.image_gc);
}

#[test]
fn bands_of_a_shutdown_are_as_the_kubelet_has_them() {
    let bands = |text: &str| {
        let config = World::file(&format!("[pods]\n{text}\n")).load().expect("a configuration");
        let seconds = config.pods.shutdown_bands().into_iter().map(|(p, t)| (p, t.as_secs()));
        seconds.collect::<Vec<_>>()
    };
    assert_eq!(bands("shutdown_grace = \"0s\""), []);
    let both = "shutdown_grace = \"30s\"\nshutdown_grace_critical = \"10s\"";
    assert_eq!(bands(both), [(0, 20), (2_000_000_000, 10)]);
    let given = "shutdown_grace_by_priority = [\"-5=1s\", \"1000 = 1m\"]";
    assert_eq!(bands(given), [(-5, 1), (1000, 60)]);
}

/// The keys of docs/configuration.md with their defaults, as `Config::show` prints them.
fn documented() -> Vec<String> {
    let text = include_str!("../../docs/configuration.md");
    let settings = text.split("## Flags").next().unwrap_or_default();
    let mut table = "";
    let mut found = Vec::new();
    for line in settings.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            table = heading.trim_matches(['`', '[', ']']);
        }
        let Some((key, rest)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | "))
        else {
            continue;
        };
        let default = rest.split(" | ").next().unwrap_or_default().trim_matches('`');
        let of_table = if table == "Without a table" { "" } else { table };
        found.push(format!("[{of_table}] {key} = {default}"));
    }
    found
}

#[test]
fn the_documentation_has_every_key_with_its_default() {
    // A table with a name of the user's choice exists only where the file has it.
    let world = World::file("[images.auth.HOST]\nusername = \"\"");
    let shown = world.load().expect("load").show().replace("handlers.runc", "handlers.NAME");
    let mut table = "[]";
    let mut expected = Vec::new();
    for line in shown.lines() {
        let unset = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set"));
        if line.starts_with('[') {
            table = line;
        } else if let Some(key) = unset {
            expected.push(format!("{table} {key} = unset"));
        } else if let Some((setting, _)) = line.split_once("  # ") {
            expected.push(format!("{table} {setting}"));
        }
    }
    let (mut documented, mut expected) = (documented(), expected);
    documented.sort();
    expected.sort();
    assert_eq!(documented, expected);
}
