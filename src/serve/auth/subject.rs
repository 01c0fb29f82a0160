//! What a call is about, for the line that is written about it.

use std::sync::Arc;

use tonic::Request;

use crate::locks::Mutex;

/// Most bytes of a text that callers have chosen.
const LONGEST: usize = 512;

/// What a call is about: never what is secret, as the command of an exec may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct About {
    /// Objects, e.g. `default/web`, or a selection of them.
    pub what: String,
    /// Nothing was to be changed.
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

/// The place in a request's extensions where its handler says what it is [`About`], as soon as
/// that is known: then it is known, too, of calls that fail and of callers that leave.
#[derive(Debug, Clone, Default)]
pub struct Subject(Arc<Mutex<Option<About>>>);

impl Subject {
    /// The place of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Says it; the last word counts.
    pub fn set(&self, about: About) {
        *self.0.lock() = Some(about);
    }

    /// What was said.
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
