//! The log files of pods.

use std::path::{Path, PathBuf};

use super::Room;
use crate::pod::object::Given;
use crate::telemetry::error_chain;

/// Limits on reading a log for a termination message: lines and bytes.
const LAST_LINES: usize = 80;
const LAST_BYTES: usize = 2048;

impl Room {
    /// The last lines of a log.
    pub(in crate::pod) async fn last_lines(&self, log: Option<&Path>) -> String {
        let Some(log) = log else { return String::new() };
        // Each line has a prefix of about forty bytes.
        let most = LAST_BYTES + LAST_LINES * 48;
        match self.deps.host.read_tail(log, most).await {
            Ok(Some(tail)) => last_words(&String::from_utf8_lossy(&tail)),
            _ => String::new(),
        }
    }

    /// Removes the log of a removed container, with its rotated files.
    pub(in crate::pod) async fn remove_log(&self, log: &Path) {
        let (Some(folder), Some(name)) = (log.parent(), log.file_name()) else { return };
        let name = name.to_string_lossy().into_owned();
        let Ok(names) = self.deps.host.list_dir(folder).await else { return };
        for found in names.into_iter().filter(|found| {
            found.strip_prefix(&name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }) {
            drop(self.deps.host.remove_tree(&folder.join(found)).await);
        }
    }

    pub(in crate::pod) fn log_folder(&self, given: &Given) -> PathBuf {
        let key = given.key();
        let name = format!("{}_{}_{}", key.namespace, key.name, given.uid());
        self.node.log_root.join(name)
    }

    pub(in crate::pod) async fn remove_logs(&self, given: &Given) {
        let folder = self.log_folder(given);
        if let Err(error) = self.deps.host.remove_tree(&folder).await {
            tracing::warn!(folder = %folder.display(), error = error_chain(&error),
                "cannot remove pod logs");
        }
    }
}

/// The text of the last lines of a log, without their prefixes.
fn last_words(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let mut text = String::new();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (Some(tag), Some(content)) = (parts.next(), parts.next()) else { continue };
        text.push_str(content);
        if tag != "P" {
            text.push('\n');
        }
    }
    let from = text.ceil_char_boundary(text.len().saturating_sub(LAST_BYTES));
    text.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_end_of_a_log_without_its_heads() {
        let log = "cut\n2026-01-01T00:00:00Z stdout P one \n2026-01-01T00:00:00Z stderr F two\n";
        assert_eq!(last_words(log), "one two\n");
        let long: String = (0..200).map(|n| format!("t stdout F line {n}\n")).collect();
        let words = last_words(&long);
        assert!(words.starts_with("line 120\n") && words.ends_with("line 199\n"), "{words}");
        let wide = format!("t stdout F {}\n", "é".repeat(3000));
        assert!(last_words(&wide).len() <= LAST_BYTES);
    }
}
