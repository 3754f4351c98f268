//! The exchange of one pool with the process of its actor, opened again if it breaks.
//!
//! One task reads the answers. A connection that is lost is made again at once, and
//! the blocks on their way are sent once more, but for those of whose answers a reader
//! has had some: user code may run twice for them, as for those that lose a worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use futures::StreamExt;
use futures::stream;
use mobula_block::plain::block_as;
use mobula_proto::actor::{AnswerTag, BlockDone, BlockTag, Down};
use mobula_udfs::{Answer, PoolStats, RemoteFailure, UdfCall, UdfError, UdfErrorClass};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use url::Url;

use super::pool::Way;
use super::reply::Reply;
use super::snapshots;
use super::wire::{BlockReader, BlockWriter, Problem, answer_schema, failed_from_wire, opening};
use crate::error::{ErrorClass, RemoteError};
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;
use crate::wire_error;

/// How often a block is sent at most.
const TRIES: u32 = 2;

/// Where an actor lives, and the way there.
#[derive(Debug)]
pub struct Place {
    pub url: Url,
    pub channels: ChannelPool,
    pub traffic: Arc<Traffic>,
}

/// A block on its way.
#[derive(Debug)]
pub struct InFlight {
    seq: u64,
    rows: usize,
    /// Calls that it is.
    calls: u64,
    messages: Vec<FlightData>,
    reply: Reply,
    /// Answers of a scalar function: few, they wait for the end.
    held: Vec<Answer>,
    /// What has come of the actor's state.
    state: Vec<u8>,
    /// Whether the reader has had any.
    passed_on: bool,
    tries: u32,
    since: Instant,
    /// Spent waiting for the reader.
    reader_time: Duration,
    _credit: OwnedSemaphorePermit,
}

impl InFlight {
    pub fn new(
        seq: u64,
        [rows, calls]: [usize; 2],
        messages: Vec<FlightData>,
        reply: Reply,
        credit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            seq,
            rows,
            calls: calls as u64,
            messages,
            reply,
            held: vec![],
            state: vec![],
            passed_on: false,
            tries: 0,
            since: Instant::now(),
            reader_time: Duration::ZERO,
            _credit: credit,
        }
    }
}

/// One exchange after the other, and the blocks on their way.
#[derive(Debug)]
pub struct Link {
    place: Place,
    call: Arc<UdfCall>,
    way: Way,
    writer: BlockWriter,
    reader: BlockReader,
    /// What the operator gets.
    answers: SchemaRef,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// A task reads the answers.
    is_driven: bool,
    /// To the open exchange.
    out: Option<mpsc::Sender<Vec<FlightData>>>,
    /// The oldest first.
    in_flight: VecDeque<InFlight>,
    /// How many small blocks the actor would take as one.
    train: usize,
    stats: PoolStats,
    keeps_state: bool,
    /// Whether an actor was ready: before that no block was begun.
    was_ready: bool,
    /// How long a block would wait for its actor, and when that was told.
    wait: Option<(Duration, Instant)>,
}

/// How an exchange ended.
enum End {
    /// The way there is broken.
    Lost(String),
    /// The other side told why.
    Failed(RemoteFailure),
}

impl Link {
    pub fn new(place: Place, call: Arc<UdfCall>, writer: BlockWriter, way: Way) -> Self {
        let answers = answer_schema(&call);
        Self {
            reader: BlockReader::new(&answers),
            answers,
            place,
            call,
            way,
            writer,
            state: Mutex::default(),
        }
    }

    pub fn call(&self) -> &UdfCall {
        &self.call
    }

    pub fn url(&self) -> &str {
        self.place.url.as_str()
    }

    /// How many small blocks may go as one now.
    pub fn train(&self) -> usize {
        self.state.lock().train.max(1)
    }

    pub fn stats(&self) -> PoolStats {
        self.state.lock().stats
    }

    /// How long a block would wait now, by what was told with the last answer.
    pub fn wait_expected(&self) -> Duration {
        let told = self.state.lock().wait;
        told.map_or(Duration::ZERO, |(wait, at)| {
            wait.saturating_sub(at.elapsed())
        })
    }

    /// Whether its keyed actor can tell its state, as far as it has answered.
    pub fn keeps_state(&self) -> bool {
        self.state.lock().keeps_state
    }

    /// Sends a block; true: [`Self::drive`] has to be run for that.
    pub fn send(&self, mut block: InFlight) -> bool {
        let mut state = self.state.lock();
        let bytes = block.messages.iter().map(bytes).sum::<u64>();
        state.stats.rows_in += block.rows as u64;
        state.stats.bytes_in += bytes;
        state.stats.workers_at_once = 1.max(self.way.credits as u64 / 2);
        // One that is breaking takes nothing; then the next one gets the block.
        let sent = state
            .out
            .as_ref()
            .map(|out| out.try_send(block.messages.clone()));
        block.tries += u32::from(matches!(sent, Some(Ok(()))));
        state.in_flight.push_back(block);
        !std::mem::replace(&mut state.is_driven, true)
    }

    /// Tells the actor's process that nobody reads what comes of block `seq`.
    pub fn cancel(&self, seq: u64) {
        let state = self.state.lock();
        let is_there = state.in_flight.iter().any(|block| block.seq == seq);
        if let (true, Some(out)) = (is_there, &state.out) {
            let tag = BlockTag {
                seq,
                cancelled: true,
                ..BlockTag::default()
            };
            let word = FlightData::new().with_app_metadata(tag.encode_to_vec());
            // An exchange that is gone has told by that.
            let _ = out.try_send(vec![word]);
        }
    }

    /// Runs exchanges until one ends with nothing on its way.
    pub async fn drive(self: Arc<Self>) {
        loop {
            let end = match self.open() {
                Ok(messages) => self.exchange(messages).await,
                Err(error) => End::Failed(failure(&error, self.url())),
            };
            let mut state = self.state.lock();
            state.out = None;
            let calls = |state: &State| state.in_flight.iter().map(|b| b.calls).sum::<u64>();
            let before = calls(&state);
            let was_ready = state.was_ready;
            let goes_on = |block: &InFlight| self.may_go_on(block, &end, was_ready);
            state.in_flight.retain(goes_on);
            state.stats.calls += before - calls(&state);
            if state.in_flight.is_empty() {
                state.is_driven = false;
                return;
            }
            state.stats.retries += state.in_flight.iter().filter(|b| b.tries > 0).count() as u64;
            if let End::Lost(reason) = &end {
                // It may not know yet that it is broken, and would fail the next one, too.
                self.place.channels.forget(&self.place.url);
                let function = &self.call.spec.name;
                tracing::warn!(
                    reason,
                    function,
                    "the way to an actor broke; blocks are sent again"
                );
            }
        }
    }

    /// The messages of a new exchange: its opening and the blocks on their way first.
    fn open(&self) -> Result<mpsc::Receiver<Vec<FlightData>>, UdfError> {
        let opening = opening(&self.call, &self.writer, &self.way)?;
        // The opening, and each block with the word that nobody reads it.
        let (out, messages) = mpsc::channel(1 + 2 * self.way.credits);
        let mut state = self.state.lock();
        // There is room for all of them.
        let mut first = vec![opening];
        first.extend(snapshots::of(&self.way, self.writer.message_bytes()));
        let _ = out.try_send(first);
        for block in &mut state.in_flight {
            block.tries += 1;
            block.held.clear();
            let _ = out.try_send(block.messages.clone());
        }
        state.out = Some(out);
        Ok(messages)
    }

    async fn exchange(&self, messages: mpsc::Receiver<Vec<FlightData>>) -> End {
        let mut client = match self.place.channels.flight(&self.place.url) {
            Ok(client) => client,
            Err(error) => return self.broken(&error.to_string()),
        };
        let traffic = Arc::clone(&self.place.traffic);
        let messages = ReceiverStream::new(messages).flat_map(stream::iter);
        let messages = messages.inspect(move |message| traffic.sent(message));
        let mut answers = match client.do_exchange(messages).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return self.end_of(&status),
        };
        let mut is_open = false;
        loop {
            let message = match answers.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return End::Lost("the other side closed it".to_owned()),
                Err(status) => return self.end_of(&status),
            };
            self.place.traffic.received(&message);
            let taken = match is_open {
                true => self.take(message).await,
                false => self.reader.check_opening(&message),
            };
            is_open = true;
            if let Err(problem) = taken {
                return self.broken(&problem);
            }
        }
    }

    fn end_of(&self, status: &tonic::Status) -> End {
        match wire_error::told(status, self.url()) {
            Some(error) => End::Failed(remote_failure(error)),
            None => End::Lost(status.message().to_owned()),
        }
    }

    fn broken(&self, problem: &str) -> End {
        let function = &self.call.spec.name;
        End::Failed(RemoteFailure {
            class: UdfErrorClass::Bug,
            message: format!("an answer to \"{function}\" broke the protocol: {problem}"),
            place: self.url().to_owned(),
            traceback: None,
        })
    }

    /// Whether `block` is sent again; tells its reader if not.
    fn may_go_on(&self, block: &InFlight, end: &End, was_ready: bool) -> bool {
        let reason = match end {
            _ if block.reply.is_closed() => return false,
            End::Failed(failure) => {
                let error = UdfError::Remote(Box::new(failure.clone()));
                block.reply.end(Err(error));
                return false;
            }
            End::Lost(reason) => reason,
        };
        // A lane goes on from the state that who has it brings: not by the same exchange. A
        // block that a named actor may have seen would count twice in its state.
        let is_keyed = self.call.handling.keyed.is_some();
        if block.tries < TRIES && !block.passed_on && !is_keyed {
            return true;
        }
        let error = self.unreachable(reason.clone(), was_ready);
        block.reply.end(Err(error));
        false
    }

    fn unreachable(&self, reason: String, was_ready: bool) -> UdfError {
        let (function, place) = (self.call.spec.name.clone(), self.url().to_owned());
        match &self.call.spec.actor {
            Some(method) => UdfError::ActorUnreachable {
                function,
                actor: method.actor.clone(),
                place,
                reason,
            },
            None => UdfError::PoolUnreachable {
                function,
                place,
                reason,
                was_ready,
            },
        }
    }

    /// Takes an answer.
    async fn take(&self, message: FlightData) -> Result<(), Problem> {
        let tag = AnswerTag::decode(message.app_metadata.clone())
            .map_err(|e| format!("it has no tag: {e}"))?;
        let (reply, rows) = {
            let mut state = self.state.lock();
            state.was_ready = true;
            if tag.is_ready {
                return Ok(());
            }
            let block = state.in_flight.iter().find(|block| block.seq == tag.seq);
            let block = block
                .ok_or_else(|| format!("it answers block {}, which is not on its way", tag.seq))?;
            (block.reply.clone(), block.rows)
        };
        let mut answers = vec![];
        if !tag.failed.is_empty() {
            let failed = tag
                .failed
                .into_iter()
                .map(|row| failed_from_wire(row, rows));
            answers.push(Answer::Failed(failed.collect::<Result<_, _>>()?));
        }
        if let Some(part) = tag.snapshot {
            answers.extend(self.take_state(tag.seq, &message, part.more)?);
        } else if !message.data_header.is_empty() {
            let rows = self.reader.read(&message, tag.rows)?;
            let rows = block_as(rows, &self.answers).map_err(|e| e.to_string())?;
            answers.push(Answer::Rows(rows));
        }
        self.count(&message, tag.rows);
        if let Some(answers) = self.hold(tag.seq, answers, tag.done.is_some()) {
            let since = Instant::now();
            for answer in answers {
                reply.push(answer).await;
            }
            self.read_for(tag.seq, since.elapsed());
        }
        if let Some(done) = tag.done {
            self.done(tag.seq, done);
        }
        Ok(())
    }

    /// Takes a part of the actor's state after block `seq`; all of it with the last.
    fn take_state(
        &self,
        seq: u64,
        message: &FlightData,
        more: bool,
    ) -> Result<Option<Answer>, Problem> {
        let mut state = self.state.lock();
        let block = state.in_flight.iter_mut().find(|block| block.seq == seq);
        let Some(block) = block.filter(|_| self.way.lane.is_some()) else {
            return Err("it tells a state that nobody asked for".to_owned());
        };
        snapshots::add(&mut block.state, message, &self.call)?;
        let whole = (!more).then(|| std::mem::take(&mut block.state));
        Ok(whole.map(|state| Answer::Snapshot(Buffer::from_vec(state))))
    }

    fn count(&self, message: &FlightData, rows: u64) {
        let mut state = self.state.lock();
        state.stats.rows_out += rows;
        state.stats.bytes_out += bytes(message);
    }

    /// What may be passed on of the answers to block `seq`.
    fn hold(&self, seq: u64, answers: Vec<Answer>, is_done: bool) -> Option<Vec<Answer>> {
        let mut state = self.state.lock();
        let block = state.in_flight.iter_mut().find(|block| block.seq == seq)?;
        block.held.extend(answers);
        if block.held.is_empty() || !(is_done || self.call.spec.is_table()) {
            return None;
        }
        block.passed_on = true;
        Some(std::mem::take(&mut block.held))
    }

    fn read_for(&self, seq: u64, time: Duration) {
        let mut state = self.state.lock();
        let block = state.in_flight.iter_mut().find(|block| block.seq == seq);
        if let Some(block) = block {
            block.reader_time += time;
        }
    }

    /// Block `seq` is answered whole.
    fn done(&self, seq: u64, done: BlockDone) {
        let mut state = self.state.lock();
        let at = state.in_flight.iter().position(|block| block.seq == seq);
        let Some(block) = at.and_then(|at| state.in_flight.remove(at)) else {
            return;
        };
        state.train = usize::try_from(done.train).unwrap_or(1);
        state.keeps_state = done.keeps_state;
        state.wait = Some((Duration::from_micros(done.wait_us), Instant::now()));
        let stats = &mut state.stats;
        let user = Duration::from_micros(done.user_us);
        let others = user + Duration::from_micros(done.waited_us) + block.reader_time;
        stats.calls += block.calls;
        stats.user_time += user;
        stats.transport_time += block.since.elapsed().saturating_sub(others);
        stats.retries += done.retries;
        stats.workers_started += done.workers_started;
        stats.snapshots += done.snapshots;
        stats.replayed += done.replayed;
        drop(state);
        block.reply.end(match done.error {
            None => Ok(()),
            Some(wire) => {
                let failure = remote_failure(wire_error::from_wire(wire));
                Err(as_told(
                    Down::try_from(done.down).unwrap_or_default(),
                    failure,
                    &self.call,
                ))
            }
        });
    }
}

fn bytes(message: &FlightData) -> u64 {
    (message.data_header.len() + message.data_body.len()) as u64
}

/// The error of a block, and what that says of its actor.
fn as_told(down: Down, failure: RemoteFailure, call: &UdfCall) -> UdfError {
    let down = match down {
        Down::No => return UdfError::Remote(Box::new(failure)),
        Down::Begun => mobula_udfs::Down::Begun(Box::new(UdfError::Remote(Box::new(failure)))),
        Down::NotBegun => mobula_udfs::Down::NotBegun,
        Down::Failed => mobula_udfs::Down::Failed(failure.message),
    };
    let function = call.spec.name.clone();
    UdfError::ActorDown { function, down }
}

fn failure(error: &UdfError, place: &str) -> RemoteFailure {
    RemoteFailure {
        class: error.class(),
        message: error.to_string(),
        place: place.to_owned(),
        traceback: None,
    }
}

/// As the pool of a call says it.
pub fn remote_failure(error: RemoteError) -> RemoteFailure {
    RemoteFailure {
        class: match error.class {
            ErrorClass::User => UdfErrorClass::User,
            ErrorClass::Setup => UdfErrorClass::Setup,
            ErrorClass::Unavailable => UdfErrorClass::Lost,
            ErrorClass::ResourceExhausted => UdfErrorClass::Exhausted,
            ErrorClass::Timeout => UdfErrorClass::Timeout,
            ErrorClass::Cancelled | ErrorClass::Internal => UdfErrorClass::Bug,
        },
        message: error.message,
        place: error.executor,
        traceback: error.detail,
    }
}
