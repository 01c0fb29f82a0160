//! The state of a connection: its streams, received and queued data, and the order of sending.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::frame::{self, Answer, GoAway, INITIAL_WINDOW, LARGEST_WINDOW, Reset};
use super::headers::{BadHeaders, Headers};
use super::{Limits, Violation};

/// Maximum number of bytes that a stream sends before the next one's turn.
const TURN: usize = 16 << 10;
/// An empty buffer with more capacity than this is freed.
pub(super) const KEPT: usize = 16 << 10;

/// Protected by the mutex; nothing here blocks.
#[derive(Debug)]
pub(super) struct State {
    pub(super) streams: HashMap<u32, Entry>,
    pub(super) arrivals: VecDeque<(u32, Headers)>,
    pub(super) arrival_waker: Option<Waker>,
    /// Whether new streams are still accepted.
    pub(super) accepting: bool,
    /// Whether the client has announced that it opens no more streams.
    pub(super) going_away: bool,
    /// Whether the connection has ended.
    pub(super) failed: bool,
    /// Set when the connection is to be closed: the last frame to write.
    pub(super) give_up: Option<GoAway>,
    /// Time of the last data or new stream.
    pub(super) active: Instant,
    /// Streams with something to send, in order of their turns.
    pub(super) ready: VecDeque<u32>,
    pub(super) answers: VecDeque<Answer>,
    /// Whether the first header block has not been sent yet.
    first_reply: bool,
    pub(super) last_id: u32,
    pub(super) ping_id: u32,
    /// Number of received, unread bytes.
    pub(super) buffered: usize,
    /// Whether the client has shown that it supports flow control.
    windows: bool,
    initial_window: i64,
    session_window: i64,
    /// Bytes read for which the session window was not yet returned to the client.
    pub(super) session_credit: u32,
}

/// A stream, kept while it is open or one of its halves exists.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) received: BytesMut,
    /// The client's direction has ended.
    pub(super) received_all: bool,
    pub(super) to_send: BytesMut,
    pub(super) end: End,
    /// Both directions were ended by either side.
    pub(super) reset: bool,
    /// Whether the reading half exists; without it, data is discarded.
    pub(super) reader: bool,
    /// Whether the writing half exists.
    pub(super) writer: bool,
    pub(super) read_waker: Option<Waker>,
    pub(super) write_waker: Option<Waker>,
    queued: bool,
    window: i64,
    pub(super) credit: u32,
}

/// State of the end of the server's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// To be sent after the queued data.
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

    pub(super) fn wake(&mut self) {
        self.read_waker.take().into_iter().chain(self.write_waker.take()).for_each(Waker::wake);
    }
}

impl State {
    pub(super) fn new() -> Self {
        Self {
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
        }
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        self.answers.push_back(answer);
    }

    /// Appends all queued answers.
    pub(super) fn send_answers(&mut self, batch: &mut Vec<u8>) {
        while let Some(answer) = self.answers.pop_front() {
            answer.encode(&mut self.first_reply, batch);
        }
    }

    /// Queues the SYN_REPLY of a stream.
    pub(super) fn reply(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(|entry| !entry.reset) && !self.failed {
            self.answer(Answer::Reply { id });
        }
    }

    pub(super) fn open(
        &mut self,
        id: u32,
        fin: bool,
        headers: Option<Result<Headers, BadHeaders>>,
        limit: usize,
    ) -> Result<(), Violation> {
        self.active = Instant::now();
        if id.is_multiple_of(2) {
            return Err(Violation::StreamId(id));
        }
        // Old clients may open streams out of order; only that stream is refused.
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

    pub(super) fn kill(&mut self, id: u32) {
        let Some(entry) = self.streams.get_mut(&id) else { return };
        entry.reset = true;
        self.buffered = self.buffered.saturating_sub(entry.received.len());
        (entry.received, entry.to_send) = (BytesMut::new(), BytesMut::new());
        entry.wake();
        self.forget_if_done(id);
    }

    pub(super) fn received_all(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.received_all = true;
            entry.read_waker.take().into_iter().for_each(Waker::wake);
        }
        self.forget_if_done(id);
    }

    /// Notes that the reading half was dropped.
    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.reader = false;
            let unread = std::mem::take(&mut entry.received);
            self.buffered = self.buffered.saturating_sub(unread.len());
        }
        self.forget_if_done(id);
    }

    /// Notes that the writing half was dropped.
    pub(super) fn drop_writer(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id) {
            entry.writer = false;
        }
        self.finish(id);
        self.forget_if_done(id);
    }

    /// Ends the server's direction of a stream after the queued data.
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

    /// Adds a stream to the sending queue if it has something to send.
    pub(super) fn enqueue(&mut self, id: u32) {
        if let Some(entry) = self.streams.get_mut(&id)
            && entry.has_to_send()
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Lets the first stream in the queue send; false when the queue is empty.
    pub(super) fn send_one(&mut self, batch: &mut Vec<u8>, limits: &Limits) -> bool {
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
            // Nothing, or the window is full: a WINDOW_UPDATE queues it again.
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

    pub(super) fn set_initial_window(&mut self, window: i64) {
        self.windows = true;
        let delta = window - std::mem::replace(&mut self.initial_window, window);
        self.streams.values_mut().for_each(|entry| entry.window += delta);
        self.enqueue_all();
    }

    pub(super) fn widen(&mut self, id: u32, delta: i64) -> Result<(), Violation> {
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

    /// Whether nobody uses this connection any more and everything was written.
    pub(super) fn is_done(&self) -> bool {
        let unused = |entry: &Entry| !entry.reader && !entry.writer && !entry.has_to_send();
        !self.accepting && self.streams.values().all(unused)
    }

    pub(super) fn last_frame(&mut self, status: GoAway, batch: &mut Vec<u8>) {
        let last = self.last_id;
        Answer::GoAway { last, status }.encode(&mut self.first_reply, batch);
    }
}
