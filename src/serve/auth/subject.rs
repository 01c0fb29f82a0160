//! What a call is about, for the audit log.

use std::sync::Arc;

use tonic::Request;

use crate::locks::Mutex;

/// Most bytes of a text that callers have chosen.
const LONGEST: usize = 512;

/// What a call is about, without secrets such as the command of an exec.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Objects, e.g. `default/web`, or a selector.
    pub what: String,
    /// Whether it was a dry run.
    pub dry_run: bool,
}

impl About {
    /// About something that is to be changed.
    pub fn new(what: impl Into<String>) -> Self {
        let mut what = what.into();
        if what.len() > LONGEST {
            what.truncate(what.floor_char_boundary(LONGEST));
            what.push('…');
        }
        Self { what, dry_run: false }
    }
}

/// A slot in a request's extensions, in which the handler stores what the request is [`About`] as
/// soon as that is known, so that it is also known if the call fails or its caller leaves.
#[derive(Debug, Clone, Default)]
pub struct Subject(Arc<Mutex<Option<About>>>);

impl Subject {
    /// The slot of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Stores it; the last value counts.
    pub fn set(&self, about: About) {
        *self.0.lock() = Some(about);
    }

    /// The stored value.
    pub fn get(&self) -> Option<About> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_counts_and_long_ones_are_cut() {
        let mut request = Request::new(());
        Subject::of(&request).set(About::new("lost: nobody keeps it"));
        assert_eq!(Subject::of(&request).get(), None);
        let subject = Subject::default();
        request.extensions_mut().insert(subject.clone());
        for what in ["default/web", &"é".repeat(LONGEST)] {
            Subject::of(&request).set(About::new(what));
        }
        let what = subject.get().unwrap().what;
        assert!(what.len() <= LONGEST + '…'.len_utf8() && what.ends_with("é…"), "{what}");
    }
}
