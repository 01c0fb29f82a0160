//! Parses terminal sizes sent by a client: a sequence of JSON documents, as Go encodes
//! `remotecommand.TerminalSize`.

use serde::Deserialize;

use crate::model::streams::TerminalSize;

/// Maximum length of a document; no valid size is longer.
const MAX_DOCUMENT: usize = 1024;

/// A size as sent. Numbers that are not a `u16` (negative, 65536, `1e3`) do not parse.
#[derive(Deserialize)]
struct Sent {
    #[serde(rename = "Width", alias = "width")]
    width: u16,
    #[serde(rename = "Height", alias = "height")]
    height: u16,
}

/// Assembles the stream and parses the sizes in it.
#[derive(Debug, Default)]
pub struct Sizes {
    rest: Vec<u8>,
}

impl Sizes {
    /// Takes the next piece and returns the newest size completed by it. Zero is sent by clients
    /// without a terminal and is ignored. Invalid data is dropped, with everything that arrived
    /// with it.
    pub fn push(&mut self, piece: &[u8]) -> Option<TerminalSize> {
        if self.rest.len() + piece.len() > MAX_DOCUMENT {
            self.rest.clear();
            tracing::debug!("ignoring resize message: too long");
            return None;
        }
        self.rest.extend_from_slice(piece);
        let mut sizes = serde_json::Deserializer::from_slice(&self.rest).into_iter::<Sent>();
        let (mut newest, mut taken) = (None, 0);
        loop {
            match sizes.next() {
                Some(Ok(Sent { width: 0, .. } | Sent { height: 0, .. })) => {}
                Some(Ok(Sent { width, height })) => newest = Some(TerminalSize { width, height }),
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(error)) => {
                    tracing::debug!(%error, "ignoring invalid resize message");
                    taken = self.rest.len();
                    break;
                }
                None => {
                    taken = self.rest.len();
                    break;
                }
            }
            taken = sizes.byte_offset();
        }
        self.rest.drain(..taken);
        newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(piece: &str) -> Option<(u16, u16)> {
        Sizes::default().push(piece.as_bytes()).map(|size| (size.width, size.height))
    }

    #[test]
    fn sizes_are_read_as_they_come() {
        assert_eq!(one(r#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(one(r#"{"width":80,"height":24}"#), Some((80, 24)));
        assert_eq!(one("{\"Width\":1,\"Height\":2}\n{\"Width\":3,\"Height\":4}\n"), Some((3, 4)));
        assert_eq!(one(r#"{"Width":65535,"Height":65535}"#), Some((65535, 65535)));
        let mut sizes = Sizes::default();
        assert_eq!(sizes.push(br#"{"Width":80,"#), None);
        let whole = sizes.push(br#""Height":24} {"Wid"#);
        assert_eq!(whole, Some(TerminalSize { width: 80, height: 24 }));
        let next = sizes.push(br#"th":81,"Height":25}"#);
        assert_eq!(next, Some(TerminalSize { width: 81, height: 25 }));
    }

    #[test]
    fn what_is_no_size_is_dropped_and_the_next_is_heard() {
        for bad in [
            r#"{"Width":65536,"Height":65536}"#,
            r#"{"Width":-1,"Height":24}"#,
            r#"{"Width":1e3,"Height":24}"#,
            r#"{"Width":80.5,"Height":24}"#,
            r#"{"Width":"80","Height":24}"#,
            r#"{"Width":80}"#,
            r#"{"Width":0,"Height":24}"#,
            r#"{"Width":80,"Height":0}"#,
            "]",
            "\0",
            "",
        ] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.push(bad.as_bytes()), None, "{bad}");
            let good = sizes.push(br#"{"Width":80,"Height":24}"#);
            assert_eq!(good, Some(TerminalSize { width: 80, height: 24 }), "after {bad}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut sizes = Sizes::default();
        for _ in 0..10_000 {
            assert_eq!(sizes.push(b"{\"Width\":                    "), None);
        }
        assert!(sizes.rest.len() <= MAX_DOCUMENT && sizes.rest.capacity() <= 4 * MAX_DOCUMENT);
    }
}
