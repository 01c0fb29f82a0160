//! Shared code of the tests in this module.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::Attachment;
use crate::ids::PodId;
use crate::model::pod::PodMetadata;

/// A pod with nothing special.
pub(super) fn attachment() -> Attachment {
    Attachment {
        pod: PodId::random(),
        metadata: PodMetadata {
            name: "web".into(),
            namespace: "default".into(),
            uid: "u-1".into(),
            attempt: 0,
        },
        netns: None,
        port_mappings: Vec::new(),
        dns: None,
        annotations: Default::default(),
        cgroup_parent: String::new(),
    }
}

/// A folder of fake plugins, which are shell scripts.
pub(super) struct Plugins(tempfile::TempDir);

impl Plugins {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn add(&self, kind: &str, script: &str) {
        // Written under another name and moved: a concurrent fork of another test could hold it
        // open.
        let (temp, path) = (self.dir().join(format!(".{kind}")), self.dir().join(kind));
        fs::write(&temp, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&temp, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(temp, path).unwrap();
    }
}

/// Whether a process exists and is no zombie.
pub(super) fn alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Waits for a condition.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < give_up, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
