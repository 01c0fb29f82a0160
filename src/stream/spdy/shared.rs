//! What a connection and its streams share: the state, and how each wakes the other.

use std::task::Waker;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{Answer, Control, GoAway, Reset};
use super::state::{KEPT, State};
use super::{Limits, Violation};
use crate::locks::{Mutex, MutexGuard};

/// The most bytes that are written at once.
const BATCH: usize = 64 << 10;
/// Answers that may wait to be written before nothing more is read: who sends PINGs and reads
/// no answers gets no further.
const ANSWERS: usize = 256;
/// How many bytes are read before the client is told that it may send more.
const CREDIT: u32 = 32 << 10;

/// What a connection and its streams share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) limits: Limits,
    /// There is something to write.
    pub(super) write: Notify,
    /// There may be room to read more.
    pub(super) room: Notify,
    /// The connection has ended.
    pub(super) gone: CancellationToken,
}

/// What the writer has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Write the batch.
    Write,
    /// Wait.
    Nothing,
    /// Write the batch and end: it holds the last frame.
    Last,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            state: Mutex::new(State::new()),
            limits,
            write: Notify::new(),
            room: Notify::new(),
            gone: CancellationToken::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Ends when there is room for more from the client.
    pub(super) async fn wait_for_room(&self) {
        loop {
            {
                let state = self.lock();
                if state.buffered < self.limits.buffer && state.answers.len() < ANSWERS {
                    return;
                }
            }
            self.room.notified().await;
        }
    }

    /// Ends all streams and tells everybody who waits.
    pub(super) fn fail(&self) {
        let mut state = self.lock();
        state.failed = true;
        state.buffered = 0;
        for entry in state.streams.values_mut() {
            (entry.received, entry.to_send) = (BytesMut::new(), BytesMut::new());
            entry.wake();
        }
        state.arrivals.clear();
        state.ready.clear();
        state.answers.clear();
        state.arrival_waker.take().into_iter().for_each(Waker::wake);
        drop(state);
        self.gone.cancel();
    }

    /// Takes in a control frame.
    pub(super) fn control(&self, control: Control) -> Result<(), Violation> {
        let mut state = self.lock();
        match control {
            Control::SynStream { id, fin, unidirectional, headers } => {
                let headers = if unidirectional { None } else { Some(headers) };
                state.open(id, fin, headers, self.limits.streams)?;
            }
            Control::SynReply => return Err(Violation::Reply),
            Control::Headers { id, fin: true } => state.received_all(id),
            Control::Reset { id } => state.kill(id),
            Control::Settings { initial_window: Some(window) } => {
                state.set_initial_window(i64::from(window));
            }
            Control::Ping { id } if id % 2 == 1 => {
                // A client that asks is there: clients of Kubernetes do so every few seconds.
                state.active = Instant::now();
                state.answer(Answer::Ping { id });
            }
            Control::GoAway => {
                state.going_away = true;
                state.arrival_waker.take().into_iter().for_each(Waker::wake);
            }
            Control::WindowUpdate { id, delta } => state.widen(id, i64::from(delta))?,
            Control::Headers { fin: false, .. }
            | Control::Settings { initial_window: None }
            | Control::Ping { .. }
            | Control::Unknown => {}
        }
        drop(state);
        self.write.notify_one();
        self.room.notify_one();
        Ok(())
    }

    /// The head of a data frame has come.
    pub(super) fn data_begins(&self, id: u32, length: usize) -> Result<(), Violation> {
        let mut state = self.lock();
        state.active = Instant::now();
        state.session_credit += length as u32;
        if state.session_credit >= CREDIT {
            let delta = std::mem::take(&mut state.session_credit);
            state.answer(Answer::WindowUpdate { id: 0, delta });
        }
        let answer = match state.streams.get(&id) {
            // Streams that are gone may still get what was under way.
            None if id % 2 == 1 && id <= state.last_id => None,
            None if id == 0 => return Err(Violation::StreamId(id)),
            None => Some(Reset::InvalidStream),
            Some(entry) if entry.received_all && !entry.reset => Some(Reset::AlreadyClosed),
            Some(_) => None,
        };
        if let Some(status) = answer {
            state.reset(id, status);
        }
        drop(state);
        self.write.notify_one();
        Ok(())
    }

    /// A part of a data frame has come.
    pub(super) fn data(&self, id: u32, part: &[u8]) {
        let mut state = self.lock();
        state.active = Instant::now();
        let Some(entry) = state.streams.get_mut(&id) else { return };
        if entry.reader && !entry.reset && !entry.received_all {
            entry.received.extend_from_slice(part);
            entry.read_waker.take().into_iter().for_each(Waker::wake);
            state.buffered += part.len();
        }
    }

    /// A data frame with the FIN flag has come to its end.
    pub(super) fn data_ends(&self, id: u32) {
        self.lock().received_all(id);
    }

    /// Appends what is to be written next, each stream in its turn.
    pub(super) fn next_batch(&self, batch: &mut Vec<u8>) -> Turn {
        let mut state = self.lock();
        if let Some(status) = state.give_up {
            state.last_frame(status, batch);
            return Turn::Last;
        }
        state.send_answers(batch);
        while batch.len() < BATCH && state.send_one(batch, &self.limits) {}
        let turn = match batch.is_empty() {
            false => Turn::Write,
            true if state.is_done() => {
                state.last_frame(GoAway::Fine, batch);
                Turn::Last
            }
            true => Turn::Nothing,
        };
        drop(state);
        self.room.notify_one();
        turn
    }

    /// Called from time to time: whether nothing has passed for too long. Otherwise a PING is
    /// sent, unless writing is held up anyway.
    pub(super) fn is_idle(&self) -> bool {
        let mut state = self.lock();
        if state.active.elapsed() >= self.limits.idle {
            return true;
        }
        if state.answers.is_empty() {
            // A server's ids are even.
            state.ping_id = state.ping_id % 0x7fff_fffe + 2;
            let id = state.ping_id;
            state.answer(Answer::Ping { id });
            self.write.notify_one();
        }
        false
    }

    /// Takes `bytes` off what was received, after they were read.
    pub(super) fn was_read(&self, state: &mut State, id: u32, bytes: usize) {
        state.buffered -= bytes;
        let Some(entry) = state.streams.get_mut(&id) else { return };
        if entry.received.is_empty() && entry.received.capacity() > KEPT {
            entry.received = BytesMut::new();
        }
        entry.credit += bytes as u32;
        if entry.credit >= CREDIT && !entry.received_all {
            let delta = std::mem::take(&mut entry.credit);
            state.answer(Answer::WindowUpdate { id, delta });
            self.write.notify_one();
        }
        self.room.notify_one();
    }
}
