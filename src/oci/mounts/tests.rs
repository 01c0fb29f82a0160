use super::super::fixture::Fixture;
use super::*;
use crate::model::container::ImageSpec;

fn asked_at(container_path: &str) -> Asked {
    Asked {
        container_path: container_path.to_owned(),
        host_path: "/srv/data".to_owned(),
        ..Asked::default()
    }
}

fn with(asked: Vec<Asked>) -> Fixture {
    let mut f = Fixture::new();
    f.mounts = asked;
    f
}

fn made(f: &Fixture) -> Mounts {
    mounts(&f.input()).unwrap()
}

fn destinations(mounts: &Mounts) -> Vec<String> {
    mounts.list.iter().map(|m| m.destination().display().to_string()).collect()
}

fn options(mounts: &Mounts, destination: &str) -> Vec<String> {
    let found: Vec<_> = mounts
        .list
        .iter()
        .filter(|m| m.destination() == std::path::Path::new(destination))
        .collect();
    assert_eq!(found.len(), 1, "{destination}");
    found[0].options().clone().unwrap()
}

fn refused(f: &Fixture) -> (String, String) {
    match mounts(&f.input()) {
        Err(Error::Invalid { field, problem }) => (field, problem),
        other => panic!("{:?}", other.map(|m| m.list)),
    }
}

#[test]
fn defaults_and_their_order() {
    assert_eq!(
        destinations(&made(&Fixture::new())),
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/etc/hostname",
            "/etc/hosts",
            "/etc/resolv.conf",
            "/dev/shm"
        ]
    );
}

#[test]
fn mounts_of_the_caller_are_sorted_by_depth_and_stay_stable() {
    let f = with(vec![
        asked_at("/a/b/c"),
        asked_at("/z"),
        asked_at("/a//b/../b"),
        asked_at("/y"),
        asked_at("/etc/hosts"),
    ]);
    assert_eq!(
        destinations(&made(&f))[6..],
        [
            "/z",
            "/y",
            "/a/b",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/resolv.conf",
            "/dev/shm",
            "/a/b/c"
        ]
    );
}

#[test]
fn a_mount_at_the_same_path_replaces_a_default() {
    let made = made(&with(vec![asked_at("/sys/"), asked_at("/dev/shm")]));
    assert_eq!(options(&made, "/sys"), ["rbind", "rprivate", "rw"]);
    assert_eq!(options(&made, "/dev/shm"), ["rbind", "rprivate", "rw"]);
    assert!(destinations(&made).contains(&"/dev/pts".to_owned()));
}

#[test]
fn a_mount_on_dev_drops_all_defaults_below_it() {
    let made = destinations(&made(&with(vec![asked_at("/dev")])));
    for gone in ["/dev/pts", "/dev/mqueue"] {
        assert!(!made.contains(&gone.to_owned()), "{gone}");
    }
    assert_eq!(made.iter().filter(|path| *path == "/dev").count(), 1);
    let (dev, shm) = (
        made.iter().position(|path| path == "/dev").unwrap(),
        made.iter().position(|path| path == "/dev/shm").unwrap(),
    );
    assert!(dev < shm, "the shared memory is mounted on top of it");
}

#[test]
fn access_follows_readonly() {
    let features = |f: &mut Fixture, on| f.features.recursive_read_only_mounts = on;
    for (readonly, recursive, mode) in
        [(false, false, "rw"), (true, false, "ro"), (true, true, "rro")]
    {
        let mut mount = asked_at("/data");
        mount.readonly = readonly;
        mount.recursive_read_only = recursive;
        let mut f = with(vec![mount]);
        features(&mut f, true);
        assert_eq!(options(&made(&f), "/data"), ["rbind", "rprivate", mode]);
    }
}

#[test]
fn recursive_read_only_is_never_silently_weaker() {
    let mut mount = asked_at("/data");
    mount.recursive_read_only = true;
    let mut f = with(vec![mount]);
    f.features.recursive_read_only_mounts = true;
    assert!(refused(&f).1.contains("read-only mount"));
    f.mounts[0].readonly = true;
    f.mounts[0].propagation = Propagation::HostToContainer;
    assert!(refused(&f).1.contains("private propagation"));
    f.features.recursive_read_only_mounts = false;
    let error = mounts(&f.input()).err().unwrap().to_string();
    assert!(error.starts_with("RROUnsupported: mounts[0].recursive_read_only: "), "{error}");
}

#[test]
fn propagation_reaches_the_root() {
    use Propagation::{Bidirectional, HostToContainer, Private};
    for (modes, root) in [
        (vec![Private], None),
        (vec![HostToContainer], Some("rslave")),
        (vec![Bidirectional, HostToContainer], Some("rshared")),
        (vec![HostToContainer, Bidirectional], Some("rshared")),
    ] {
        let asked = modes
            .iter()
            .enumerate()
            .map(|(i, &propagation)| Asked { propagation, ..asked_at(&format!("/m{i}")) })
            .collect();
        let made = made(&with(asked));
        assert_eq!(made.rootfs_propagation, root, "{modes:?}");
        let word = propagation(modes[0]);
        assert_eq!(options(&made, "/m0"), ["rbind", word, "rw"]);
    }
}

#[test]
fn files_of_the_pod_are_as_read_only_as_the_root() {
    let mut f = Fixture::new();
    f.config.security.readonly_rootfs = true;
    let made = made(&f);
    for path in ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"] {
        assert_eq!(options(&made, path), ["rbind", "rprivate", "ro"], "{path}");
    }
    assert_eq!(
        options(&made, "/dev/shm"),
        ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]
    );
}

#[test]
fn host_ipc_shares_the_hosts_memory() {
    let mut f = Fixture::new();
    f.files.shm = None;
    let made = made(&f);
    let shm = made.list.iter().find(|m| m.destination().ends_with("shm")).unwrap();
    assert_eq!(shm.source().as_deref(), Some("/dev/shm".as_ref()));
}

#[test]
fn volumes_stay_below_the_root_and_yield_to_the_caller() {
    let volume = |path: &str| (path.to_owned(), "/var/lib/x/v1".into());
    let mut f = with(vec![asked_at("/data")]);
    f.volumes = vec![volume("/../../etc"), volume("../x/./y"), volume("/data/")];
    let made = made(&f);
    let list = destinations(&made);
    assert!(list.contains(&"/etc".to_owned()) && list.contains(&"/x/y".to_owned()));
    assert_eq!(list.iter().filter(|path| *path == "/data").count(), 1);
    for bad in ["/", "/..", "", "/a\nb"] {
        let mut f = Fixture::new();
        f.volumes = vec![volume(bad)];
        assert!(
            matches!(mounts(&f.input()), Err(Error::Image { field: "Volumes", .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn id_mapped_mounts_need_a_runtime_that_knows_them() {
    let mapping = IdMapping { host_id: 100_000, container_id: 0, length: 65536 };
    let mut mount = asked_at("/data");
    mount.uid_mappings = vec![mapping];
    let mut f = with(vec![mount]);
    assert!(refused(&f).1.contains("both"));
    f.mounts[0].gid_mappings = vec![mapping];
    f.features.user_namespaces = true;
    let error = mounts(&f.input()).err().unwrap();
    assert!(matches!(&error, Error::Unsupported { field, .. } if field.ends_with("uidMappings")));
    f.features.id_mapped_mounts = true;
    let made = made(&f);
    assert_eq!(options(&made, "/data"), ["rbind", "rprivate", "rw", "idmap"]);
    let data = made.list.iter().find(|m| m.destination().ends_with("data")).unwrap();
    assert_eq!(
        serde_json::to_value(data.uid_mappings()).unwrap(),
        serde_json::json!([{"hostID": 100_000, "containerID": 0, "size": 65536}])
    );
    assert_eq!(data.uid_mappings(), data.gid_mappings());
}

#[test]
fn volumes_of_the_image_have_its_ids_in_a_user_namespace() {
    let mut f = Fixture::new().user_namespace();
    f.volumes = vec![("/data".to_owned(), "/var/lib/x/v1".into())];
    let made = made(&f);
    assert!(options(&made, "/data").contains(&"idmap".to_owned()));
    let data = made.list.iter().find(|m| m.destination().ends_with("data")).unwrap();
    assert_eq!(
        serde_json::to_value(data.gid_mappings()).unwrap(),
        serde_json::json!([{"hostID": 300_000, "containerID": 0, "size": 65536}])
    );
    // The pod's files are owned by its mapped root already.
    assert!(!options(&made, "/etc/hosts").contains(&"idmap".to_owned()));
}

#[test]
fn sys_is_a_view_of_the_hosts_where_it_cannot_be_mounted() {
    let mut f = Fixture::new().user_namespace();
    assert_eq!(options(&made(&f), "/sys"), ["nosuid", "noexec", "nodev", "ro"]);
    f.pod.security.namespaces.network = crate::model::security::NamespaceMode::Node;
    f.namespaces.netns = None;
    assert_eq!(options(&made(&f), "/sys")[3..], ["rbind", "rprivate", "ro"]);
    f.features.recursive_read_only_mounts = true;
    assert_eq!(options(&made(&f), "/sys")[3..], ["rbind", "rprivate", "rro"]);
}

#[test]
fn privileged_may_write_sys_and_the_cgroup_tree() {
    let mut f = Fixture::new().privileged();
    let v2 = made(&f);
    assert!(options(&v2, "/sys").contains(&"rw".to_owned()));
    assert_eq!(options(&v2, "/sys/fs/cgroup")[0], "rbind");
    assert!(options(&v2, "/sys/fs/cgroup").contains(&"rw".to_owned()));
    f.facts.cgroup = CgroupVersion::V1;
    assert_eq!(
        options(&made(&f), "/sys/fs/cgroup"),
        ["nosuid", "noexec", "nodev", "relatime", "rw"]
    );
    assert!(options(&made(&Fixture::new()), "/sys/fs/cgroup").contains(&"ro".to_owned()));
}

#[test]
fn bad_paths_are_refused_by_field() {
    for (container, host, expected) in [
        ("data", "/srv", "mounts[0].container_path"),
        ("", "/srv", "mounts[0].container_path"),
        ("/", "/srv", "mounts[0].container_path"),
        ("/a/..", "/srv", "mounts[0].container_path"),
        ("/a\0", "/srv", "mounts[0].container_path"),
        ("/a", "srv", "mounts[0].host_path"),
        ("/a", "", "mounts[0].host_path"),
        ("/a", "/srv\n", "mounts[0].host_path"),
    ] {
        let mut mount = asked_at(container);
        mount.host_path = host.to_owned();
        assert_eq!(refused(&with(vec![mount])).0, expected, "{container:?} {host:?}");
    }
}

#[test]
fn an_image_is_mounted_read_only() {
    let mut mount = asked_at("/model");
    mount.image = Some(ImageSpec::default());
    let mut f = with(vec![mount]);
    assert_eq!(refused(&f).0, "mounts[0].readonly");
    f.mounts[0].readonly = true;
    assert_eq!(options(&made(&f), "/model"), ["rbind", "rprivate", "ro"]);
}
