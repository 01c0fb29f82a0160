//! Tokens in URLs: unguessable, valid for one use, one minute and one request.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::time::Instant;

use super::{Error, Request};
use crate::locks::{Mutex, MutexGuard};

/// How long a client may take to connect.
const LIFE: Duration = Duration::from_secs(60);

/// Maximum number of unused tokens.
const MAX_IN_FLIGHT: usize = 1000;

/// Random bytes in a token: 144 bits, 24 characters without padding.
const TOKEN_BYTES: usize = 18;

/// The pending requests by token.
#[derive(Default)]
pub(super) struct Tokens {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    waiting: HashMap<String, Request>,
    /// Expiry times, oldest first, since all tokens have the same lifetime. Used tokens stay here
    /// until they expire.
    ends: VecDeque<(Instant, String)>,
}

impl Table {
    fn forget_ended(&mut self, now: Instant) {
        while self.ends.front().is_some_and(|(end, _)| *end <= now) {
            if let Some((_, token)) = self.ends.pop_front() {
                self.waiting.remove(&token);
            }
        }
    }
}

impl Tokens {
    /// Issues a token for one use of `request`.
    pub fn issue(&self, request: Request) -> Result<String, Error> {
        let now = Instant::now();
        let mut table = self.lock();
        table.forget_ended(now);
        if table.waiting.len() >= MAX_IN_FLIGHT {
            return Err(Error::TooManyInFlight(MAX_IN_FLIGHT));
        }
        let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>());
        table.waiting.insert(token.clone(), request);
        table.ends.push_back((now + LIFE, token.clone()));
        Ok(token)
    }

    /// The request of a token, which is used up by this. `None` for an unknown, used or expired
    /// token.
    pub fn redeem(&self, token: &str) -> Option<Request> {
        let mut table = self.lock();
        table.forget_ended(Instant::now());
        table.waiting.remove(token)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ids::PodId;
    use crate::stream::PortForward;

    fn request() -> Request {
        Request::PortForward(PortForward { pod: PodId::random(), ports: Vec::new() })
    }

    #[test]
    fn a_token_is_good_once() {
        let (tokens, request) = (Tokens::default(), request());
        let token = tokens.issue(request.clone()).expect("a token");
        assert_eq!(tokens.redeem("never-given-out"), None);
        assert_eq!(tokens.redeem(&token), Some(request));
        assert_eq!(tokens.redeem(&token), None);
    }

    #[test]
    fn tokens_are_long_url_safe_and_differ() {
        let tokens = Tokens::default();
        let all: HashSet<_> = (0..500).map(|_| tokens.issue(request()).expect("a token")).collect();
        assert_eq!(all.len(), 500);
        let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        assert!(all.iter().all(|token| token.len() * 6 >= 128 && token.bytes().all(safe)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_for_a_minute() {
        let tokens = Tokens::default();
        let (early, late) = (tokens.issue(request()), tokens.issue(request()));
        tokio::time::advance(LIFE - Duration::from_millis(1)).await;
        assert!(tokens.redeem(&early.expect("a token")).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(tokens.redeem(&late.expect("a token")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_thousand_and_first_waits_for_room() {
        let tokens = Tokens::default();
        let first = tokens.issue(request()).expect("a token");
        for _ in 1..MAX_IN_FLIGHT {
            tokens.issue(request()).expect("a token");
        }
        assert!(matches!(tokens.issue(request()), Err(Error::TooManyInFlight(1000))));
        tokens.redeem(&first).expect("the request");
        tokens.issue(request()).expect("room after a use");
        assert!(tokens.issue(request()).is_err());
        tokio::time::advance(LIFE).await;
        tokens.issue(request()).expect("room after a minute");
        assert_eq!(tokens.lock().ends.len(), 1, "ended tokens are forgotten");
    }
}
