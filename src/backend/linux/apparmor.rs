//! The default AppArmor profile of containers: written here, loaded by the host's
//! `apparmor_parser`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::super::trust::is_trusted_program;
use super::super::{APPARMOR_PROFILES, Error, ErrorKind, Result, has_apparmor_profile};
use super::{blocking, files};

/// Time limit: compiling the profile takes a second on a slow machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Maximum size of the list of loaded profiles, which has few lines.
const LIST_MAX: usize = 4 << 20;

/// Loads a profile.
#[derive(Debug)]
pub struct ProfileLoader {
    /// Possible paths of `apparmor_parser`; the first that exists is used.
    pub programs: Vec<PathBuf>,
    /// The kernel's list of loaded profiles.
    pub loaded: PathBuf,
    /// Directory for the profile's text.
    pub folder: PathBuf,
}

impl ProfileLoader {
    /// The loader of this host, with a directory for the text.
    pub fn of_host(folder: PathBuf) -> Self {
        Self {
            programs: ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from).into(),
            loaded: APPARMOR_PROFILES.into(),
            folder,
        }
    }

    /// Loads the default profile under this name. A profile already loaded under it is kept, or
    /// replaced if `replace` is set.
    ///
    /// # Errors
    /// `NotFound` if there is no `apparmor_parser`, `FailedPrecondition` if others than root could
    /// have changed it, otherwise with its message.
    pub async fn load(&self, name: &str, replace: bool) -> Result<()> {
        let loaded = self.loaded.clone();
        let list = blocking(move || files::read(&loaded, LIST_MAX)).await?.unwrap_or_default();
        if !replace && has_apparmor_profile(&list, name) {
            return Ok(());
        }
        let programs = self.programs.iter().map(|folder| folder.join("apparmor_parser"));
        let Some(parser) = programs.into_iter().find(|program| program.is_file()) else {
            return Err(Error::new(ErrorKind::NotFound, "find apparmor_parser"));
        };
        is_trusted_program(&parser).map_err(|problem| {
            let tried = format!("execute {}", parser.display());
            Error::new(ErrorKind::FailedPrecondition, tried).because(problem)
        })?;
        let (path, text) = (self.folder.join(name), text(name));
        let at = path.clone();
        blocking(move || files::write(&at, text.as_bytes(), 0o600)).await?;
        run(&parser, &path).await
    }
}

/// Compiles and loads a profile, without using a compiler cache.
async fn run(parser: &Path, profile: &Path) -> Result<()> {
    let tried = || format!("run {} on {}", parser.display(), profile.display());
    let mut command = Command::new(parser);
    command.args(["--replace", "--skip-cache"]).arg(profile);
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, tried())),
        Ok(Err(error)) => Err(Error::io(tried(), error)),
        Ok(Ok(done)) if done.status.success() => Ok(()),
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
            Err(Error::new(ErrorKind::Other, tried()).because(said))
        }
    }
}

/// The default profile: containers may use files, network and capabilities within their other
/// limits, but may not change mounts or kernel settings. It includes no file of the distribution,
/// so that it is the same everywhere.
fn text(name: &str) -> String {
    format!(
        r#"# Written by podbay at each start: changes are lost.
profile {name} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,

  # From the host, and among the container's own processes.
  signal (receive) peer=unconfined,
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  signal (receive) peer=podbay,
  signal (send,receive) peer={name},
  ptrace (trace,read,tracedby,readby) peer={name},

  deny mount,
  deny remount,
  deny pivot_root,

  # Of /proc, only a process's own files and sysctls of its IPC namespace.
  deny /proc/* w,
  deny /proc/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** wklx,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/kernel/{{?,??,[^s][^h][^m]**}} w,
  deny /proc/{{kcore,kmem,mem,sysrq-trigger}} rwklx,

  # Of /sys, only the cgroups, which the container has read-only anyway.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/** rwklx,
}}
"#
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A loader with a fake parser, which records its arguments and the profile and then ends like
    /// `end`.
    fn bench(end: &str) -> (tempfile::TempDir, ProfileLoader) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("sbin")).unwrap();
        let noted = at("noted").display().to_string();
        let script = format!("#!/bin/sh\necho \"$@\" >>{noted}\ncat \"$3\" >>{noted}\n{end}\n");
        // Written by another process: a concurrent fork of another test could hold a file open that
        // this process writes.
        let write = r#"printf %s "$1" >"$2" && chmod 755 "$2""#;
        let parser = at("sbin/apparmor_parser");
        let mut writer = std::process::Command::new("sh");
        writer.args(["-c", write, "sh", script.as_str()]).arg(parser);
        assert!(writer.status().unwrap().success());
        let programs = vec![at("none"), at("sbin")];
        let loader = ProfileLoader { programs, loaded: at("profiles"), folder: at("apparmor") };
        std::fs::write(&loader.loaded, "docker-default (enforce)\nmy own (x) (complain)\n")
            .unwrap();
        (folder, loader)
    }

    fn noted(folder: &tempfile::TempDir) -> String {
        std::fs::read_to_string(folder.path().join("noted")).unwrap_or_default()
    }

    #[tokio::test]
    async fn the_profile_is_given_to_the_parser_each_time() {
        let (folder, loader) = bench("exit 0");
        for _start in 0..2 {
            loader.load("podbay-default", true).await.unwrap();
        }
        let noted = noted(&folder);
        let path = loader.folder.join("podbay-default").display().to_string();
        assert_eq!(noted.matches(&format!("--replace --skip-cache {path}\n")).count(), 2);
        assert!(noted.contains("profile podbay-default flags=("), "{noted}");
        assert!(noted.contains("signal (send,receive) peer=podbay-default,"), "{noted}");
        for denied in ["deny mount,", "deny /proc/* w,", "deny /sys/kernel/security/** rwklx,"] {
            assert!(noted.contains(denied), "{denied}");
        }
        assert_eq!(noted.matches('{').count(), noted.matches('}').count());
        assert!(!noted.contains("#include"), "it stands alone");
    }

    #[tokio::test]
    async fn a_profile_of_somebody_else_is_left_alone() {
        let (folder, loader) = bench("exit 0");
        loader.load("docker-default", false).await.unwrap();
        assert_eq!(noted(&folder), "");
        loader.load("not-there-yet", false).await.unwrap();
        assert!(noted(&folder).contains("profile not-there-yet flags"));
    }

    #[tokio::test]
    async fn a_parser_that_fails_or_is_not_there_is_told_apart() {
        let (_folder, mut loader) = bench("echo 'syntax error, line 3' >&2; exit 1");
        let error = loader.load("podbay-default", true).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Other);
        assert!(crate::telemetry::error_chain(&error).contains("syntax error, line 3"), "{error}");
        let set_mode = |mode| {
            let parser = loader.programs[1].join("apparmor_parser");
            std::fs::set_permissions(parser, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set_mode(0o775);
        let error = loader.load("podbay-default", true).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::FailedPrecondition);
        loader.programs.pop();
        let error = loader.load("podbay-default", true).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
}
