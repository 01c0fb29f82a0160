//! What a connection and its streams share: which streams there are, what they have received and
//! have to send, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, BytesMut};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::frame::{self, Answer, Control, GoAway, INITIAL_WINDOW, LARGEST_WINDOW, Reset};
use super::headers::{BadHeaders, Headers};
use super::{Limits, Violation};

/// The most data that one stream sends before it is another's turn.
const TURN: usize = 16 << 10;
/// The most bytes that are written at once.
const BATCH: usize = 64 << 10;
/// Answers that may wait to be written before nothing more is read: who sends PINGs and reads
/// no answers gets no further.
const ANSWERS: usize = 256;
/// How many bytes are read before the client is told that it may send more.
const CREDIT: u32 = 32 << 10;
/// A buffer that has held more than this is given back when it is empty.
const KEPT: usize = 16 << 10;

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

/// Under the mutex; nothing here waits.
#[derive(Debug)]
pub(super) struct State {
    pub(super) streams: HashMap<u32, Entry>,
    pub(super) arrivals: VecDeque<(u32, Headers)>,
    pub(super) arrival_waker: Option<Waker>,
    /// Whether somebody still takes new streams.
    pub(super) accepting: bool,
    /// Whether the client has said that it opens no more.
    pub(super) going_away: bool,
    /// Whether the connection has ended.
    pub(super) failed: bool,
    /// Set once the connection is to be given up: the last frame to be written.
    pub(super) give_up: Option<GoAway>,
    /// When data or a new stream last passed.
    pub(super) active: Instant,
    /// Streams with something to send, the one whose turn it is first.
    ready: VecDeque<u32>,
    answers: VecDeque<Answer>,
    /// Still to send the first header block.
    first_reply: bool,
    last_id: u32,
    ping_id: u32,
    /// Bytes received that nobody has read.
    pub(super) buffered: usize,
    /// Whether the client has shown that it knows flow control.
    windows: bool,
    initial_window: i64,
    session_window: i64,
    /// Received bytes that the client's session window was not yet given back for.
    session_credit: u32,
}

/// One stream, as long as it is open or somebody holds a half of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) received: BytesMut,
    /// The client has sent all.
    pub(super) received_all: bool,
    pub(super) to_send: BytesMut,
    pub(super) end: End,
    /// Ended in both directions by either side.
    pub(super) reset: bool,
    /// Whether the half that reads exists; without it, what comes is dropped.
    pub(super) reader: bool,
    /// Whether the half that writes exists.
    pub(super) writer: bool,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
    queued: bool,
    window: i64,
    credit: u32,
}

/// How far our direction of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// To be told behind what waits to be sent.
    Asked,
    Told,
}

impl Entry {
    fn new(window: i64, received_all: bool) -> Self {
        Self {
            received: BytesMut::new(),
            received_all,
            to_send: BytesMut::new(),
            end: End::Open,
            reset: false,
            reader: true,
            writer: true,
            read_waker: None,
            write_waker: None,
            queued: false,
            window,
            credit: 0,
        }
    }

    fn has_to_send(&self) -> bool {
        !self.reset && (!self.to_send.is_empty() || self.end == End::Asked)
    }

    fn wake(&mut self) {
        self.read_waker.take().into_iter().chain(self.write_waker.take()).for_each(Waker::wake);
    }
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
        let state = State {
            streams: HashMap::new(),
            arrivals: VecDeque::new(),
            arrival_waker: None,
            accepting: true,
            going_away: false,
            failed: false,
            give_up: None,
            active: Instant::now(),
            ready: VecDeque::new(),
            answers: VecDeque::new(),
            first_reply: true,
            last_id: 0,
            ping_id: 0,
            buffered: 0,
            windows: false,
            initial_window: INITIAL_WINDOW,
            session_window: INITIAL_WINDOW,
            session_credit: 0,
        };
        Self {
            state: Mutex::new(state),
            limits,
            write: Notify::new(),
            room: Notify::new(),
            gone: CancellationToken::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let first_reply = &mut state.first_reply;
        let mut begun = *first_reply;
        while let Some(answer) = state.answers.pop_front() {
            answer.encode(&mut begun, batch);
        }
        state.first_reply = begun;
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

impl State {
    fn answer(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    /// A stream's answer to its SYN_STREAM.
    pub(super) fn reply(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|entry| !entry.reset) && !self.failed {
            self.answer(Answer::Reply { id });
        }
    }

    fn open(
        &mut self,
        id: u32,
        fin: bool,
        headers: Option<Result<Headers, BadHeaders>>,
        limit: usize,
    ) -> Result<(), Violation> {
        self.active = Instant::now();
        if id % 2 == 0 {
            return Err(Violation::StreamId(id));
        }
        // Old clients may send their streams out of order; that costs them only the stream.
        if id <= self.last_id {
            self.reset(id, Reset::Protocol);
            return Ok(());
        }
        self.last_id = id;
        let is_full = self.streams.len() >= limit;
        match headers {
            Some(Err(_)) => self.answer(Answer::Reset { id, status: Reset::Protocol }),
            Some(Ok(headers)) if self.accepting && !self.going_away && !is_full => {
                self.streams.insert(id, Entry::new(self.initial_window, fin));
                self.arrivals.push_back((id, headers));
                self.arrival_waker.take().into_iter().for_each(Waker::wake);
            }
            _ => self.answer(Answer::Reset { id, status: Reset::Refused }),
        }
        Ok(())
    }

    /// Ends a stream in both directions and tells the client.
    pub(super) fn reset(&mut self, id: u32, status: Reset) {
        let told = self.streams.get(&id).is_some_and(|entry| entry.reset);
        if !told && !self.failed {
            self.answer(Answer::Reset { id, status });
        }
        self.kill(id);
    }

    fn kill(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.reset = true;
        self.buffered = self.buffered.saturating_sub(entry.received.len());
        (entry.received, entry.to_send) = (BytesMut::new(), BytesMut::new());
        entry.wake();
        self.forget_if_done(id);
    }

    fn received_all(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.received_all = true;
            entry.read_waker.take().into_iter().for_each(Waker::wake);
        }
        self.forget_if_done(id);
    }

    /// Nobody will read this stream any more.
    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.reader = false;
            let unread = std::mem::take(&mut entry.received);
            self.buffered = self.buffered.saturating_sub(unread.len());
        }
        self.forget_if_done(id);
    }

    /// Nobody will write to this stream any more.
    pub(super) fn drop_writer(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.writer = false;
        }
        self.finish(id);
        self.forget_if_done(id);
    }

    /// Ends our direction of a stream behind what waits to be sent.
    pub(super) fn finish(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.end == End::Open
        {
            entry.end = End::Asked;
            self.enqueue(id);
        }
    }

    fn forget_if_done(&mut self, id: u32) {
        let done = |entry: &Entry| {
            let is_over = entry.reset || (entry.received_all && entry.end == End::Told);
            !entry.reader && !entry.writer && (is_over || self.failed)
        };
        if self.streams.get(&id).is_some_and(done) {
            self.streams.remove(&id);
        }
    }

    /// Gives a stream its place in the queue, if it has something to send.
    pub(super) fn enqueue(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.has_to_send()
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Lets the first stream of the queue send; false when there is none.
    fn send_one(&mut self, batch: &mut Vec<u8>, limits: &Limits) -> bool {
        let Some(id) = self.ready.pop_front() else { return false };
        let Some(entry) = self.streams.get_mut(&id) else { return true };
        entry.queued = false;
        let window = match self.windows {
            true => usize::try_from(entry.window.min(self.session_window)).unwrap_or(0),
            false => usize::MAX,
        };
        let length = entry.to_send.len().min(TURN).min(window);
        let fin = length == entry.to_send.len() && entry.end == End::Asked;
        if !entry.has_to_send() || (length == 0 && !fin) {
            // Nothing, or nothing that fits: a WINDOW_UPDATE queues it again.
            return true;
        }
        frame::data(id, fin, &entry.to_send[..length], batch);
        entry.to_send.advance(length);
        entry.window -= length as i64;
        self.session_window -= length as i64;
        self.active = Instant::now();
        if entry.to_send.is_empty() && entry.to_send.capacity() > KEPT {
            entry.to_send = BytesMut::new();
        }
        if entry.to_send.len() < limits.stream_buffer {
            entry.write_waker.take().into_iter().for_each(Waker::wake);
        }
        if fin {
            entry.end = End::Told;
            self.forget_if_done(id);
        } else {
            self.enqueue(id);
        }
        true
    }

    fn set_initial_window(&mut self, window: i64) {
        self.windows = true;
        let delta = window - std::mem::replace(&mut self.initial_window, window);
        self.streams.values_mut().for_each(|entry| entry.window += delta);
        self.enqueue_all();
    }

    fn widen(&mut self, id: u32, delta: i64) -> Result<(), Violation> {
        self.windows = true;
        if id == 0 {
            self.session_window += delta;
            if self.session_window > LARGEST_WINDOW {
                return Err(Violation::Window);
            }
            self.enqueue_all();
        } else if let Some(entry) = self.streams.get_mut(&id) {
            entry.window += delta;
            if entry.window > LARGEST_WINDOW {
                self.reset(id, Reset::FlowControl);
            }
            self.enqueue(id);
        }
        Ok(())
    }

    fn enqueue_all(&mut self) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.enqueue(id));
    }

    /// Whether nobody will use this connection any more and all was written.
    fn is_done(&self) -> bool {
        let unused = |entry: &Entry| !entry.reader && !entry.writer && !entry.has_to_send();
        !self.accepting && self.streams.values().all(unused)
    }

    fn last_frame(&mut self, status: GoAway, batch: &mut Vec<u8>) {
        let last = self.last_id;
        Answer::GoAway { last, status }.encode(&mut self.first_reply, batch);
    }
}
