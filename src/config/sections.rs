//! Every setting: its key, its default, its limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::{
    Cdi, Cgroup, CgroupDriver, Config, Containerd, Cri, Drain, FileMode, Handler, Images, Logs,
    Network, Nri, Oci, Pause, RegistryAuth, Remote, Runtimes, Secret, Stats, Streaming, Telemetry,
};
use crate::telemetry::{self, Format};

/// Maximum length of a unix socket path: 108 bytes including the terminating NUL.
const MAX_SOCKET_PATH: usize = 107;

/// Maximum length of a network interface name.
const MAX_INTERFACE_NAME: usize = 15;

/// The AppArmor profile that comes with podbay.
pub(crate) const DEFAULT_PROFILE: &str = "podbay-default";

/// A private subnet that no known container tool, CNI plugin or Kubernetes distribution uses by
/// default.
const DEFAULT_SUBNET: &str = "10.213.64.0/18";

/// Reads every setting; a faulty one gets its default.
pub(super) fn read(reader: &mut Reader) -> Config {
    let root: PathBuf = reader.get("root", "/var/lib/podbay".into());
    let state: PathBuf = reader.get("state", "/run/podbay".into());
    let apart = !root.starts_with(&state) && !state.starts_with(&root);
    reader.check(apart, &["state"], "must not be in root, nor root in it");
    Config {
        root,
        state,
        cri: cri(reader),
        containerd: containerd(reader),
        cgroup: Cgroup { driver: reader.get("cgroup.driver", CgroupDriver::Auto) },
        runtimes: runtimes(reader),
        network: network(reader),
        images: images(reader),
        pause: Pause { image: reader.get("pause.image", String::new()) },
        oci: oci(reader),
        cdi: cdi(reader),
        nri: nri(reader),
        logs: logs(reader),
        streaming: streaming(reader),
        pods: super::pods::read(reader),
        remote: remote(reader),
        stats: stats(reader),
        telemetry: telemetry(reader),
        drain: Drain { timeout: reader.get("drain.timeout", seconds(8)) },
        shown: Vec::new(),
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn cri(reader: &mut Reader) -> Cri {
    let cri = Cri {
        socket: reader.get("cri.socket", "/run/podbay/podbay.sock".into()),
        socket_mode: reader.get("cri.socket_mode", FileMode(0o660)),
        socket_gid: reader.get_optional("cri.socket_gid"),
    };
    check_socket(reader, &cri.socket, &["cri", "socket"]);
    cri
}

fn check_socket(reader: &mut Reader, path: &std::path::Path, key: &[&str]) {
    let short = path.as_os_str().len() <= MAX_SOCKET_PATH;
    reader.check(short, key, "must not be longer than 107 bytes, as a unix socket");
}

fn containerd(reader: &mut Reader) -> Containerd {
    let containerd = Containerd {
        address: reader.get("containerd.address", "/run/containerd/containerd.sock".into()),
        namespace: reader.get("containerd.namespace", "podbay".to_owned()),
        snapshotter: reader.get("containerd.snapshotter", "overlayfs".to_owned()),
        quick_timeout: reader.get("containerd.quick_timeout", seconds(10)),
        slow_timeout: reader.get("containerd.slow_timeout", seconds(60)),
    };
    check_socket(reader, &containerd.address, &["containerd", "address"]);
    check_identifier(reader, &containerd.namespace, &["containerd", "namespace"]);
    check_identifier(reader, &containerd.snapshotter, &["containerd", "snapshotter"]);
    containerd
}

/// containerd's rule for identifiers.
fn check_identifier(reader: &mut Reader, text: &str, key: &[&str]) {
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let good = text.len() <= 76 && text.split(['.', '_', '-']).all(part);
    let problem = "must be letters and digits, with single '.', '_' or '-' between, at most 76";
    reader.check(good, key, problem);
}

fn runtimes(reader: &mut Reader) -> Runtimes {
    let default: String = reader.get("runtimes.default", "runc".to_owned());
    let mut names = reader.table_names("runtimes.handlers");
    if !names.iter().any(|name| name == "runc") {
        names.push("runc".to_owned());
    }
    let handlers: BTreeMap<_, _> = names
        .into_iter()
        .map(|name| {
            let handler = handler(reader, &name);
            (name, handler)
        })
        .collect();
    let known = handlers.contains_key(&default);
    reader.check(known, &["runtimes", "default"], "is not one of runtimes.handlers");
    Runtimes { default, handlers }
}

fn handler(reader: &mut Reader, name: &str) -> Handler {
    let key = ["runtimes", "handlers", name];
    reader.check(is_dns_label(name), &key, "a handler's name must be a DNS label");
    let table = key.map(str::to_owned);
    let handler = Handler {
        runtime_type: reader.get_in(&table, "type", "io.containerd.runc.v2".to_owned()),
        binary: reader.get_in(&table, "binary", String::new()),
        root: reader.get_in(&table, "root", None),
        systemd_cgroup: reader.get_optional_in(&table, "systemd_cgroup"),
        snapshotter: reader.get_in(&table, "snapshotter", String::new()),
        pod_annotations: reader.get_in(&table, "pod_annotations", Vec::new()),
        container_annotations: reader.get_in(&table, "container_annotations", Vec::new()),
        privileged_without_host_devices: reader.get_in(
            &table,
            "privileged_without_host_devices",
            false,
        ),
        // Last, because it is shown as a table of its own.
        config_path: reader.get_optional_in(&table, "options.config_path"),
        options_type: reader.get_optional_in(&table, "options.type_url").unwrap_or_default(),
    };
    check_handler(reader, &handler, name);
    handler
}

fn check_handler(reader: &mut Reader, handler: &Handler, name: &str) {
    let key = ["runtimes", "handlers", name];
    let mut check = |setting, good, problem| {
        reader.check(good, &[key[0], key[1], key[2], setting], problem);
    };
    let kind = &handler.runtime_type;
    let good = kind.starts_with('/') || kind.split('.').filter(|part| is_word(part)).count() >= 2;
    check("type", good, "must be like \"io.containerd.runc.v2\", or the absolute path of a shim");
    let binary = &handler.binary;
    let good = binary.starts_with('/') || !binary.contains('/');
    check("binary", good, "must be a program's name or absolute path");
    let of_runc = kind.starts_with("io.containerd.runc.");
    let told = handler.config_path.is_some() || !handler.options_type.is_empty();
    check("options", !(of_runc && told), "is for shims other than runc's");
    let pattern = |text: &String| !text.is_empty() && glob::Pattern::new(text).is_ok();
    let problem = "must be names or patterns, with '**' as a whole part only";
    check("pod_annotations", handler.pod_annotations.iter().all(pattern), problem);
    check("container_annotations", handler.container_annotations.iter().all(pattern), problem);
    if !handler.snapshotter.is_empty() {
        check_identifier(reader, &handler.snapshotter, &[key[0], key[1], key[2], "snapshotter"]);
    }
}

fn is_word(part: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !part.is_empty() && part.bytes().all(good)
}

fn is_dns_label(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends = !text.starts_with('-') && !text.ends_with('-');
    (1..=63).contains(&text.len()) && ends && text.bytes().all(good)
}

fn network(reader: &mut Reader) -> Network {
    let bin_dirs = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from);
    let subnets = DEFAULT_SUBNET.parse().into_iter().collect();
    let network = Network {
        conf_dir: reader.get("network.conf_dir", "/etc/cni/net.d".into()),
        bin_dirs: reader.get("network.bin_dirs", bin_dirs.into()),
        cache_dir: reader.get("network.cache_dir", "/var/lib/cni".into()),
        max_conf: reader.get("network.max_conf", 1),
        netns_dir: reader.get("network.netns_dir", "/var/run/netns".into()),
        add_timeout: reader.get("network.add_timeout", seconds(60)),
        del_timeout: reader.get("network.del_timeout", seconds(60)),
        default_network: reader.get("network.default_network", true),
        default_bridge: reader.get("network.default_bridge", "podbay0".to_owned()),
        default_subnets: reader.get("network.default_subnets", subnets),
        use_pod_cidr: reader.get("network.use_pod_cidr", false),
    };
    reader.check(!network.bin_dirs.is_empty(), &["network", "bin_dirs"], "must not be empty");
    let joins =
        network.bin_dirs.iter().all(|dir| !dir.as_os_str().as_encoded_bytes().contains(&b':'));
    reader.check(
        joins,
        &["network", "bin_dirs"],
        "must not contain ':', which separates folders in CNI_PATH",
    );
    let bridge = &network.default_bridge;
    let good = (1..=MAX_INTERFACE_NAME).contains(&bridge.len())
        && !bridge.starts_with(['.', '-'])
        && bridge.split('.').all(is_word);
    let problem = "must be an interface name: letters, digits, '-', '_' and '.', at most 15";
    reader.check(good, &["network", "default_bridge"], problem);
    check_subnets(reader, &network);
    network
}

fn check_subnets(reader: &mut Reader, network: &Network) {
    let subnets = &network.default_subnets;
    let key = ["network", "default_subnets"];
    let needed = network.default_network && subnets.is_empty();
    reader.check(!needed, &key, "must not be empty while default_network is on");
    let families = |v4: bool| subnets.iter().filter(|net| net.addr().is_ipv4() == v4).count();
    let one_each = families(true) <= 1 && families(false) <= 1;
    reader.check(one_each, &key, "must have at most one subnet of each IP family");
    // Room for the network, bridge and broadcast addresses, and some pods.
    let room = subnets.iter().all(|net| net.max_prefix_len() - net.prefix_len() >= 4);
    reader.check(room, &key, "must each have room for 16 addresses");
}

fn images(reader: &mut Reader) -> Images {
    let dirs = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    let images = Images {
        config_dirs: reader.get("images.config_dirs", dirs.into()),
        no_progress_timeout: reader.get("images.no_progress_timeout", seconds(300)),
        max_concurrent_layers: reader.get("images.max_concurrent_layers", 3),
        max_concurrent_pulls: reader.get("images.max_concurrent_pulls", 16),
        min_free_percent: reader.get("images.min_free_percent", 1),
        docker_config: reader.get("images.docker_config", None),
        pinned: reader.get("images.pinned", Vec::new()),
        auth: auth(reader),
    };
    let key = ["images", "max_concurrent_layers"];
    reader.check((1..=64).contains(&images.max_concurrent_layers), &key, "must be 1 to 64");
    let key = ["images", "max_concurrent_pulls"];
    reader.check((1..=1024).contains(&images.max_concurrent_pulls), &key, "must be 1 to 1024");
    let key = ["images", "min_free_percent"];
    reader.check(images.min_free_percent <= 50, &key, "must be 0 to 50");
    images
}

fn auth(reader: &mut Reader) -> BTreeMap<String, RegistryAuth> {
    let mut all = BTreeMap::new();
    for host in reader.table_names("images.auth") {
        let key = ["images", "auth", host.as_str()];
        let good = |b: u8| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b);
        let named = !host.is_empty() && host.bytes().all(good);
        reader.check(named, &key, "must be a registry host, optionally with a port");
        let table = key.map(str::to_owned);
        let auth = RegistryAuth {
            username: reader.get_in(&table, "username", String::new()),
            password: reader.get_in(&table, "password", Secret::default()),
            auth: reader.get_in(&table, "auth", Secret::default()),
            identity_token: reader.get_in(&table, "identity_token", Secret::default()),
        };
        let both = !auth.auth.is_empty() && !auth.username.is_empty();
        reader.check(!both, &key, "must have either username and password, or auth");
        let half = auth.username.is_empty() != auth.password.is_empty();
        reader.check(!half, &key, "must have username and password together");
        all.insert(host, auth);
    }
    all
}

fn oci(reader: &mut Reader) -> Oci {
    let oci = Oci {
        annotation_allow_list: reader.get("oci.annotation_allow_list", Vec::new()),
        tolerate_missing_hugetlb: reader.get("oci.tolerate_missing_hugetlb", true),
        unprivileged_ports: reader.get("oci.unprivileged_ports", true),
        unprivileged_ping: reader.get("oci.unprivileged_ping", true),
        device_ownership_from_security_context: reader
            .get("oci.device_ownership_from_security_context", false),
        rlimits: reader.get("oci.rlimits", Vec::new()),
        selinux: reader.get("oci.selinux", false),
        apparmor_default_profile: reader
            .get("oci.apparmor_default_profile", DEFAULT_PROFILE.to_owned()),
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    let name = oci.apparmor_default_profile.as_str();
    let good = name.bytes().all(plain) && !name.starts_with('.') && name != "unconfined";
    let problem = "must be letters, digits, '.', '_' and '-', or empty for none";
    reader.check(good, &["oci", "apparmor_default_profile"], problem);
    let exact = |name: &String| !name.is_empty() && !name.contains('*');
    let good = oci.annotation_allow_list.iter().all(exact);
    reader.check(good, &["oci", "annotation_allow_list"], "must be exact names, without '*'");
    let names = oci.rlimits.iter().map(|limit| &limit.name).collect::<BTreeSet<_>>();
    let once = names.len() == oci.rlimits.len();
    reader.check(once, &["oci", "rlimits"], "must name each limit once");
    oci
}

fn cdi(reader: &mut Reader) -> Cdi {
    let dirs = ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from);
    let cdi = Cdi {
        enabled: reader.get("cdi.enabled", true),
        spec_dirs: reader.get("cdi.spec_dirs", dirs.into()),
    };
    let good = !cdi.enabled || !cdi.spec_dirs.is_empty();
    reader.check(good, &["cdi", "spec_dirs"], "must not be empty while CDI is on");
    cdi
}

fn nri(reader: &mut Reader) -> Nri {
    let nri = Nri {
        enable: reader.get("nri.enable", false),
        socket_path: reader.get("nri.socket_path", "/var/run/nri/nri.sock".into()),
        plugin_path: reader.get("nri.plugin_path", "/opt/nri/plugins".into()),
        plugin_config_path: reader.get("nri.plugin_config_path", "/etc/nri/conf.d".into()),
        registration_timeout: reader.get("nri.registration_timeout", seconds(5)),
        request_timeout: reader.get("nri.request_timeout", seconds(2)),
        disable_connections: reader.get("nri.disable_connections", false),
    };
    check_socket(reader, &nri.socket_path, &["nri", "socket_path"]);
    for (name, time) in [
        ("registration_timeout", nri.registration_timeout),
        ("request_timeout", nri.request_timeout),
    ] {
        reader.check(time <= seconds(60), &["nri", name], "must be at most one minute");
    }
    nri
}

fn logs(reader: &mut Reader) -> Logs {
    let logs = Logs { max_line: reader.get("logs.max_line", 16384) };
    let good = (256..=1 << 20).contains(&logs.max_line);
    reader.check(good, &["logs", "max_line"], "must be 256 to 1048576 bytes");
    logs
}

fn streaming(reader: &mut Reader) -> Streaming {
    let streaming = Streaming {
        address: reader.get("streaming.address", ([127, 0, 0, 1], 0).into()),
        base_url: reader.get("streaming.base_url", None),
        idle_timeout: reader.get("streaming.idle_timeout", seconds(4 * 60 * 60)),
        creation_timeout: reader.get("streaming.creation_timeout", seconds(30)),
        host_network_port_forward: reader.get("streaming.host_network_port_forward", true),
    };
    let named = !streaming.address.ip().is_unspecified() || streaming.base_url.is_some();
    let problem = "listens on all addresses, so streaming.base_url must say how clients connect";
    reader.check(named, &["streaming", "address"], problem);
    streaming
}

fn remote(reader: &mut Reader) -> Remote {
    Remote {
        address: reader.get("remote.address", None),
        cert: reader.get("remote.cert", "/etc/podbay/pki/agent.crt".into()),
        key: reader.get("remote.key", "/etc/podbay/pki/agent.key".into()),
        client_ca: reader.get("remote.client_ca", "/etc/podbay/pki/ca.crt".into()),
        crl: reader.get("remote.crl", Vec::new()),
        policy: reader.get("remote.policy", "/etc/podbay/policy.toml".into()),
    }
}

fn stats(reader: &mut Reader) -> Stats {
    let stats = Stats {
        interval: reader.get("stats.interval", seconds(10)),
        layer_interval: reader.get("stats.layer_interval", seconds(60)),
    };
    for (key, value) in [("interval", stats.interval), ("layer_interval", stats.layer_interval)] {
        let good = (seconds(1)..=seconds(3600)).contains(&value);
        reader.check(good, &["stats", key], "must be 1 s to 1 h");
    }
    stats
}

fn telemetry(reader: &mut Reader) -> Telemetry {
    let telemetry = Telemetry {
        level: reader.get("telemetry.level", "info".to_owned()),
        format: reader.get("telemetry.format", Format::Text),
    };
    let good = telemetry::is_level(&telemetry.level);
    let problem = "must be off, error, warn, info, debug or trace, or a list of target=level";
    reader.check(good, &["telemetry", "level"], problem);
    telemetry
}
