//! The open connections, to close them when their certificates expire: calls are authorized when
//! they begin, but a watch or a shell has no end of its own.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Caller, Policy, Tls};
use crate::locks::{Mutex, MutexGuard};
use crate::telemetry::error_chain;

/// All connections with a verified certificate.
#[derive(Debug, Default)]
pub(super) struct Guests(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    last: u64,
    open: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    caller: Caller,
    /// The client's own certificate first.
    certificates: Vec<CertificateDer<'static>>,
    end: CancellationToken,
}

impl Guests {
    /// Registers a connection.
    pub(super) fn enter(
        self: &Arc<Self>,
        caller: &Caller,
        certificates: &[CertificateDer<'_>],
    ) -> Guest {
        let end = CancellationToken::new();
        let certificates = certificates.iter().map(|it| it.clone().into_owned()).collect();
        let entry = Entry { caller: caller.clone(), certificates, end: end.clone() };
        let mut book = self.book();
        book.last += 1;
        let number = book.last;
        book.open.insert(number, entry);
        drop(book);
        Guest { guests: self.clone(), number, ended: Box::pin(end.cancelled_owned()) }
    }

    /// Ends the connections whose certificates have expired.
    pub(super) fn expire(&self, now: SystemTime) {
        self.look(|entry| {
            entry.caller.expired(now).then(|| "the client certificate has expired".to_owned())
        });
    }

    /// Ends the connections whose certificates would now be refused.
    pub(super) fn recheck(&self, tls: &Tls) {
        self.look(|entry| tls.check(&entry.certificates).err().map(|error| error_chain(&error)));
    }

    /// Ends the connections of callers who have fewer permissions than before.
    pub(super) fn narrow(&self, before: &Policy, now: &Policy) {
        self.look(|entry| {
            let narrower = entry.caller.may_less(before, now);
            narrower.then(|| "the policy gives the caller less than before".to_owned())
        });
    }

    fn look(&self, why: impl Fn(&Entry) -> Option<String>) {
        let book = self.book();
        for entry in book.open.values().filter(|entry| !entry.end.is_cancelled()) {
            if let Some(why) = why(entry) {
                let caller = entry.caller.to_string();
                tracing::warn!(target: "audit", caller, why, "connection ended");
                entry.end.cancel();
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock()
    }
}

/// A registered connection; unregistered when dropped.
pub(super) struct Guest {
    guests: Arc<Guests>,
    number: u64,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Guest {
    /// Ready once the connection has to end; registers the waker.
    pub(super) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.ended.as_mut().poll(context)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.guests.book().open.remove(&self.number);
    }
}
