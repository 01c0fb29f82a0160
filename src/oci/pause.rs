//! The spec of a pod's pause container.
//!
//! The pause container only keeps namespaces open and reaps orphans, so it gets as little as the
//! OCI runtimes accept: runc and crun need /proc (they close descriptors and write sysctls through
//! it) and a directory for device nodes. It shares only its namespaces with the pod's containers.
//!
//! Its /proc becomes read-only as a whole once the sysctls are written: in a pod with a shared PID
//! namespace a container with CAP_SYS_PTRACE can reach it through /proc/1/root, and /proc/sys there
//! is the host's.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, Mount, Spec};

use super::{
    Error, Settings, annotations, capabilities, cgroup, container, devices, mounts, namespaces,
    paths, process, resources, seccomp, selinux, sysctl, user,
};
use crate::backend::{HostFacts, RuntimeHandler};
use crate::ids::PodId;
use crate::model::pod::PodConfig;
use crate::model::resources::Resources;
use crate::model::security::SecurityProfile;

/// User and group of the pause process if the pod requests none: nobody.
const NOBODY: u32 = 65535;
/// The OOM killer chooses it only after everything else in its pod.
const OOM_SCORE: i64 = -998;
/// The lowest CPU weight; the pause process only sleeps.
const CPU_SHARES: i64 = 2;

/// The complete input for a pause container's spec.
#[derive(Debug, Clone)]
pub struct PauseInput<'a> {
    /// The pod; also the id of its pause container.
    pub id: &'a PodId,
    /// Configuration of the pod.
    pub pod: &'a PodConfig,
    /// The pinned network namespace; `None` for the host's.
    pub netns: Option<&'a Path>,
    /// The pinned user namespace; `None` for the host's.
    pub userns: Option<&'a Path>,
    /// The pause program and its arguments, as paths inside its root.
    pub args: Vec<String>,
    /// Name of the image, for an annotation.
    pub image_name: &'a str,
    /// Host name of the pod's UTS namespace.
    pub hostname: &'a str,
    /// The pod's SELinux level.
    pub selinux_level: Option<&'a str>,
    /// Content of the file that a `Localhost` seccomp profile names.
    pub seccomp_profile: Option<&'a serde_json::Value>,
    /// The runtime handler.
    pub handler: &'a RuntimeHandler,
    /// Facts about the host.
    pub facts: &'a HostFacts,
    /// The operator's settings.
    pub settings: &'a Settings,
}

fn pause_mounts(input: &PauseInput<'_>) -> Vec<Mount> {
    let flags = ["nosuid", "noexec", "nodev"];
    let mut all = vec![mounts::mount("/proc", "proc", "proc", &flags), mounts::dev_tmpfs("64k")];
    // All sysfs mounts of a network namespace are one file system, whose read-only flag is that of
    // the first mount. A writable mount is held here, or an unprivileged container could make it
    // read-only for privileged ones. crun refuses a sysfs elsewhere than in the root.
    let own_network = input.netns.is_some() && input.userns.is_none();
    if input.pod.security.privileged && own_network {
        all.push(mounts::mount("/sys", "sysfs", "sysfs", &[&flags[..], &["rw"]].concat()));
    }
    all
}

/// Builds the OCI spec of a pod's pause container.
///
/// # Errors
/// [`Error::Invalid`] with the CRI field of the sandbox's configuration.
pub fn pause_spec(input: &PauseInput<'_>) -> Result<Spec, Error> {
    let pod = input.pod;
    if pod.host_network() != input.netns.is_none() {
        return Err(Error::invalid(
            "linux.security_context.namespace_options.network",
            "a pod has a network namespace exactly when it does not use the host's",
        ));
    }
    if pod.id_mappings().is_some() != input.userns.is_some() {
        return Err(Error::invalid(
            "linux.security_context.namespace_options.userns_options",
            "a pod has a user namespace exactly when it has ids for one",
        ));
    }
    if paths::has_control(input.hostname) {
        return Err(Error::invalid("hostname", "contains a control character"));
    }
    let filter = filter(input)?;
    let least = Resources { cpu_shares: CPU_SHARES, ..Resources::default() };
    let mut limits = resources::oci(&least, input.facts, input.settings)?;
    limits.set_devices(Some(vec![devices::deny_all()]));
    let mut linux = container::linux(limits);
    linux
        .set_namespaces(Some(namespaces::of_pause(pod, input.netns, input.userns)))
        .set_cgroups_path(Some(cgroup::path(
            input.handler.cgroup_driver(),
            &pod.cgroup_parent,
            input.id.as_str(),
        )?))
        .set_readonly_paths(Some(vec!["/proc".to_owned()]))
        .set_sysctl(Some(sysctl::of_pause(input)?).filter(|map| !map.is_empty()))
        .set_seccomp(filter);
    namespaces::set_ids(&mut linux, pod);
    let mut process = pause_process(input)?;
    let labels = selinux::pod_labels(pod, input.selinux_level, input.facts, input.settings)?;
    if let Some(labels) = labels {
        process.set_selinux_label(Some(labels.process));
        linux.set_mount_label(Some(labels.files));
    }

    let mut spec = container::blank_spec(true);
    spec.set_process(Some(process))
        .set_mounts(Some(pause_mounts(input)))
        .set_annotations(Some(annotations::of_pause(input)))
        .set_linux(Some(linux));
    // The host's own name must not be set, and runtimes refuse to set one without a UTS namespace.
    if input.netns.is_some() {
        spec.set_hostname(Some(input.hostname.to_owned()));
    }
    Ok(spec)
}

/// The system call filter of the pod, for a program without capabilities.
fn filter(input: &PauseInput<'_>) -> Result<Option<LinuxSeccomp>, Error> {
    let security = &input.pod.security;
    let mut filter = seccomp::filter(&seccomp::Request {
        profile: security.seccomp.as_ref(),
        privileged: security.privileged,
        content: input.seccomp_profile,
        capabilities: &BTreeSet::new(),
        facts: input.facts,
    })?;
    if security.seccomp == Some(SecurityProfile::RuntimeDefault) {
        // The pause program makes only native calls, and an OCI runtime takes longer to compile a
        // filter for several architectures.
        filter.iter_mut().for_each(seccomp::keep_native);
    }
    Ok(filter)
}

fn pause_process(input: &PauseInput<'_>) -> Result<oci_spec::runtime::Process, Error> {
    let security = &input.pod.security;
    if security.run_as_group.is_some() && security.run_as_user.is_none() {
        return Err(Error::invalid("linux.security_context.run_as_group", "needs run_as_user"));
    }
    // The id of nobody may lie beyond the end of a user namespace.
    let nobody = input.pod.id_mappings().map_or(NOBODY, |ids| NOBODY.min(ids.length() - 1));
    let uid = user::in_range("run_as_user", security.run_as_user.unwrap_or(nobody))?;
    let own_group = if security.run_as_user.is_some() { 0 } else { nobody };
    let gid = user::in_range("run_as_group", security.run_as_group.unwrap_or(own_group))?;
    user::check_groups(&security.supplemental_groups)?;
    let groups: BTreeSet<u32> = security.supplemental_groups.iter().copied().chain([gid]).collect();
    let groups: Vec<u32> = groups.into_iter().collect();
    namespaces::check_ids(input.pod, uid, gid, &groups)?;
    process::check_arguments("args", &input.args)?;
    let mut process = process::blank_process();
    process
        .set_args(Some(input.args.clone()))
        .set_user(process::user(uid, gid, &groups))
        .set_capabilities(Some(capabilities::oci(&BTreeSet::new())))
        .set_no_new_privileges(Some(true))
        .set_oom_score_adj(Some(resources::oom_score(OOM_SCORE, input.facts)?));
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::super::spec_json;
    use super::*;

    fn pretty(f: &Fixture) -> String {
        let spec = pause_spec(&f.pause_input()).unwrap();
        serde_json::to_string_pretty(&spec_json(&spec)).unwrap()
    }

    fn field(f: &Fixture) -> String {
        match pause_spec(&f.pause_input()) {
            Err(Error::Invalid { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_plain_spec() {
        insta::assert_snapshot!(pretty(&Fixture::new()));
    }

    #[test]
    fn in_the_hosts_namespaces() {
        insta::assert_snapshot!(pretty(&Fixture::new().host_modes()));
    }

    #[test]
    fn in_a_user_namespace() {
        let mut f = Fixture::new().user_namespace();
        let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
        let line = |host| serde_json::json!([{"containerID": 0, "hostID": host, "size": 65536}]);
        assert_eq!(spec["linux"]["uidMappings"], line(200_000));
        assert_eq!(spec["linux"]["gidMappings"], line(300_000));
        assert_eq!(spec["process"]["user"]["uid"], 65535);
        assert_eq!(spec["linux"]["sysctl"]["net.ipv4.ping_group_range"], "0 65535");
        let userns = f.pod.security.namespaces.userns.as_mut().unwrap();
        (userns.uids[0].length, userns.gids[0].length) = (1000, 1000);
        let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
        assert_eq!(spec["process"]["user"]["gid"], 999, "the last there is");
    }

    #[test]
    fn the_pod_names_user_and_filter() {
        let mut f = Fixture::new();
        f.pod.security.run_as_user = Some(1000);
        f.pod.security.supplemental_groups = vec![20, 10, 20];
        f.pod.security.seccomp = Some(SecurityProfile::RuntimeDefault);
        let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
        assert_eq!(
            spec["process"]["user"],
            serde_json::json!({"uid": 1000, "gid": 0, "additionalGids": [0, 10, 20]})
        );
        assert_eq!(spec["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
        assert_eq!(
            spec["linux"]["seccomp"]["architectures"],
            serde_json::json!(["SCMP_ARCH_X86_64"])
        );
        f.pod.security.privileged = true;
        let spec = spec_json(&pause_spec(&f.pause_input()).unwrap());
        assert!(spec["linux"].get("seccomp").is_none());
        assert_eq!(spec["process"]["capabilities"]["bounding"], serde_json::json!([]));
    }

    #[test]
    fn bad_pods_are_refused_by_field() {
        let mut f = Fixture::new();
        f.pod.security.run_as_group = Some(5);
        assert_eq!(field(&f), "linux.security_context.run_as_group");

        let mut f = Fixture::new();
        f.pod.security.run_as_user = Some(2_147_483_648);
        assert_eq!(field(&f), "linux.security_context.run_as_user");

        let mut f = Fixture::new();
        f.pod.security.supplemental_groups = vec![u32::MAX];
        assert_eq!(field(&f), "linux.security_context.supplemental_groups[0]");

        let mut f = Fixture::new();
        f.hostname = "a\nb".to_owned();
        assert_eq!(field(&f), "hostname");

        let mut f = Fixture::new();
        f.namespaces.netns = None;
        assert_eq!(field(&f), "linux.security_context.namespace_options.network");

        let mut f = Fixture::new().user_namespace();
        f.namespaces.userns = None;
        assert_eq!(field(&f), "linux.security_context.namespace_options.userns_options");

        let mut f = Fixture::new().user_namespace();
        f.pod.security.run_as_user = Some(65536);
        assert_eq!(field(&f), "linux.security_context");

        let mut f = Fixture::new();
        f.pod.sysctls.insert("kernel.core_pattern".to_owned(), "|/bin/sh".to_owned());
        assert_eq!(field(&f), "linux.sysctls[\"kernel.core_pattern\"]");

        let mut f = Fixture::new();
        f.pod.cgroup_parent = "/a.slice".to_owned();
        assert_eq!(field(&f), "linux.cgroup_parent");
    }
}
