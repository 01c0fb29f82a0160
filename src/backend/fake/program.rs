//! Behaviour of the fake runtime's processes, selected by their arguments.
//!
//! | arguments | behaviour |
//! |---|---|
//! | `sleep SECONDS` | ends with 0 after that time |
//! | `echo WORD…`, `echo-err WORD…` | writes the words and a newline to stdout or stderr, ends with 0 |
//! | `lines N` | writes `line 1` to `line N`, ends with 0 |
//! | `exit CODE` | ends at once |
//! | `cat` | copies stdin to stdout, ends with 0 at its end |
//! | `ignore-term` | runs until SIGKILL |
//! | `fail-create`, `fail-start` | cannot be created or started |
//! | anything else | runs until a signal ends it |

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::task::Streams;

pub(super) const SIGKILL: i32 = 9;
/// SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH: these do not end a
/// process, nor does 0.
const HARMLESS: &[i32] = &[0, 17, 18, 19, 20, 21, 22, 23, 28];

#[derive(Debug, Clone, PartialEq)]
enum Act {
    Sleep(Duration),
    Print { text: String, stderr: bool },
    Exit(u32),
    Cat,
    Run,
}

/// A behaviour.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Program {
    act: Act,
    ignores_term: bool,
    pub(super) fails_create: bool,
    pub(super) fails_start: bool,
}

impl Program {
    /// From an OCI `Process` in JSON.
    pub(super) fn of(process: &serde_json::Value) -> Self {
        let args: Vec<&str> = process["args"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_str)
            .collect();
        let (name, rest) = args.split_first().map_or(("", &[][..]), |(name, rest)| (*name, rest));
        let number = |fallback: f64| {
            let text = rest.first().copied().unwrap_or_default();
            text.parse().ok().filter(|number: &f64| *number >= 0.0).unwrap_or(fallback)
        };
        let act = match name {
            "sleep" => Act::Sleep(Duration::from_secs_f64(number(0.0))),
            "echo" | "echo-err" => {
                Act::Print { text: format!("{}\n", rest.join(" ")), stderr: name == "echo-err" }
            }
            "lines" => {
                let text = (1..=number(0.0) as u64).map(|line| format!("line {line}\n")).collect();
                Act::Print { text, stderr: false }
            }
            "exit" => Act::Exit(number(0.0) as u32),
            "cat" => Act::Cat,
            _ => Act::Run,
        };
        Self {
            act,
            ignores_term: name == "ignore-term",
            fails_create: name == "fail-create",
            fails_start: name == "fail-start",
        }
    }

    /// Whether this signal ends it.
    pub(super) fn is_ended_by(&self, signal: i32) -> bool {
        signal == SIGKILL || !(self.ignores_term || HARMLESS.contains(&signal))
    }

    /// Runs to its end; dropping it kills it.
    pub(super) async fn run(self, streams: &mut Streams) -> u32 {
        let done = match self.act {
            Act::Exit(code) => return code,
            Act::Run => std::future::pending().await,
            Act::Sleep(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Act::Print { text, stderr } => streams.print(text.as_bytes(), stderr).await,
            Act::Cat => copy(streams).await,
        };
        u32::from(done.is_err())
    }
}

async fn copy(streams: &mut Streams) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    loop {
        let Some(stdin) = &mut streams.stdin else { return Ok(()) };
        let count = stdin.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        streams.print(&buffer[..count], false).await?;
    }
}

impl Streams {
    /// Writes to stdout or stderr; a terminal has one stream for both.
    async fn print(&mut self, bytes: &[u8], stderr: bool) -> std::io::Result<()> {
        let stream = if stderr && !self.terminal { &mut self.stderr } else { &mut self.stdout };
        match stream {
            Some(stream) => stream.write_all(bytes).await,
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(args: &[&str]) -> Program {
        Program::of(&serde_json::json!({ "args": args }))
    }

    #[test]
    fn arguments_choose_the_behaviour() {
        assert_eq!(program(&["sleep", "1.5"]).act, Act::Sleep(Duration::from_millis(1500)));
        assert_eq!(program(&["exit", "7"]).act, Act::Exit(7));
        assert_eq!(program(&["/pause"]).act, Act::Run);
        assert_eq!(program(&[]).act, Act::Run);
        let text = "line 1\nline 2\n".to_owned();
        assert_eq!(program(&["lines", "2"]).act, Act::Print { text, stderr: false });
    }

    #[test]
    fn signals_end_what_they_would_end() {
        assert!(program(&["/pause"]).is_ended_by(15));
        assert!(!program(&["/pause"]).is_ended_by(28));
        assert!(!program(&["ignore-term"]).is_ended_by(15));
        assert!(program(&["ignore-term"]).is_ended_by(9));
    }
}
