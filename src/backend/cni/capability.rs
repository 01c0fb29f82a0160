//! The values that the agent passes to plugins which declare the capability: CNI conventions,
//! "dynamic plugin specific fields".

use serde_json::{Map, Value, json};

use crate::backend::{Attachment, Error, ErrorKind, Result};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Limits of a bandwidth, in bits per second.
const SLOWEST: u64 = 1_000;
const FASTEST: u64 = 1_000_000_000_000_000;

/// The burst used with a rate: the maximum that the plugin can express.
const BURST: u64 = u32::MAX as u64;

/// All values for a pod. An invalid bandwidth is an error.
pub(super) fn all(pod: &Attachment) -> Result<Map<String, Value>> {
    let mut all = without_bandwidth(pod);
    let mut bandwidth = Map::new();
    for (annotation, name) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        let Some(text) = pod.annotations.get(annotation) else { continue };
        let rate = bits_per_second(text).ok_or_else(|| {
            let problem = format!("annotation {annotation}: {text:?} is not from 1k to 1P");
            Error::new(ErrorKind::InvalidArgument, problem)
        })?;
        bandwidth.insert(format!("{name}Rate"), rate.into());
        bandwidth.insert(format!("{name}Burst"), BURST.into());
    }
    if !bandwidth.is_empty() {
        all.insert("bandwidth".to_owned(), Value::Object(bandwidth));
    }
    Ok(all)
}

/// The values needed for DEL, independent of the pod's annotations.
pub(super) fn without_bandwidth(pod: &Attachment) -> Map<String, Value> {
    let mut all = Map::new();
    let ports: Vec<Value> = pod
        .port_mappings
        .iter()
        .filter(|port| port.host_port != 0)
        .map(|port| {
            let mut mapping = json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.as_str(),
            });
            if let Some(ip) = port.host_ip {
                mapping["hostIP"] = ip.to_string().into();
            }
            mapping
        })
        .collect();
    if !ports.is_empty() {
        all.insert("portMappings".to_owned(), ports.into());
    }
    if let Some(dns) = &pod.dns {
        let dns = json!({
            "servers": dns.servers, "searches": dns.searches, "options": dns.options,
        });
        all.insert("dns".to_owned(), dns);
    }
    if !pod.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations".to_owned(), json!(pod.annotations));
    }
    if !pod.cgroup_parent.is_empty() {
        all.insert("cgroupPath".to_owned(), pod.cgroup_parent.clone().into());
    }
    all
}

/// A Kubernetes quantity as whole bits per second, rounded up, within the limits.
fn bits_per_second(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let value: u128 = digits.parse().ok().filter(|_| digits.len() <= 18)?;
    let scaled = value.checked_mul(multiplier(suffix)?)?;
    let divisor = 10u128.pow(u32::try_from(fraction.len()).ok()?);
    let rate = u64::try_from(scaled.div_ceil(divisor)).ok()?;
    (SLOWEST..=FASTEST).contains(&rate).then_some(rate)
}

/// Suffixes of quantities that can express a rate within the limits.
fn multiplier(suffix: &str) -> Option<u128> {
    Some(match suffix {
        "" => 1,
        "k" => 10u128.pow(3),
        "M" => 10u128.pow(6),
        "G" => 10u128.pow(9),
        "T" => 10u128.pow(12),
        "P" => 10u128.pow(15),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        exponent => {
            let digits = exponent.strip_prefix(['e', 'E'])?;
            10u128.pow(digits.parse().ok().filter(|power| *power <= 15)?)
        }
    })
}

/// `CNI_ARGS` of a pod. Values with a separator or control character cannot be passed to plugins.
pub(super) fn args(pod: &Attachment) -> Result<Vec<(String, String)>> {
    let meta = &pod.metadata;
    for (field, value) in [("namespace", &meta.namespace), ("name", &meta.name), ("uid", &meta.uid)]
    {
        if value.contains(|c: char| c == ';' || c == '=' || c.is_control()) {
            let problem = format!("metadata.{field}: {value:?} cannot be passed to CNI plugins");
            return Err(Error::new(ErrorKind::InvalidArgument, problem));
        }
    }
    Ok(vec![
        ("IgnoreUnknown".to_owned(), "1".to_owned()),
        ("K8S_POD_NAMESPACE".to_owned(), meta.namespace.clone()),
        ("K8S_POD_NAME".to_owned(), meta.name.clone()),
        ("K8S_POD_INFRA_CONTAINER_ID".to_owned(), pod.pod.to_string()),
        ("K8S_POD_UID".to_owned(), meta.uid.clone()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cni::testing::attachment;
    use crate::model::pod::{DnsConfig, PortMapping, Protocol};

    #[test]
    fn quantities() {
        for (text, rate) in [
            ("1k", Some(1_000)),
            ("10M", Some(10_000_000)),
            ("1.5M", Some(1_500_000)),
            ("1Mi", Some(1 << 20)),
            ("1000", Some(1_000)),
            ("1000.1", Some(1_001)),
            ("2e6", Some(2_000_000)),
            ("1P", Some(FASTEST)),
            ("999", None),
            ("1.1P", None),
            ("-5M", None),
            ("5 M", None),
            ("M", None),
            (".", None),
            ("1..2M", None),
            ("1m", None),
            ("99999999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(bits_per_second(text), rate, "{text:?}");
        }
    }

    #[test]
    fn offers_what_the_pod_has() {
        let mut pod = attachment();
        assert!(all(&pod).unwrap().is_empty());
        let port = |host_port, host_ip| PortMapping {
            protocol: Protocol::Udp,
            container_port: 53,
            host_port,
            host_ip,
        };
        pod.port_mappings = vec![port(0, None), port(1053, Some("127.0.0.1".parse().unwrap()))];
        pod.dns = Some(DnsConfig { servers: vec!["10.0.0.1".into()], ..DnsConfig::default() });
        pod.annotations.insert(EGRESS.to_owned(), "2M".to_owned());
        pod.cgroup_parent = "/kubepods/pod1".to_owned();
        assert_eq!(
            Value::Object(all(&pod).unwrap()),
            json!({
                "portMappings": [{
                    "hostPort": 1053, "containerPort": 53, "protocol": "udp", "hostIP": "127.0.0.1",
                }],
                "dns": {"servers": ["10.0.0.1"], "searches": [], "options": []},
                "io.kubernetes.cri.pod-annotations": {(EGRESS): "2M"},
                "cgroupPath": "/kubepods/pod1",
                "bandwidth": {"egressRate": 2_000_000, "egressBurst": BURST},
            })
        );
    }

    #[test]
    fn a_wrong_bandwidth_names_its_annotation() {
        let mut pod = attachment();
        pod.annotations.insert(INGRESS.to_owned(), "fast".to_owned());
        let error = all(&pod).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(INGRESS));
    }

    #[test]
    fn args_take_no_smuggled_pair() {
        let mut pod = attachment();
        let text: Vec<_> = args(&pod).unwrap().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(text[0], "IgnoreUnknown=1");
        assert_eq!(text[3], format!("K8S_POD_INFRA_CONTAINER_ID={}", pod.pod));
        pod.metadata.name = "x;IP=10.0.0.1".to_owned();
        assert!(args(&pod).unwrap_err().to_string().contains("metadata.name"));
    }
}
