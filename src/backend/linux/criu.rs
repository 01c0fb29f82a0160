//! CRIU, the program with which OCI runtimes checkpoint processes.

use std::time::Duration;

use tokio::process::Command;

use super::super::trust::program;
use super::super::{Error, ErrorKind, Result};

/// Time limit; it only prints a line.
const LIMIT: Duration = Duration::from_secs(10);

/// Its version, `None` when it is not installed.
pub(super) async fn version() -> Result<Option<u32>> {
    const TRIED: &str = "run criu --version";
    let criu = match program("criu") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|error| Error::io(TRIED, error))?,
    };
    let mut command = Command::new(criu);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(LIMIT, command.output()).await {
        Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, TRIED)),
        Ok(Err(error)) => Err(Error::io(TRIED, error)),
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stdout).into_owned();
            let found = number(&said);
            found.map(Some).ok_or_else(|| Error::new(ErrorKind::Other, TRIED).because(said))
        }
    }
}

/// The number in `Version: 3.17.1`, in CRIU's encoding.
fn number(said: &str) -> Option<u32> {
    let version = said.lines().find_map(|line| line.strip_prefix("Version:"))?.trim();
    let mut parts = version.split(['.', '-']).map(str::parse);
    let major: u32 = parts.next()?.ok()?;
    let mut next = || parts.next().and_then(std::result::Result::ok).unwrap_or(0u32).min(99);
    let (minor, patch) = (next(), next());
    major.checked_mul(10_000)?.checked_add(minor * 100 + patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted_as_criu_does() {
        assert_eq!(number("Version: 3.17.1\n"), Some(31_701));
        assert_eq!(number("Version: 4.0\nGitID: v4.0\n"), Some(40_000));
        assert_eq!(number("Version: 3.16-dev\n"), Some(31_600));
        assert_eq!(number("Usage: criu\n"), None);
        assert_eq!(number("Version: new\n"), None);
    }
}
