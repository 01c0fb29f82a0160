//! The state shared by a connection and its streams, and how they wake each other.

use std::task::Waker;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{Answer, Control, GoAway, Reset};
use super::state::{KEPT, State};
use super::{Limits, Violation};
use crate::locks::{Mutex, MutexGuard};

/// Maximum number of bytes per write.
const BATCH: usize = 64 << 10;
/// Maximum number of queued answers before reading pauses, so that a client that floods with PINGs
/// without reading is slowed down.
const ANSWERS: usize = 256;
/// How many bytes are read before the client gets a WINDOW_UPDATE.
const CREDIT: u32 = 32 << 10;

/// The state shared by a connection and its streams.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) limits: Limits,
    /// Notified when there is something to write.
    pub(super) write: Notify,
    /// Notified when there may be buffer space to read more.
    pub(super) room: Notify,
    /// Cancelled when the connection has ended.
    pub(super) gone: CancellationToken,
}

/// What the writer does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Write the batch.
    Write,
    /// Wait.
    Nothing,
    /// Write the batch, which contains the last frame, and end.
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

    /// Waits for buffer space for data from the client.
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

    /// Fails all streams and wakes all waiters.
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

    /// Handles a control frame.
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
                // A PING shows that the client is alive; Kubernetes clients send one every few
                // seconds.
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

    /// Handles the header of a data frame.
    pub(super) fn data_begins(&self, id: u32, length: usize) -> Result<(), Violation> {
        let mut state = self.lock();
        state.active = Instant::now();
        state.session_credit += length as u32;
        if state.session_credit >= CREDIT {
            let delta = std::mem::take(&mut state.session_credit);
            state.answer(Answer::WindowUpdate { id: 0, delta });
        }
        let answer = match state.streams.get(&id) {
            // Data for closed streams may still be on its way.
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

    /// Handles a part of a data frame.
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

    /// Handles the end of a data frame with the FIN flag.
    pub(super) fn data_ends(&self, id: u32) {
        self.lock().received_all(id);
    }

    /// Appends the data to write next, with all streams in turn.
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

    /// Called periodically: returns whether the connection was idle for too long. Otherwise sends a
    /// PING, unless writing is blocked anyway.
    pub(super) fn is_idle(&self) -> bool {
        let mut state = self.lock();
        if state.active.elapsed() >= self.limits.idle {
            return true;
        }
        if state.answers.is_empty() {
            // The ids of a server's PINGs are even.
            state.ping_id = state.ping_id % 0x7fff_fffe + 2;
            let id = state.ping_id;
            state.answer(Answer::Ping { id });
            self.write.notify_one();
        }
        false
    }

    /// Accounts for `bytes` read by the application.
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
