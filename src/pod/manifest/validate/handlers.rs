//! Probes and hooks, and their actions.

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, LifecycleHandler, Probe,
    SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::at::At;
use super::{names, ports};

const PROBE: &str = "must specify one of: exec, grpc, httpGet, tcpSocket";
const HOOK: &str = "must specify one of: exec, httpGet, sleep, tcpSocket";
const SIGNALS: &str = "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM \
    STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// Validates probes and hooks of a container; `grace` is its pod's.
pub(super) fn of_container(at: &At<'_>, container: &Container, grace: i64, os: Option<&str>) {
    for (name, probe, kind) in [
        ("livenessProbe", &container.liveness_probe, Kind::Liveness),
        ("readinessProbe", &container.readiness_probe, Kind::Readiness),
        ("startupProbe", &container.startup_probe, Kind::Startup),
    ] {
        if let Some(given) = probe {
            self::probe(&at.field(name), given, kind);
        }
    }
    if let Some(lifecycle) = &container.lifecycle {
        hooks(&at.field("lifecycle"), lifecycle, grace, os);
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Liveness,
    Readiness,
    Startup,
}

fn probe(at: &At<'_>, probe: &Probe, kind: Kind) {
    let handlers = Handlers {
        exec: probe.exec.as_ref(),
        grpc: probe.grpc.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        sleep: None,
    };
    handlers.check(at, 0, PROBE);
    for (name, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        at.field(name).not_negative(value.unwrap_or(0));
    }
    let successes = probe.success_threshold.unwrap_or(1);
    if kind != Kind::Readiness && successes != 1 {
        at.field("successThreshold").invalid(successes, "must be 1");
    }
    if let Some(grace) = probe.termination_grace_period_seconds {
        let at = at.field("terminationGracePeriodSeconds");
        if kind == Kind::Readiness {
            at.invalid(grace, "must not be set for readinessProbes");
        } else if grace <= 0 {
            at.invalid(grace, "must be greater than 0");
        }
    }
}

fn hooks(at: &At<'_>, lifecycle: &Lifecycle, grace: i64, os: Option<&str>) {
    for (name, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)]
    {
        if let Some(LifecycleHandler { exec, http_get, sleep, tcp_socket }) = handler {
            let handlers = Handlers {
                exec: exec.as_ref(),
                grpc: None,
                http: http_get.as_ref(),
                tcp: tcp_socket.as_ref(),
                sleep: sleep.as_ref(),
            };
            handlers.check(&at.field(name), grace, HOOK);
        }
    }
    if let Some(signal) = lifecycle.stop_signal.as_deref().filter(|signal| !signal.is_empty()) {
        let at = at.field("stopSignal");
        if os.unwrap_or_default().is_empty() {
            at.forbidden("may not be set for containers with empty `spec.os.name`");
        }
        if !is_signal(signal) {
            at.invalid(signal, "must be a signal of Linux, e.g. SIGTERM or SIGRTMIN+1");
        }
    }
}

fn is_signal(name: &str) -> bool {
    let Some(name) = name.strip_prefix("SIG") else { return false };
    let offset = |rest: &str, most: u8| {
        rest.is_empty() || rest[1..].parse::<u8>().is_ok_and(|n| (1..=most).contains(&n))
    };
    if let Some(rest) = name.strip_prefix("RTMIN") {
        return (rest.is_empty() || rest.starts_with('+')) && offset(rest, 15);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        return (rest.is_empty() || rest.starts_with('-')) && offset(rest, 14);
    }
    SIGNALS.split_whitespace().any(|signal| signal == name)
}

/// The action of a probe or hook; exactly one field must be set.
struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    grpc: Option<&'a GRPCAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handlers<'_> {
    fn check(&self, at: &At<'_>, grace: i64, choice: &str) {
        let mut set = Vec::new();
        if let Some(action) = self.exec {
            set.push("exec");
            if action.command.iter().flatten().next().is_none() {
                at.field("exec").field("command").required("");
            }
        }
        if let Some(action) = self.http {
            set.push("httpGet");
            http(&at.field("httpGet"), action);
        }
        if let Some(action) = self.tcp {
            set.push("tcpSocket");
            port(&at.field("tcpSocket").field("port"), &action.port);
        }
        if let Some(action) = self.grpc {
            set.push("grpc");
            let at = at.field("grpc");
            ports::number(&at.field("port"), action.port);
            at.field("mode").one_of_if_set(&action.mode, &["Plaintext", "TLS"]);
        }
        if let Some(action) = self.sleep {
            set.push("sleep");
            if action.seconds < 0 || action.seconds > grace {
                let why = "must be non-negative and less than terminationGracePeriodSeconds";
                let at = at.field("sleep").field("seconds");
                at.invalid(action.seconds, format!("{why} ({grace})"));
            }
        }
        match set.as_slice() {
            [] => at.required(choice),
            [_] => {}
            [_, more @ ..] => {
                for name in more {
                    at.field(name).forbidden("may not specify more than 1 handler type");
                }
            }
        }
    }
}

fn http(at: &At<'_>, get: &HTTPGetAction) {
    let path = get.path.as_deref().unwrap_or_default();
    at.field("path").named(path, names::one_line);
    port(&at.field("port"), &get.port);
    at.field("scheme").one_of(get.scheme.as_deref().unwrap_or_default(), &["HTTP", "HTTPS"]);
    for (index, header) in get.http_headers.iter().flatten().enumerate() {
        let at = at.field("httpHeaders").item(index);
        at.field("name").all(&header.name, names::header(&header.name));
        for complaint in names::one_line(&header.value) {
            at.field("value").wrong(complaint);
        }
    }
}

fn port(at: &At<'_>, port: &IntOrString) {
    match port {
        IntOrString::Int(number) => ports::number(at, *number),
        IntOrString::String(name) => at.all(name, names::port(name)),
    }
}
