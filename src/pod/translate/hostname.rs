//! Host name and domain of a pod.

use k8s_openapi::api::core::v1::PodSpec;

use super::Error;
use super::node::NodeFacts;

/// Maximum length of a host name, and the kernel's limit.
const LONGEST_HOSTNAME: usize = 63;
const LONGEST_KERNEL_NAME: usize = 64;

/// The names of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    /// Its host name.
    pub(super) hostname: String,
    /// Its domain; empty for none.
    pub(super) domain: String,
    /// The name set in the kernel: the host name, or the fully qualified name.
    pub(super) kernel: String,
}

/// Names from `hostname`, `subdomain`, `setHostnameAsFQDN` and `hostnameOverride`; by default the
/// pod's name.
pub(super) fn names(
    spec: &PodSpec,
    name: &str,
    namespace: &str,
    node: &NodeFacts,
) -> Result<Names, Error> {
    if let Some(whole) = spec.hostname_override.as_deref() {
        let hostname = cut(name, whole)?;
        return Ok(Names { kernel: hostname.clone(), hostname, domain: String::new() });
    }
    let wanted = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty());
    let hostname = cut(name, wanted.unwrap_or(name))?;
    let domain = match spec.subdomain.as_deref() {
        Some(subdomain) if !subdomain.is_empty() => {
            let parts = [subdomain, namespace, "svc", &node.cluster_domain];
            parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".")
        }
        _ => String::new(),
    };
    let mut kernel = hostname.clone();
    if spec.set_hostname_as_fqdn.unwrap_or_default() && !domain.is_empty() {
        kernel = format!("{hostname}.{domain}");
        if kernel.len() > LONGEST_KERNEL_NAME {
            return Err(Error::Sandbox(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {kernel} is \
                 too long ({LONGEST_KERNEL_NAME} characters is the max, {} characters requested)",
                kernel.len()
            )));
        }
    }
    Ok(Names { hostname, domain, kernel })
}

fn cut(pod: &str, hostname: &str) -> Result<String, Error> {
    let invalid = || Error::Sandbox(format!("hostname for pod {pod:?} was invalid: {hostname:?}"));
    let known = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if !hostname.bytes().all(known) {
        return Err(invalid());
    }
    let short = &hostname[..hostname.len().min(LONGEST_HOSTNAME)];
    // Only cutting can leave a dash or dot at the end.
    let short =
        if short.len() < hostname.len() { short.trim_end_matches(['-', '.']) } else { short };
    if short.is_empty() { Err(invalid()) } else { Ok(short.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::spec;
    use super::*;
    use serde_json::json;

    fn named(fields: serde_json::Value, pod: &str) -> Result<(String, String, String), Error> {
        let node = NodeFacts { cluster_domain: "cluster.local".to_owned(), ..NodeFacts::default() };
        let names = names(&spec(fields), pod, "ns", &node)?;
        Ok((names.hostname, names.domain, names.kernel))
    }

    #[test]
    fn names_of_pods() {
        let long = "a".repeat(62) + "-bcd";
        let cases = [
            (json!({}), "web", "web", "", "web"),
            (json!({"hostname": "h"}), "web", "h", "", "h"),
            (json!({}), long.as_str(), &long[..62], "", &long[..62]),
            (json!({"hostname": "h", "subdomain": "s"}), "web", "h", "s.ns.svc.cluster.local", "h"),
            (
                json!({"subdomain": "s", "setHostnameAsFQDN": true}),
                "web",
                "web",
                "s.ns.svc.cluster.local",
                "web.s.ns.svc.cluster.local",
            ),
            (json!({"setHostnameAsFQDN": true}), "web", "web", "", "web"),
            (
                json!({"hostname": "h", "subdomain": "s", "hostnameOverride": "my.own"}),
                "web",
                "my.own",
                "",
                "my.own",
            ),
        ];
        for (fields, pod, hostname, domain, kernel) in cases {
            let expected = (hostname.to_owned(), domain.to_owned(), kernel.to_owned());
            assert_eq!(named(fields.clone(), pod), Ok(expected), "{fields}");
        }
    }

    #[test]
    fn names_that_cannot_be() {
        let long = json!({
            "hostname": "h".repeat(60), "subdomain": "s", "setHostnameAsFQDN": true,
        });
        let error = named(long, "web").unwrap_err().to_string();
        let end = "is too long (64 characters is the max, 83 characters requested)";
        assert!(error.ends_with(end), "{error}");
        let all_dashes = "-".repeat(70);
        for bad in [all_dashes.as_str(), "a b", "a\n127.0.0.1 bank", "é"] {
            assert!(matches!(named(json!({}), bad), Err(Error::Sandbox(_))), "{bad:?}");
        }
    }
}
