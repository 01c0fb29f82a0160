//! Features of the daemon and its runtimes, found by querying them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use containerd_client::services::v1::{Plugin, PluginInfoRequest, PluginsRequest};
use containerd_client::types::{RuntimeInfo as WireRuntimeInfo, RuntimeRequest};
use serde::Deserialize;
use tokio::process::Command;

use super::super::trust::program;
use super::client::Client;
use super::types::{RUNC_RUNTIME, decode, shim_options};
use crate::backend::{
    Error, ErrorKind, HandlerFeatures, Result, RuntimeHandler, RuntimeInfo, SnapshotterInfo,
};

const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
const GRPC: &str = "io.containerd.grpc.v1";
/// Capability of a snapshotter that supports id mappings.
const REMAP_IDS: &str = "remap-ids";
/// First kernel with mount_setattr(2), which recursive read-only mounts need.
const RRO_KERNEL: (u32, u32) = (5, 12);

pub(super) async fn probe(client: &Client) -> Result<RuntimeInfo> {
    let filters = vec![format!("type=={SNAPSHOTTER}"), format!("type=={GRPC},id==cri")];
    let (mut version, mut server, mut plugins) =
        (client.version(), client.introspection(), client.introspection());
    let (version, server, plugins) = tokio::try_join!(
        client.quick(|| "ask for version".to_owned(), version.version(client.request(()))),
        client.quick(|| "ask for server id".to_owned(), server.server(client.request(()))),
        client.quick(
            || "ask for plugins".to_owned(),
            plugins.plugins(client.request(PluginsRequest { filters })),
        ),
    )?;
    // Plugins that failed or were skipped are listed too, with the reason.
    let working: Vec<Plugin> =
        plugins.plugins.into_iter().filter(|plugin| plugin.init_err.is_none()).collect();
    let mut info = RuntimeInfo {
        version: version.version,
        revision: version.revision,
        uuid: server.uuid,
        cri_plugin_enabled: working.iter().any(|plugin| plugin.r#type == GRPC),
        snapshotters: working
            .into_iter()
            .filter(|plugin| plugin.r#type == SNAPSHOTTER)
            .map(|mut plugin| SnapshotterInfo {
                root: plugin.exports.remove("root").unwrap_or_default().into(),
                name: plugin.id,
                capabilities: plugin.capabilities,
            })
            .collect(),
    };
    fill_roots(&mut info.snapshotters);
    Ok(info)
}

/// Some snapshotters of 1.x report no directory. All keep theirs in the daemon's root under the
/// plugin's name, so it can be derived from another one.
fn fill_roots(snapshotters: &mut [SnapshotterInfo]) {
    let folder = |name: &str| format!("{SNAPSHOTTER}.{name}");
    let daemons = snapshotters.iter().find_map(|known| {
        let parent = known.root.parent()?;
        (known.root == parent.join(folder(&known.name))).then(|| parent.to_owned())
    });
    let Some(daemons) = daemons else { return };
    for silent in snapshotters.iter_mut().filter(|known| known.root.as_os_str().is_empty()) {
        silent.root = daemons.join(folder(&silent.name));
    }
}

/// Features of a handler: from the daemon, which queries the shim, or before 2.0 from the OCI
/// runtime itself.
pub(super) async fn features(client: &Client, handler: &RuntimeHandler) -> Result<HandlerFeatures> {
    let json = match from_daemon(client, handler).await {
        Err(error) if error.kind == ErrorKind::Unsupported => from_binary(client, handler).await?,
        json => json?,
    };
    let Some(json) = json else { return Ok(HandlerFeatures::default()) };
    let mut features = parse(&json, kernel()).map_err(|error| {
        let tried = format!("read features of runtime handler {:?}", handler.name);
        Error::new(ErrorKind::Other, tried).because(error)
    })?;
    features.user_namespaces = features.user_namespaces
        && kernel_has_user_namespaces(Path::new("/"))
        && maps_ids(client, &handler.snapshotter).await?;
    Ok(features)
}

/// Whether the kernel of the host with the root `root` supports user namespaces.
fn kernel_has_user_namespaces(root: &Path) -> bool {
    let most = std::fs::read_to_string(root.join("proc/sys/user/max_user_namespaces"));
    root.join("proc/self/ns/user").exists() && most.is_ok_and(|most| most.trim() != "0")
}

/// Whether a snapshotter supports root file systems with mapped ids. Otherwise the files would
/// appear to belong to nobody, or would all have to be changed for every container.
async fn maps_ids(client: &Client, snapshotter: &str) -> Result<bool> {
    let filters = vec![format!("type=={SNAPSHOTTER},id=={snapshotter}")];
    let tried = || format!("ask what snapshotter {snapshotter} can do");
    let call = client.request(PluginsRequest { filters });
    let plugins = client.quick(tried, client.introspection().plugins(call)).await?.plugins;
    let works = |plugin: &&Plugin| plugin.init_err.is_none();
    let can = |plugin: &Plugin| plugin.capabilities.iter().any(|can| can == REMAP_IDS);
    Ok(plugins.iter().filter(works).any(can))
}

async fn from_daemon(client: &Client, handler: &RuntimeHandler) -> Result<Option<Vec<u8>>> {
    let asked = RuntimeRequest {
        runtime_path: handler.runtime_type.clone(),
        options: shim_options(handler, (0, 0)),
    };
    let message = PluginInfoRequest {
        r#type: "io.containerd.runtime.v2".to_owned(),
        id: "task".to_owned(),
        options: Some(containerd_client::to_any(&asked)),
    };
    let tried = || format!("ask for features of runtime handler {:?}", handler.name);
    let call = client.request(message);
    let answer = client.slow(tried, client.introspection().plugin_info(call)).await?;
    let info: Option<WireRuntimeInfo> = answer.extra.as_ref().and_then(decode);
    Ok(info.and_then(|info| info.features).map(|features| features.value))
}

/// `None` when the runtime cannot be found or has no such query.
async fn from_binary(client: &Client, handler: &RuntimeHandler) -> Result<Option<Vec<u8>>> {
    if !handler.runtime_type.starts_with(RUNC_RUNTIME) {
        return Ok(None);
    }
    let binary = if handler.binary.is_empty() { "runc" } else { handler.binary.as_str() };
    let tried = || format!("run {binary} features");
    let found = match program(binary) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // The daemon may find it in its own search path.
            tracing::debug!(binary, "cannot query runtime: {error}");
            return Ok(None);
        }
        Err(error) => {
            tracing::warn!(binary, %error, "cannot query runtime features");
            return Ok(None);
        }
    };
    let run = Command::new(found)
        .arg("features")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(client.slow_limit(), run).await {
        Ok(Ok(output)) if output.status.success() => Ok(Some(output.stdout)),
        Ok(Ok(output)) => {
            tracing::debug!(binary, status = %output.status,
                "runtime does not report its features");
            Ok(None)
        }
        Ok(Err(error)) => {
            tracing::debug!(binary, "cannot query runtime: {error}");
            Ok(None)
        }
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, tried())),
    }
}

/// Annotation with runc's version.
const RUNC_VERSION: &str = "org.opencontainers.runc.version";

/// The used parts of an OCI runtime's features document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Features {
    #[serde(default)]
    oci_version_max: String,
    mount_options: Option<Vec<String>>,
    linux: Option<LinuxFeatures>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinuxFeatures {
    namespaces: Option<Vec<String>>,
    seccomp: Option<Switch>,
    apparmor: Option<Switch>,
    mount_extensions: Option<MountExtensions>,
}

#[derive(Deserialize)]
struct MountExtensions {
    idmap: Option<Switch>,
}

#[derive(Deserialize)]
struct Switch {
    enabled: Option<bool>,
}

fn parse(json: &[u8], kernel: (u32, u32)) -> serde_json::Result<HandlerFeatures> {
    let features: Features = serde_json::from_slice(json)?;
    let has = |list: &Option<Vec<String>>, wanted: &str| {
        list.iter().flatten().any(|entry| entry == wanted)
    };
    let on = |switch: Option<&Switch>| switch.is_some_and(|switch| switch.enabled == Some(true));
    let linux = features.linux.as_ref();
    let idmap = linux
        .and_then(|linux| linux.mount_extensions.as_ref())
        .and_then(|extensions| extensions.idmap.as_ref());
    Ok(HandlerFeatures {
        recursive_read_only_mounts: has(&features.mount_options, "rro") && kernel >= RRO_KERNEL,
        id_mapped_mounts: on(idmap),
        user_namespaces: on(idmap) && linux.is_some_and(|linux| has(&linux.namespaces, "user")),
        seccomp: on(linux.and_then(|linux| linux.seccomp.as_ref())),
        apparmor: on(linux.and_then(|linux| linux.apparmor.as_ref())),
        oci_version_max: features.oci_version_max,
        runc_version: features
            .annotations
            .unwrap_or_default()
            .remove(RUNC_VERSION)
            .unwrap_or_default(),
    })
}

fn kernel() -> (u32, u32) {
    kernel_version(&rustix::system::uname().release().to_string_lossy())
}

/// Major and minor number of a release like `6.1.0-18-amd64`; 0 where it does not parse.
fn kernel_version(release: &str) -> (u32, u32) {
    let mut parts =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODERN: &str = r#"{
        "ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0",
        "mountOptions": ["ro", "rro"],
        "linux": {
            "namespaces": ["mount", "user"],
            "seccomp": {"enabled": true},
            "apparmor": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}}
        },
        "annotations": {"org.opencontainers.runc.version": "1.4.2"}
    }"#;

    #[test]
    fn a_modern_runtime() {
        let expected = HandlerFeatures {
            recursive_read_only_mounts: true,
            user_namespaces: true,
            id_mapped_mounts: true,
            seccomp: true,
            apparmor: false,
            oci_version_max: "1.3.0".into(),
            runc_version: "1.4.2".into(),
        };
        assert_eq!(parse(MODERN.as_bytes(), (6, 1)).unwrap(), expected);
    }

    #[test]
    fn recursive_read_only_needs_the_kernel_too() {
        assert!(!parse(MODERN.as_bytes(), (5, 11)).unwrap().recursive_read_only_mounts);
        assert!(parse(MODERN.as_bytes(), (5, 12)).unwrap().recursive_read_only_mounts);
    }

    #[test]
    fn an_older_runtime_has_no_user_namespaces() {
        let older = br#"{"ociVersionMax": "1.0.2-dev", "mountOptions": null,
            "linux": {"namespaces": ["user"], "seccomp": {}}}"#;
        let expected =
            HandlerFeatures { oci_version_max: "1.0.2-dev".into(), ..HandlerFeatures::default() };
        assert_eq!(parse(older, (6, 1)).unwrap(), expected);
        assert!(parse(b"runc: unknown command", (6, 1)).is_err());
    }

    #[test]
    fn a_folder_that_is_not_told_follows_from_another() {
        let of = |name: &str, root: &str| SnapshotterInfo {
            name: name.into(),
            root: root.into(),
            capabilities: Vec::new(),
        };
        let told = of("overlayfs", "/c/io.containerd.snapshotter.v1.overlayfs");
        let mut list = [of("native", ""), told.clone(), of("odd", "/elsewhere")];
        fill_roots(&mut list);
        let native = of("native", "/c/io.containerd.snapshotter.v1.native");
        assert_eq!(list, [native, told, of("odd", "/elsewhere")]);
        let mut unknown = [of("native", ""), of("odd", "/elsewhere")];
        fill_roots(&mut unknown);
        assert_eq!(unknown[0].root, Path::new(""));
    }

    #[test]
    fn a_kernel_may_have_user_namespaces_or_not() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(!kernel_has_user_namespaces(root.path()));
        write("proc/sys/user/max_user_namespaces", "96365\n");
        assert!(!kernel_has_user_namespaces(root.path()), "built without");
        write("proc/self/ns/user", "");
        assert!(kernel_has_user_namespaces(root.path()));
        write("proc/sys/user/max_user_namespaces", "0\n");
        assert!(!kernel_has_user_namespaces(root.path()), "switched off");
    }

    #[test]
    fn kernel_releases() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), (6, 1));
        assert_eq!(kernel_version("5.15"), (5, 15));
        assert_eq!(kernel_version("odd"), (0, 0));
    }
}
