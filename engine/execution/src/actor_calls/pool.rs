//! The pool of a call whose actor lives in another process.
//!
//! Blocks go out in the order in which they were given: whoever gives one stands in a
//! line for it, and has its credit before the next one asks.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow_flight::FlightData;
use async_trait::async_trait;
use futures::Stream;
use futures::stream::{self, StreamExt};
use mobula_block::BlockError;
use mobula_block::plain::{block_as, plain_block};
use mobula_proto::actor::BlockTag;
use mobula_proto::pool::PoolRef;
use mobula_udfs::{
    Answer, AnswerStream, BlockId, PoolStats, UdfCall, UdfError, UdfPool, one_by_one,
};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Mutex as FairMutex, Semaphore};
use url::Url;

use super::link::{InFlight, Link, Place};
use super::reply::{self, Part, Parts};
use super::wire::BlockWriter;
use super::{CREDITS, CREDITS_MAX};
use crate::exchange::channels::ChannelPool;
use crate::exchange::traffic::Traffic;
use crate::spawn::{OwnedTask, spawn_named};

/// Where this process's tasks find named actors: here, or at the coordinator.
#[derive(Debug)]
pub struct ActorLine {
    channels: ChannelPool,
    traffic: Arc<Traffic>,
    /// Bytes of answers to one block that may wait for their reader.
    keep_bytes: usize,
    coordinator: OnceLock<Url>,
}

impl ActorLine {
    /// A line to the actors of this process.
    pub fn new(channels: ChannelPool, traffic: Arc<Traffic>, keep_bytes: usize) -> Self {
        Self {
            channels,
            traffic,
            keep_bytes,
            coordinator: OnceLock::new(),
        }
    }

    /// From now on a line to the actors of the coordinator at `url`.
    pub fn lead_to(&self, url: Url) {
        // An executor has one coordinator for life.
        let _ = self.coordinator.set(url);
    }

    /// The way of `call` to its actor; `None`: it lives in this process, if anywhere.
    pub fn open_pool(&self, call: &Arc<UdfCall>) -> Option<Arc<dyn UdfPool>> {
        let url = self.coordinator.get()?;
        let place = Place {
            url: url.clone(),
            channels: self.channels.clone(),
            traffic: Arc::clone(&self.traffic),
        };
        let way = Way {
            pool: None,
            member: String::new(),
            credits: CREDITS,
            lane: None,
        };
        let (call, keep_bytes) = (Arc::clone(call), self.keep_bytes);
        Some(Arc::new(RemoteActor::new(place, call, keep_bytes, way)))
    }
}

/// Whom an exchange leads to.
#[derive(Debug, Clone)]
pub struct Way {
    /// `None`: a named actor.
    pub pool: Option<PoolRef>,
    /// What its host calls the named actor; empty: as the call says.
    pub member: String,
    /// Blocks that may be on their way.
    pub credits: usize,
    /// Of a keyed call: the lane that the exchange has for as long as it lasts.
    pub lane: Option<LaneWay>,
}

/// A lane of a keyed call, and from what it goes on.
#[derive(Debug, Clone)]
pub struct LaneWay {
    /// Its place among those of the pool on that host.
    pub lane: u64,
    /// Smaller ones than what the host has seen are refused.
    pub generation: u64,
    /// `None`: as the constructor makes it.
    pub snapshot: Option<Buffer>,
}

/// One call in one task, on an actor, or actors, in another process.
#[derive(Debug)]
pub struct RemoteActor {
    exchange: Arc<Exchange>,
    door: FairMutex<Door>,
    credits: Arc<Semaphore>,
    keep_bytes: usize,
}

/// What who gives a block has to itself.
#[derive(Debug)]
struct Door {
    next_seq: u64,
    writer: BlockWriter,
}

/// An exchange: it ends with the last who has it, the readers of answers among them.
#[derive(Debug)]
struct Exchange {
    link: Arc<Link>,
    driver: Mutex<Option<OwnedTask<()>>>,
}

impl RemoteActor {
    /// Opens nothing yet.
    pub fn new(place: Place, call: Arc<UdfCall>, keep_bytes: usize, way: Way) -> Self {
        let credits = way.credits.clamp(1, CREDITS_MAX);
        let way = Way { credits, ..way };
        let writer = BlockWriter::new(&call.input, place.channels.limits().message_bytes);
        Self {
            exchange: Arc::new(Exchange {
                link: Arc::new(Link::new(place, call, writer.clone(), way)),
                driver: Mutex::default(),
            }),
            door: FairMutex::new(Door {
                next_seq: 0,
                writer,
            }),
            credits: Arc::new(Semaphore::new(credits)),
            keep_bytes,
        }
    }
}

/// A scalar function of no rows has no values, a table function no rows.
pub fn answer_to_nothing(call: &UdfCall) -> AnswerStream {
    match call.spec.is_table() {
        true => stream::empty().boxed(),
        false => {
            let empty = RecordBatch::new_empty(Arc::clone(&call.output));
            stream::once(async { Ok(Answer::Rows(empty)) }).boxed()
        }
    }
}

#[async_trait]
impl UdfPool for RemoteActor {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.send(block, 0).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let (Some(rows), true) = (rows_of_each(&blocks), blocks.len() > 1) else {
            return one_by_one(self, blocks).await;
        };
        let whole = concat_batches(&blocks[0].schema(), &blocks);
        let whole = whole.map_err(|source| UdfError::Block {
            function: self.exchange.link.call().spec.name.clone(),
            source: BlockError::Assemble(source),
        })?;
        self.send(whole, rows).await
    }

    fn train(&self) -> usize {
        self.exchange.link.train()
    }

    fn concurrency(&self) -> usize {
        1
    }

    fn stats(&self) -> PoolStats {
        self.exchange.link.stats()
    }

    fn wait_expected(&self) -> Duration {
        self.exchange.link.wait_expected()
    }

    fn keeps_state(&self) -> bool {
        self.exchange.link.keeps_state()
    }
}

impl RemoteActor {
    /// Sends `block`, or the several of `block_rows` rows each that it is.
    async fn send(&self, block: RecordBatch, block_rows: usize) -> Result<AnswerStream, UdfError> {
        if block.num_rows() == 0 {
            return Ok(answer_to_nothing(self.exchange.link.call()));
        }
        let link = &self.exchange.link;
        let mut door = self.door.lock().await;
        let function = || link.call().spec.name.clone();
        let credit = Arc::clone(&self.credits).acquire_owned().await;
        let credit = credit.map_err(|_| UdfError::ShuttingDown {
            function: function(),
        })?;
        let rows = block.num_rows();
        let id = BlockId::of(&block);
        let block = plain_block(block).and_then(|block| block_as(block, door.writer.schema()));
        let block = block.map_err(|source| UdfError::Block {
            function: function(),
            source,
        })?;
        let seq = door.next_seq;
        let messages = messages(&door.writer, &block, seq, block_rows, id);
        let messages = messages.map_err(|problem| problem.of(&function(), link.url()))?;
        door.next_seq += 1;
        let (reply, parts) = reply::channel(self.keep_bytes);
        let calls = rows
            .checked_div(block_rows)
            .map_or(1, |_| rows.div_ceil(block_rows));
        let in_flight = InFlight::new(seq, [rows, calls], messages, reply, credit);
        if link.send(in_flight) {
            let driver = spawn_named("actor-exchange", Arc::clone(link).drive());
            *self.exchange.driver.lock() = Some(driver);
        }
        drop(door);
        let reader = Reader {
            parts,
            seq,
            exchange: Arc::clone(&self.exchange),
            is_over: false,
        };
        Ok(reader.boxed())
    }
}

/// The rows of each of `blocks` but the last, if it is the same for all and that has
/// no more.
fn rows_of_each(blocks: &[RecordBatch]) -> Option<usize> {
    let (last, others) = blocks.split_last()?;
    let rows = others.first().unwrap_or(last).num_rows();
    let same = others.iter().all(|block| block.num_rows() == rows);
    let fits = (1..=rows).contains(&last.num_rows());
    (same && fits).then_some(rows)
}

/// `block` as block `seq` of an exchange.
fn messages(
    writer: &BlockWriter,
    block: &RecordBatch,
    seq: u64,
    block_rows: usize,
    id: Option<BlockId>,
) -> Result<Vec<FlightData>, super::wire::Unsendable> {
    let [stream_high, stream_low, number] = id.map(BlockId::to_parts).unwrap_or_default();
    let pieces = writer.write(block)?;
    let (rows, last) = (block.num_rows() as u64, pieces.len() - 1);
    let tagged = pieces.into_iter().enumerate().map(|(at, piece)| {
        let tag = BlockTag {
            seq,
            rows,
            more: at < last,
            cancelled: false,
            block_rows: block_rows as u64,
            stream_high,
            stream_low,
            number,
        };
        piece.data.with_app_metadata(tag.encode_to_vec())
    });
    Ok(tagged.collect())
}

/// Reads what comes of one block. Dropped before the end, it tells the actor's process.
#[derive(Debug)]
struct Reader {
    parts: Parts,
    seq: u64,
    exchange: Arc<Exchange>,
    is_over: bool,
}

impl Stream for Reader {
    type Item = Result<Answer, UdfError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let part = std::task::ready!(self.parts.poll_next(cx));
        self.is_over = !matches!(part, Some(Part::Answer(_)));
        Poll::Ready(match part {
            Some(Part::Answer(answer)) => Some(Ok(answer)),
            Some(Part::End(Ok(()))) => None,
            Some(Part::End(Err(error))) => Some(Err(error)),
            // Its Tokio runtime is going down, or it panicked.
            None => {
                let function = self.exchange.link.call().spec.name.clone();
                Some(Err(UdfError::ShuttingDown { function }))
            }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !self.is_over {
            self.exchange.link.cancel(self.seq);
        }
    }
}
