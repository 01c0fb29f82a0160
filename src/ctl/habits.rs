//! Accepts kubectl's spellings: `--force=true` for a switch, `--dry-run=server`, and `-n NAME`
//! before the command.

use std::ffi::{OsStr, OsString};

use clap::{ArgAction, Command, CommandFactory as _};

use super::{Cli, forward};

/// The arguments in the form that clap parses.
pub fn translate(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let root = Cli::command();
    let mut said = Said { at: &root, words: words.next().into_iter().collect(), moved: Vec::new() };
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--") => {
                said.words.append(&mut said.moved);
                said.words.push(word);
                said.words.extend(words);
                return said.words;
            }
            Some(text) if said.at.has_subcommands() => {
                let text = text.to_owned();
                said.before(&text, word, &mut words);
            }
            Some(text) if said.at.get_name() == "port-forward" && text.starts_with("--address") => {
                let value = match text.strip_prefix("--address=") {
                    Some(value) => Some(OsString::from(value)),
                    None => words.next(),
                };
                let listens = value.as_deref().is_some_and(is_of_this_machine);
                said.words.push(if listens { "--listen" } else { "--address" }.into());
                said.words.extend(value);
            }
            Some(text) if text.starts_with("--") => said.words.extend(switch(said.at, text)),
            _ => said.words.push(word),
        }
    }
    said.words.append(&mut said.moved);
    said.words
}

struct Said<'a> {
    /// The command named so far.
    at: &'a Command,
    words: Vec<OsString>,
    /// Options to be moved behind the command.
    moved: Vec<OsString>,
}

impl Said<'_> {
    /// Handles a word before the command.
    fn before(&mut self, text: &str, word: OsString, rest: &mut impl Iterator<Item = OsString>) {
        let takes_next = |long: &str| {
            let mut known = self.at.get_arguments().filter(|arg| arg.get_action().takes_values());
            known.any(|arg| arg.get_long() == Some(long))
        };
        match text.strip_prefix("--") {
            _ if text == "-n" || text == "--namespace" => {
                self.moved.push(word);
                self.moved.extend(rest.next());
            }
            Some(long) if long.starts_with("namespace=") => self.moved.push(word),
            Some(long) if takes_next(long) => {
                self.words.push(word);
                self.words.extend(rest.next());
            }
            None if text.len() > 2 && text.starts_with("-n") => self.moved.push(word),
            None if !text.starts_with('-') => {
                self.at = self.at.find_subcommand(text).unwrap_or(self.at);
                self.words.push(word);
            }
            _ => self.words.push(word),
        }
    }
}

/// Whether it is a value of kubectl's `port-forward --address`: addresses without a port, which
/// those of an agent never are.
fn is_of_this_machine(value: &OsStr) -> bool {
    let text = value.to_str().unwrap_or_default();
    !text.is_empty() && text.split(',').all(|one| forward::here(one).is_ok())
}

/// `--x=true` as `--x`, and nothing for `--x=false`, if it is a switch.
fn switch(command: &Command, text: &str) -> Option<OsString> {
    let same = Some(text.into());
    let Some((long, value)) = text[2..].split_once('=') else { return same };
    let mut switches = command
        .get_arguments()
        .filter(|arg| matches!(arg.get_action(), ArgAction::SetTrue))
        .filter_map(|arg| arg.get_long());
    if !switches.any(|known| known == long) {
        return same;
    }
    match (long, value) {
        (_, "true") | ("dry-run", "server" | "client") => Some(format!("--{long}").into()),
        (_, "false") | ("dry-run", "none") => None,
        _ => same,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn said(line: &str) -> String {
        let words = translate(line.split(' ').map(OsString::from));
        let words: Vec<_> = words.iter().map(|word| word.to_str().expect("text")).collect();
        words.join(" ")
    }

    #[test]
    fn kubectls_words_become_ours() {
        for (typed, ours) in [
            ("podbay get pods --show-labels=true -w", "podbay get pods --show-labels -w"),
            ("podbay delete pod a --force=false --wait=false", "podbay delete pod a --wait=false"),
            ("podbay apply -f x --dry-run=server", "podbay apply -f x --dry-run"),
            ("podbay apply -f x --dry-run=none", "podbay apply -f x"),
            ("podbay -n a get pods", "podbay get pods -n a"),
            (
                "podbay --namespace=a top pod --containers",
                "podbay top pod --containers --namespace=a",
            ),
            (
                "podbay -na --context c exec web -- ls -n",
                "podbay --context c exec web -na -- ls -n",
            ),
            ("podbay exec web -- x --force=true", "podbay exec web -- x --force=true"),
            ("podbay get pods -o jsonpath={.a}", "podbay get pods -o jsonpath={.a}"),
            ("podbay get pods --output=name", "podbay get pods --output=name"),
            (
                "podbay port-forward web --address 0.0.0.0,::1 80",
                "podbay port-forward web --listen 0.0.0.0,::1 80",
            ),
            (
                "podbay port-forward web 80 --address=localhost",
                "podbay port-forward web 80 --listen localhost",
            ),
            (
                "podbay port-forward web 80 --address /a.sock",
                "podbay port-forward web 80 --address /a.sock",
            ),
            ("podbay", "podbay"),
        ] {
            assert_eq!(said(typed), ours);
            assert_eq!(said(ours), ours, "what is ours stays");
        }
    }

    #[test]
    fn what_makes_no_sense_is_left_to_be_refused() {
        for line in
            ["podbay get pods --watch=often", "podbay apply -f x --dry-run=maybe", "podbay -n"]
        {
            assert_eq!(said(line), line);
            let words = translate(line.split(' ').map(OsString::from));
            assert!(Cli::try_parse_from(words).is_err(), "{line}");
        }
        let words = ["podbay", "-n", "a", "logs", "--follow=true", "web"].map(OsString::from);
        assert!(Cli::try_parse_from(translate(words)).is_ok());
    }
}
