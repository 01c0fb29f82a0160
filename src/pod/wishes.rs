//! Settings of pods by annotations, for which their spec has no fields. Pure.
//!
//! | annotation | value |
//! |---|---|
//! | `ulimits.podbay.io/<container>` | `nofile=1024:2048,core=0`: soft:hard, or one for both |
//! | `backoff.podbay.io/initial`, `…/longest` | delays between container restarts: `500ms`, `2m` |
//! | `backoff.podbay.io/exempt-success` | `true`: a container that exits with 0 restarts at once |
//! | `oom.podbay.io/<container>` | `process`: on OOM the kernel kills one process instead of all |

use std::ops::RangeInclusive;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::backoff::Policy;
use super::object::FieldError;
use crate::model::container::Rlimit;

const ULIMITS: &str = "ulimits.podbay.io/";
const BACKOFF: &str = "backoff.podbay.io/";
const OOM: &str = "oom.podbay.io/";

/// Allowed delays between restarts.
const PAUSES: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// How the containers of a pod are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Delays between restarts.
    pub policy: Policy,
    /// Whether an exit with 0 causes no delay and does not count.
    pub exempts_success: bool,
}

impl Pace {
    /// The pod's settings, with the node's as defaults; invalid ones are ignored.
    pub fn of(pod: &Pod, node: &Policy) -> Self {
        let pause = |key: &str| value(pod, BACKOFF, key).and_then(|text| pause(text).ok());
        let mut policy = *node;
        policy.first = pause("initial").unwrap_or(policy.first);
        policy.longest = pause("longest").unwrap_or(policy.longest.max(policy.first));
        policy.first = policy.first.min(policy.longest);
        let exempts_success = value(pod, BACKOFF, "exempt-success") == Some("true");
        Self { policy, exempts_success }
    }

    /// Whether an exit with this code causes no delay.
    pub fn exempts(&self, code: i32) -> bool {
        self.exempts_success && code == 0
    }
}

/// The rlimits of a container; invalid ones are ignored.
pub fn ulimits(pod: &Pod, container: &str) -> Vec<Rlimit> {
    let text = value(pod, ULIMITS, container);
    text.and_then(|text| limits(text).ok()).unwrap_or_default()
}

/// Whether all processes of a container are killed together on OOM.
pub fn ends_as_a_whole(pod: &Pod, container: &str) -> bool {
    value(pod, OOM, container) != Some("process")
}

/// The faults in these annotations of a pod.
pub fn check(pod: &Pod) -> Vec<FieldError> {
    let annotations = pod.metadata.annotations.iter().flatten();
    let faults = annotations.filter_map(|(key, text)| {
        let message = fault(pod, key, text)?;
        Some(FieldError { path: format!("metadata.annotations[{key}]"), message })
    });
    let mut faults: Vec<_> = faults.collect();
    let pause = |key: &str| value(pod, BACKOFF, key).and_then(|text| pause(text).ok());
    if let (Some(initial), Some(longest)) = (pause("initial"), pause("longest"))
        && initial > longest
    {
        let path = format!("metadata.annotations[{BACKOFF}initial]");
        let message = "must be no more than the longest pause".to_owned();
        faults.push(FieldError { path, message });
    }
    faults
}

fn fault(pod: &Pod, key: &str, text: &str) -> Option<String> {
    let known = |name: &str| {
        let spec = pod.spec.iter();
        let mut all = spec.flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        let unknown = || "names no container of this pod".to_owned();
        if all.any(|container| container.name == name) { Ok(()) } else { Err(unknown()) }
    };
    let one_of = |words: [&str; 2]| match words.contains(&text) {
        true => Ok(()),
        false => Err(format!("{text:?} is neither {:?} nor {:?}", words[0], words[1])),
    };
    let told = if let Some(name) = key.strip_prefix(ULIMITS) {
        known(name).and_then(|()| limits(text).map(drop))
    } else if let Some(name) = key.strip_prefix(OOM) {
        known(name).and_then(|()| one_of(["process", "group"]))
    } else {
        match key.strip_prefix(BACKOFF)? {
            "initial" | "longest" => pause(text).map(drop),
            "exempt-success" => one_of(["true", "false"]),
            _ => Err("known are initial, longest and exempt-success".to_owned()),
        }
    };
    told.err()
}

fn value<'a>(pod: &'a Pod, prefix: &str, name: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(&format!("{prefix}{name}")).map(String::as_str)
}

fn pause(text: &str) -> Result<Duration, String> {
    let (least, most) = (PAUSES.start(), PAUSES.end());
    let pause = humantime::parse_duration(text).ok().filter(|pause| PAUSES.contains(pause));
    pause.ok_or_else(|| format!("{text:?} is not a duration from {least:?} to {most:?}"))
}

fn limits(text: &str) -> Result<Vec<Rlimit>, String> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for part in text.split(',') {
        let wrong = |why: &str| format!("{part:?} {why}");
        let (name, figures) =
            part.split_once('=').ok_or_else(|| wrong("is none of name=soft:hard, name=both"))?;
        if !Rlimit::NAMES.contains(&name) {
            return Err(format!("{name:?} is not a limit; known are {}", Rlimit::NAMES.join(", ")));
        }
        let (soft, hard) = figures.split_once(':').unwrap_or((figures, figures));
        let (Some(soft), Some(hard)) = (Rlimit::figure(soft), Rlimit::figure(hard)) else {
            return Err(wrong("must contain only numbers or unlimited"));
        };
        if soft > hard {
            return Err(wrong("has a soft limit above the hard limit"));
        }
        if limits.iter().any(|limit| limit.name == name) {
            return Err(wrong("is listed twice"));
        }
        limits.push(Rlimit { name: name.to_owned(), soft, hard });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotations: serde_json::Value) -> Pod {
        let pod = json!({"metadata": {"annotations": annotations},
                         "spec": {"containers": [{"name": "web"}]}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_pod_has_what_it_asks_for() {
        let asking = pod(json!({
            "ulimits.podbay.io/web": "nofile=1024:2048,core=0,memlock=unlimited",
            "backoff.podbay.io/initial": "500ms", "backoff.podbay.io/longest": "1m 30s",
            "backoff.podbay.io/exempt-success": "true", "oom.podbay.io/web": "process",
        }));
        assert_eq!(check(&asking), []);
        let told: Vec<_> = ulimits(&asking, "web")
            .into_iter()
            .map(|limit| format!("{} {} {}", limit.name, limit.soft, limit.hard))
            .collect();
        let most = u64::MAX;
        assert_eq!(told, ["nofile 1024 2048", "core 0 0", &format!("memlock {most} {most}")]);
        let pace = Pace::of(&asking, &Policy::default());
        assert_eq!(pace.policy.first, Duration::from_millis(500));
        assert_eq!(pace.policy.longest, Duration::from_secs(90));
        assert_eq!(pace.policy.reset, Policy::default().reset);
        assert!(pace.exempts(0) && !pace.exempts(1) && !ends_as_a_whole(&asking, "web"));
        let plain = pod(json!({}));
        let pace = Pace::of(&plain, &Policy::default());
        assert_eq!(pace, Pace { policy: Policy::default(), exempts_success: false });
        assert!(ulimits(&plain, "web").is_empty() && ends_as_a_whole(&plain, "web"));
    }

    #[test]
    fn the_longest_pause_is_no_shorter_than_the_first() {
        let long = pod(json!({"backoff.podbay.io/initial": "20m"}));
        let pace = Pace::of(&long, &Policy::default());
        assert_eq!(
            (pace.policy.first, pace.policy.longest),
            (Duration::from_secs(1200), Duration::from_secs(1200))
        );
        let short = pod(json!({"backoff.podbay.io/longest": "1s"}));
        assert_eq!(Pace::of(&short, &Policy::default()).policy.first, Duration::from_secs(1));
    }

    #[test]
    fn wrong_annotations_are_told_by_name() {
        let table = [
            ("ulimits.podbay.io/other", "nofile=1", "names no container"),
            ("ulimits.podbay.io/web", "nofile", "name=soft:hard"),
            ("ulimits.podbay.io/web", "files=1", "is not a limit; known are as, core,"),
            ("ulimits.podbay.io/web", "nofile=x", "numbers or unlimited"),
            ("ulimits.podbay.io/web", "nofile=2:1", "soft limit above"),
            ("ulimits.podbay.io/web", "core=1,core=2", "is listed twice"),
            ("backoff.podbay.io/initial", "1ms", "is not a duration from 100ms to 3600s"),
            ("backoff.podbay.io/longest", "soon", "is not a duration"),
            ("backoff.podbay.io/exempt-success", "yes", "neither \"true\" nor \"false\""),
            ("backoff.podbay.io/cap", "1s", "known are initial"),
            ("oom.podbay.io/web", "none", "neither \"process\" nor \"group\""),
            ("oom.podbay.io/other", "process", "names no container"),
        ];
        for (key, text, expected) in table {
            let faults = check(&pod(json!({key: text})));
            assert_eq!(faults.len(), 1, "{key} {text}");
            assert_eq!(faults[0].path, format!("metadata.annotations[{key}]"));
            assert!(faults[0].message.contains(expected), "{}", faults[0].message);
        }
        let crossed = json!({"backoff.podbay.io/initial": "2s", "backoff.podbay.io/longest": "1s"});
        assert!(check(&pod(crossed))[0].message.contains("no more than the longest"));
    }
}
