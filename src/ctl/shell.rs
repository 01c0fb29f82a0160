//! `completion` and `man`: shell completions and manual pages.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, ValueEnum};

use super::Cli;
use super::error::Error;

/// Shells with completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash.
    Bash,
    /// Z shell.
    Zsh,
    /// Friendly interactive shell.
    Fish,
}

/// What `man` takes.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Existing directory to write the pages to, one per command
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// The completion script of a shell.
pub fn completion(shell: Shell) -> String {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "podbay", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes a page for each command.
pub fn man(folder: &Path) -> Result<(), Error> {
    if !folder.is_dir() {
        return Err(Error::Misuse(format!("{}: no such directory", folder.display())));
    }
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(Error::local(format!("write the pages to {}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_commands() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell);
            assert!(script.contains("port-forward") && script.contains("describe"), "{shell:?}");
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("temporary folder");
        man(dir.path()).expect("man");
        for page in ["podbay.1", "podbay-get.1", "podbay-port-forward.1", "podbay-top-pod.1"] {
            let text = std::fs::read_to_string(dir.path().join(page)).expect(page);
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
        assert_eq!(man(&dir.path().join("absent")).expect_err("absent").exit_code(), 2);
    }
}
