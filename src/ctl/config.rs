//! `podbay config`.

use std::path::Path;

use crate::config::{Config, Faults, FileOnly, Flags};

/// Checks a file by itself, without the caller's environment.
pub fn check(file: &Path) -> Result<(), Faults> {
    let flags = Flags { config: Some(file.to_owned()), settings: Vec::new() };
    Config::load(&FileOnly, &flags).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_file_is_ok_and_a_bad_one_is_not() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("config.toml");
        std::fs::write(&file, "root = \"/data\"\n").expect("write");
        check(&file).expect("good");
        std::fs::write(&file, "root = \"data\"\ncolour = 1\n").expect("write");
        assert_eq!(check(&file).expect_err("bad").0.len(), 2);
        assert!(check(&dir.path().join("absent")).is_err());
    }
}
