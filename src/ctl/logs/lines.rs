//! Splits a log into lines for standard output.

use tonic::{Status, Streaming};

use crate::proto::podbay::v1::LogsResponse;

/// Maximum length of an unfinished line that is held back.
const LONGEST: usize = 64 << 10;

/// The processing of one log's bytes.
pub(super) struct Lines {
    /// Prefix of each line.
    prefix: Option<String>,
    /// Number of bytes still allowed.
    left: Option<u64>,
    /// Only complete lines, since lines of other logs may come in between.
    whole: bool,
    waiting: Vec<u8>,
    at_start: bool,
}

impl Lines {
    pub(super) fn new(prefix: Option<String>, limit: Option<u64>, whole: bool) -> Self {
        Self { prefix, left: limit, whole, waiting: Vec::new(), at_start: true }
    }

    /// The pieces of a log to write.
    pub(super) fn of(
        mut self,
        mut pieces: Streaming<LogsResponse>,
    ) -> impl futures::Stream<Item = Result<Vec<u8>, Status>> {
        async_stream::stream! {
            while self.left != Some(0) {
                match pieces.message().await {
                    Ok(Some(piece)) => yield Ok(self.take(&piece.data)),
                    Ok(None) => break,
                    Err(status) => {
                        yield Ok(std::mem::take(&mut self.waiting));
                        yield Err(status);
                        return;
                    }
                }
            }
            yield Ok(std::mem::take(&mut self.waiting));
        }
    }

    fn take(&mut self, data: &[u8]) -> Vec<u8> {
        let mut data = data;
        if let Some(left) = &mut self.left {
            data = &data[..data.len().min(usize::try_from(*left).unwrap_or(usize::MAX))];
            *left -= data.len() as u64;
        }
        let mut out = std::mem::take(&mut self.waiting);
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            if self.at_start {
                out.extend_from_slice(self.prefix.as_deref().unwrap_or_default().as_bytes());
            }
            out.extend_from_slice(line);
            self.at_start = line.ends_with(b"\n");
        }
        if self.whole && !self.at_start && out.len() < LONGEST {
            let end = out.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            self.waiting = out.split_off(end);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(mut lines: Lines, pieces: &[&str]) -> Vec<String> {
        let mut out: Vec<Vec<u8>> =
            pieces.iter().map(|piece| lines.take(piece.as_bytes())).collect();
        out.push(lines.waiting);
        out.into_iter().map(|piece| String::from_utf8(piece).expect("text")).collect()
    }

    #[test]
    fn lines_get_a_prefix_whatever_pieces_they_come_in() {
        let lines = || Lines::new(Some("[p] ".to_owned()), None, false);
        assert_eq!(through(lines(), &["a\nb", "c\n", "d"]), ["[p] a\n[p] b", "c\n", "[p] d", ""]);
        let bare = Lines::new(None, None, false);
        assert_eq!(through(bare, &["a\nb", "c"]), ["a\nb", "c", ""]);
    }

    #[test]
    fn lines_are_whole_between_others() {
        let whole = Lines::new(Some("[p] ".to_owned()), None, true);
        assert_eq!(through(whole, &["a\nb", "c\n", "d"]), ["[p] a\n", "[p] bc\n", "", "[p] d"]);
        let long = "x".repeat(LONGEST);
        let whole = Lines::new(None, None, true);
        assert_eq!(through(whole, &[&long]), [long.as_str(), ""], "no line waits for ever");
    }

    #[test]
    fn the_limit_is_of_the_whole_log() {
        let lines = Lines::new(None, Some(4), false);
        assert_eq!(through(lines, &["abc", "def", "g"]), ["abc", "d", "", ""]);
    }
}
