//! Which streams a connection has, what they have received and have to send, and whose turn it is.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use bytes::{Buf, BytesMut};
use tokio::time::Instant;

use super::frame::{self, Answer, GoAway, INITIAL_WINDOW, LARGEST_WINDOW, Reset};
use super::headers::{BadHeaders, Headers};
use super::{Limits, Violation};

/// The most data that one stream sends before it is another's turn.
const TURN: usize = 16 << 10;
/// A buffer that has held more than this is given back when it is empty.
pub(super) const KEPT: usize = 16 << 10;

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
    pub(super) ready: VecDeque<u32>,
    pub(super) answers: VecDeque<Answer>,
    /// Still to send the first header block.
    first_reply: bool,
    pub(super) last_id: u32,
    pub(super) ping_id: u32,
    /// Bytes received that nobody has read.
    pub(super) buffered: usize,
    /// Whether the client has shown that it knows flow control.
    windows: bool,
    initial_window: i64,
    session_window: i64,
    /// Received bytes that the client's session window was not yet given back for.
    pub(super) session_credit: u32,
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
    pub(super) credit: u32,
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

    /// Appends all answers.
    pub(super) fn send_answers(&mut self, batch: &mut Vec<u8>) {
        while let Some(answer) = self.answers.pop_front() {
            answer.encode(&mut self.first_reply, batch);
        }
    }

    /// A stream's answer to its SYN_STREAM.
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

    /// Whether nobody will use this connection any more and all was written.
    pub(super) fn is_done(&self) -> bool {
        let unused = |entry: &Entry| !entry.reader && !entry.writer && !entry.has_to_send();
        !self.accepting && self.streams.values().all(unused)
    }

    pub(super) fn last_frame(&mut self, status: GoAway, batch: &mut Vec<u8>) {
        let last = self.last_id;
        Answer::GoAway { last, status }.encode(&mut self.first_reply, batch);
    }
}
