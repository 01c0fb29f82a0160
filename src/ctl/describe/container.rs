//! Containers of a pod: configuration and state.

use serde_json::Value;

use super::super::print::{age, has, items, number, plain, text};
use super::Page;

/// A group of containers with their statuses.
pub(super) fn all(
    page: &mut Page,
    title: &str,
    containers: &[Value],
    statuses: &[Value],
    pod: &Value,
) {
    page.line(0, format!("{title}:"));
    for container in containers {
        let name = text(container, "/name");
        page.line(1, format!("{name}:"));
        let status = statuses.iter().find(|status| text(status, "/name") == name);
        let none = Value::Null;
        one(page, container, status.unwrap_or(&none), pod);
    }
}

fn one(page: &mut Page, container: &Value, status: &Value, pod: &Value) {
    page.field(2, "Container ID", text(status, "/containerID"));
    page.field(2, "Image", text(container, "/image"));
    page.field(2, "Image ID", text(status, "/imageID"));
    ports(page, container);
    page.given(2, "Target", text(container, "/targetContainerName"));
    page.given(2, "Restart Policy", text(container, "/restartPolicy"));
    let words = |pointer| items(container, pointer).iter().map(plain).collect::<Vec<_>>();
    page.below(2, "Command", &words("/command"));
    page.below(2, "Args", &words("/args"));
    state(page, "State", status.pointer("/state"));
    if let Some(last) = status.pointer("/lastState").filter(|last| **last != serde_json::json!({}))
    {
        state(page, "Last State", Some(last));
    }
    let ready = status.get("ready").and_then(Value::as_bool).unwrap_or_default();
    page.field(2, "Ready", if ready { "True" } else { "False" });
    page.field(2, "Restart Count", number(status, "/restartCount").to_string());
    page.map(2, "Limits", container.pointer("/resources/limits"));
    page.map(2, "Requests", container.pointer("/resources/requests"));
    for (name, key) in [
        ("Liveness", "livenessProbe"),
        ("Readiness", "readinessProbe"),
        ("Startup", "startupProbe"),
    ] {
        if let Some(found) = container.get(key) {
            page.field(2, name, probe(found));
        }
    }
    environment_from(page, container);
    environment(page, container, pod);
    mounts(page, container);
}

fn ports(page: &mut Page, container: &Value) {
    let ports = items(container, "/ports");
    let list = |key: &str| {
        let port = |port: &Value| {
            let protocol = text(port, "/protocol");
            let protocol = if protocol.is_empty() { "TCP" } else { protocol };
            format!("{}/{protocol}", number(port, key))
        };
        ports.iter().map(port).collect::<Vec<_>>().join(", ")
    };
    let (port, host) = match ports.len() {
        0 => return page.field(2, "Port", "<none>"),
        1 => ("Port", "Host Port"),
        _ => ("Ports", "Host Ports"),
    };
    page.field(2, port, list("/containerPort"));
    page.field(2, host, list("/hostPort"));
}

fn state(page: &mut Page, name: &str, state: Option<&Value>) {
    let state = state.unwrap_or(&Value::Null);
    if let Some(running) = state.get("running") {
        page.field(2, name, "Running");
        page.field(3, "Started", age::long(running, "/startedAt"));
    } else if let Some(end) = state.get("terminated") {
        page.field(2, name, "Terminated");
        page.given(3, "Reason", text(end, "/reason"));
        page.given(3, "Message", text(end, "/message"));
        page.field(3, "Exit Code", number(end, "/exitCode").to_string());
        if number(end, "/signal") != 0 {
            page.field(3, "Signal", number(end, "/signal").to_string());
        }
        page.field(3, "Started", age::long(end, "/startedAt"));
        page.field(3, "Finished", age::long(end, "/finishedAt"));
    } else {
        page.field(2, name, "Waiting");
        page.given(3, "Reason", text(state, "/waiting/reason"));
        page.given(3, "Message", text(state, "/waiting/message"));
    }
}

/// Action and timing of a probe, on one line.
fn probe(probe: &Value) -> String {
    let number_or = |key, default| probe.get(key).and_then(Value::as_i64).unwrap_or(default);
    let pace = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number_or("initialDelaySeconds", 0),
        number_or("timeoutSeconds", 1),
        number_or("periodSeconds", 10),
        number_or("successThreshold", 1),
        number_or("failureThreshold", 3),
    );
    let port = |pointer| probe.pointer(pointer).map(plain).unwrap_or_default();
    if has(probe, "/exec") {
        let words: Vec<_> = items(probe, "/exec/command").iter().map(plain).collect();
        format!("exec [{}] {pace}", words.join(" "))
    } else if has(probe, "/httpGet") {
        let scheme = text(probe, "/httpGet/scheme").to_lowercase();
        let scheme = if scheme.is_empty() { "http" } else { &scheme };
        let (host, path) = (text(probe, "/httpGet/host"), text(probe, "/httpGet/path"));
        format!("http-get {scheme}://{host}:{}{path} {pace}", port("/httpGet/port"))
    } else if has(probe, "/tcpSocket") {
        let host = text(probe, "/tcpSocket/host");
        format!("tcp-socket {host}:{} {pace}", port("/tcpSocket/port"))
    } else if has(probe, "/grpc") {
        format!("grpc <pod>:{} {} {pace}", port("/grpc/port"), text(probe, "/grpc/service"))
    } else {
        format!("unknown {pace}")
    }
}

fn optional(source: &Value) -> bool {
    source.get("optional").and_then(Value::as_bool).unwrap_or_default()
}

fn environment_from(page: &mut Page, container: &Value) {
    let sources = items(container, "/envFrom");
    if sources.is_empty() {
        return;
    }
    page.line(2, "Environment Variables from:");
    for source in sources {
        let (kind, found) = match (source.get("configMapRef"), source.get("secretRef")) {
            (Some(found), _) => ("ConfigMap", found),
            (None, Some(found)) => ("Secret", found),
            (None, None) => continue,
        };
        let prefix = match text(source, "/prefix") {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        let name = text(found, "/name");
        page.line(3, format!("{name}\t{kind}{prefix}\tOptional: {}", optional(found)));
    }
}

fn environment(page: &mut Page, container: &Value, pod: &Value) {
    let variables = items(container, "/env");
    if variables.is_empty() {
        return page.field(2, "Environment", "<none>");
    }
    page.line(2, "Environment:");
    for variable in variables {
        let name = text(variable, "/name");
        let Some(from) = variable.get("valueFrom") else {
            page.field(3, name, text(variable, "/value"));
            continue;
        };
        let (key, of) = if let Some(found) = from.get("secretKeyRef") {
            (found, "in secret")
        } else if let Some(found) = from.get("configMapKeyRef") {
            (found, "of config map")
        } else if let Some(found) = from.get("fileKeyRef") {
            let (word, path) = (text(found, "/key"), text(found, "/path"));
            let shown = format!(
                "<set to the key '{word}' of file '{path}' in volume '{}'>  Optional: {}",
                text(found, "/volumeName"),
                optional(found)
            );
            page.field(3, name, shown);
            continue;
        } else {
            let path = text(from, "/fieldRef/fieldPath");
            let shown = if path.is_empty() {
                format!("({})", text(from, "/resourceFieldRef/resource"))
            } else {
                let pointer = format!("/{}", path.replace('.', "/"));
                format!("{} (v1:{path})", text(pod, &pointer))
            };
            page.field(3, name, shown.trim_start());
            continue;
        };
        let (word, object) = (text(key, "/key"), text(key, "/name"));
        page.field(
            3,
            name,
            format!("<set to the key '{word}' {of} '{object}'>  Optional: {}", optional(key)),
        );
    }
}

fn mounts(page: &mut Page, container: &Value) {
    let mounts = items(container, "/volumeMounts");
    if mounts.is_empty() {
        return page.field(2, "Mounts", "<none>");
    }
    page.line(2, "Mounts:");
    let mut mounts: Vec<_> = mounts.iter().collect();
    mounts.sort_by_key(|mount| text(mount, "/mountPath"));
    for mount in mounts {
        let read_only = mount.get("readOnly").and_then(Value::as_bool).unwrap_or_default();
        let mut flags = if read_only { "ro" } else { "rw" }.to_owned();
        let sub = text(mount, "/subPath");
        if !sub.is_empty() {
            flags = format!("{flags},path=\"{sub}\"");
        }
        let (path, name) = (text(mount, "/mountPath"), text(mount, "/name"));
        page.line(3, format!("{path} from {name} ({flags})"));
    }
}
