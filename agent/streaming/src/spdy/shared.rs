//! What the tasks and the handles of a connection share: its phase, its streams and its clock.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use super::Limits;
use super::fault::Fault;
use super::frame::{Control, status};
use super::outbox::Outbox;
use super::stream::StreamState;
use super::writer::Writer;
use crate::channel::Feeder;

/// How many streams that we reset are remembered, to do so once only.
const REMEMBERED_RESETS: usize = 64;

/// A connection's life; it only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// All is well.
    Open,
    /// We are closing: nothing is sent any more but the end, and what comes is thrown away.
    Closing,
    /// It is over.
    Gone,
}

/// What the reader does with what it reads; it only goes forward. A peer that is gone may have left bytes, so that this
/// is not the connection's phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reading {
    /// Gives it to the streams.
    Deliver,
    /// Throws it away.
    Discard,
    /// Nothing: it is to end.
    Stop,
}

/// One for each connection.
pub(super) struct Shared {
    pub limits: Limits,
    pub writer: Writer,
    pub outbox: Outbox,
    phase: watch::Sender<Phase>,
    reading: watch::Sender<Reading>,
    reason: Mutex<Option<String>>,
    active: Mutex<Instant>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    streams: HashMap<u32, Entry>,
    /// Ids that were reset by us, newest last.
    reset: VecDeque<u32>,
    /// The peer has said GOAWAY.
    peer_away: bool,
    /// The highest id that a client's stream had.
    last_id: u32,
}

/// A stream that is open in at least one direction, or whose consumer is there still.
struct Entry {
    /// `None` when the peer has half-closed it.
    feeder: Option<Arc<Feeder>>,
    state: Arc<StreamState>,
}

/// Where a piece of DATA belongs.
pub(super) enum Place {
    /// To its queue.
    Queue(Arc<Feeder>),
    /// Nowhere.
    Discard,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets what only grows; whether it did.
fn forward<T: PartialOrd>(what: &watch::Sender<T>, to: T) -> bool {
    what.send_if_modified(|now| {
        *now < to && {
            *now = to;
            true
        }
    })
}

impl Shared {
    pub fn new(limits: Limits, writer: Writer) -> Self {
        Self {
            limits,
            writer,
            outbox: Outbox::default(),
            phase: watch::Sender::new(Phase::Open),
            reading: watch::Sender::new(Reading::Deliver),
            reason: Mutex::default(),
            active: Mutex::new(Instant::now()),
            table: Mutex::default(),
        }
    }

    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Ready when the connection is at least that far.
    pub async fn reached(&self, phase: Phase) {
        // An error would mean that the sender is gone, which `self` owns.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    pub fn reading(&self) -> Reading {
        *self.reading.borrow()
    }

    /// Ready when the reader is to do that, or less.
    pub async fn reading_until(&self, reading: Reading) {
        let _ = self.reading.subscribe().wait_for(|now| *now >= reading).await;
    }

    /// Goes forward to [`Phase::Closing`]; whether it did.
    pub fn closing(&self) -> bool {
        let first = forward(&self.phase, Phase::Closing);
        if first {
            forward(&self.reading, Reading::Discard);
        }
        first
    }

    /// The end; the first reason is the one that is kept.
    pub fn gone(&self, fault: &Fault) {
        lock(&self.reason).get_or_insert_with(|| fault.text());
        if !fault.is_peers_end() {
            self.stop_reading();
        }
        forward(&self.phase, Phase::Gone);
    }

    /// There is nobody who could read.
    pub fn stop_reading(&self) {
        forward(&self.reading, Reading::Stop);
    }

    /// Notes the reason of an end that is yet to come.
    pub fn because(&self, fault: &Fault) {
        lock(&self.reason).get_or_insert_with(|| fault.text());
    }

    pub fn reason(&self) -> Option<String> {
        (self.phase() == Phase::Gone).then(|| lock(&self.reason).clone()).flatten()
    }

    /// Something came or went.
    pub fn touch(&self) {
        *lock(&self.active) = Instant::now();
    }

    /// Ready when nothing has come or gone for the idle limit.
    pub async fn idle(&self) {
        loop {
            let last = *lock(&self.active);
            // Far enough away to mean never.
            let Some(end) = last.checked_add(self.limits.idle) else { return std::future::pending().await };
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// The last stream that was looked at, as GOAWAY has it.
    pub fn last_id(&self) -> u32 {
        lock(&self.table).last_id
    }

    /// Takes up a stream, or resets it.
    pub fn open(&self, id: u32, feeder: Option<Feeder>, state: &Arc<StreamState>) -> bool {
        let mut table = lock(&self.table);
        // Clients have the odd ids, each higher than the one before (draft, 2.3.2).
        if id & 1 == 0 || id <= table.last_id {
            let known = table.streams.remove(&id);
            drop(table);
            if let Some(entry) = known {
                entry.end();
            }
            self.reset(id, status::PROTOCOL_ERROR);
            return false;
        }
        table.last_id = id;
        if table.peer_away || self.phase() != Phase::Open || table.streams.len() >= self.limits.max_streams {
            drop(table);
            self.reset(id, status::REFUSED_STREAM);
            return false;
        }
        let entry = Entry { feeder: feeder.map(Arc::new), state: Arc::clone(state) };
        table.streams.insert(id, entry);
        true
    }

    /// Notes the id of a stream that is refused unseen.
    pub fn skip(&self, id: u32) {
        let mut table = lock(&self.table);
        if id & 1 == 1 && id > table.last_id {
            table.last_id = id;
        }
    }

    /// Where DATA of a stream goes; what has no place is reset once.
    pub fn place(&self, id: u32, last: bool) -> Place {
        let mut table = lock(&self.table);
        let (status, entry) = match table.streams.get(&id) {
            Some(Entry { feeder: Some(feeder), .. }) => return Place::Queue(Arc::clone(feeder)),
            Some(_) => (status::STREAM_ALREADY_CLOSED, table.streams.remove(&id)),
            // Its consumer has left, and so does the peer now.
            None if last && id & 1 == 1 && id <= table.last_id => return Place::Discard,
            None => (status::INVALID_STREAM, None),
        };
        drop(table);
        if let Some(entry) = entry {
            entry.end();
        }
        self.reset(id, status);
        Place::Discard
    }

    /// The peer has half-closed a stream.
    pub fn peer_finished(&self, id: u32) {
        self.half_closed(id, |entry| entry.feeder = None);
    }

    /// We have half-closed a stream.
    pub fn finished(&self, id: u32) {
        self.half_closed(id, |entry| entry.state.finish());
    }

    fn half_closed(&self, id: u32, close: impl FnOnce(&mut Entry)) {
        let mut table = lock(&self.table);
        let Some(entry) = table.streams.get_mut(&id) else { return };
        close(entry);
        if entry.feeder.is_none() && entry.state.is_finished() {
            table.streams.remove(&id);
        }
        drop(table);
        self.end_if_away();
    }

    /// Takes a stream out; both its directions are over.
    pub fn close(&self, id: u32) -> bool {
        let entry = lock(&self.table).streams.remove(&id);
        let known = entry.is_some();
        if let Some(entry) = entry {
            entry.end();
        }
        self.end_if_away();
        known
    }

    /// Sends RST_STREAM, once for a stream.
    pub fn reset(&self, id: u32, status: u32) {
        {
            let mut table = lock(&self.table);
            if table.reset.contains(&id) {
                return;
            }
            table.reset.push_back(id);
            if table.reset.len() > REMEMBERED_RESETS {
                table.reset.pop_front();
            }
        }
        if self.phase() == Phase::Open {
            self.outbox.push(&Control::Reset { id, status });
        }
    }

    /// The peer has said GOAWAY: no new streams, and the end with the last one that is open.
    pub fn peer_away(&self) {
        lock(&self.table).peer_away = true;
        self.end_if_away();
    }

    fn end_if_away(&self) {
        let over = {
            let table = lock(&self.table);
            table.peer_away && table.streams.is_empty()
        };
        if over {
            self.gone(&Fault::PeerAway);
        }
    }

    /// No stream gets anything any more.
    pub fn end_streams(&self) {
        let streams = std::mem::take(&mut lock(&self.table).streams);
        for entry in streams.into_values() {
            entry.end();
        }
    }

    #[cfg(test)]
    pub fn open_streams(&self) -> usize {
        lock(&self.table).streams.len()
    }
}

impl Entry {
    fn end(self) {
        self.state.kill();
        if let Some(feeder) = self.feeder {
            feeder.end();
        }
    }
}
