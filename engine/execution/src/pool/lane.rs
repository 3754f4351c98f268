//! One lane of a keyed call: its blocks in order to its actor, wherever that is now.
//!
//! One task feeds it. It keeps a block until its actor has told a state after it: where the
//! actor is lost with its host, or the way to it breaks, another one is given the last state,
//! and sees what came after it again, whose answers are thrown away; then it gets what was
//! not answered. Each of them is another generation, and who serves an older one has nobody
//! that hears it: its exchange is gone, and its state is not taken.
//!
//! An actor that cannot tell its state begins anew, as its constructor makes it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use futures::future::BoxFuture;
use futures::stream::{self, FuturesOrdered, StreamExt};
use mobula_block::size::block_bytes;
use mobula_plan::PoolHost;
use mobula_udfs::{Answer, AnswerStream, UdfError, UdfPool};
use tokio::sync::mpsc;

use super::dispatch::is_loss;
use super::keyed::Route;
use super::losses::Losses;
use crate::actor_calls::pool::LaneWay;
use crate::spawn::{OwnedTask, spawn_named};

/// How often it is asked where an actor is that is missed.
pub(super) const ASK_EVERY: Duration = Duration::from_millis(200);
/// Answers to a block that may wait for their reader.
pub(super) const ANSWERS_WAITING: usize = 2;

/// What a reader gets: an answer, or the end.
pub(super) type Part = Result<Option<Answer>, UdfError>;

/// A lane, and who feeds it.
#[derive(Debug)]
pub(super) struct Lane {
    /// Bounded by who gives blocks: two of each stream at a time.
    blocks: mpsc::UnboundedSender<Unanswered>,
    function: String,
    hosts_lost_max: u32,
    _feeder: OwnedTask<()>,
}

/// A block that its reader has not heard the end of.
#[derive(Debug)]
struct Unanswered {
    block: RecordBatch,
    reader: mpsc::Sender<Part>,
    /// Hosts that were lost with it at work.
    lost: BTreeSet<(String, u64)>,
    losses: Losses,
}

impl Lane {
    pub(super) fn new(route: &Arc<Route>, number: usize) -> Self {
        let (blocks, given) = mpsc::unbounded_channel();
        let feeder = Feeder {
            route: Arc::clone(route),
            number,
            generation: 0,
            snapshot: None,
            since: vec![],
            open: VecDeque::new(),
            missed_since: None,
        };
        Self {
            blocks,
            function: route.function(),
            hosts_lost_max: route.line.hosts_lost_max,
            _feeder: spawn_named("keyed-lane", feeder.run(given)),
        }
    }

    /// Has `block` answered after all that were given before.
    pub(super) fn send(&self, block: RecordBatch) -> AnswerStream {
        let (reader, answers) = mpsc::channel(ANSWERS_WAITING);
        // One that is not taken has a reader that is told so.
        let _ = self.blocks.send(Unanswered {
            block,
            reader,
            lost: BTreeSet::new(),
            losses: Losses::of(&self.function, self.hosts_lost_max),
        });
        reading(answers, self.function.clone())
    }
}

/// What the reader of a block gets, who is told `answers`.
pub(super) fn reading(answers: mpsc::Receiver<Part>, function: String) -> AnswerStream {
    stream::unfold(Some((answers, function)), |state| async {
        let (mut answers, function) = state?;
        match answers.recv().await {
            Some(Ok(Some(answer))) => Some((Ok(answer), Some((answers, function)))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Its Tokio runtime is going down, or it panicked.
            None => Some((Err(UdfError::ShuttingDown { function }), None)),
        }
    })
    .boxed()
}

/// Why a block is not answered.
pub(super) enum Stop {
    /// The way to its actor is lost, and its reader has heard nothing.
    Lost(UdfError),
    Failed(UdfError),
}

/// Feeds a lane.
struct Feeder {
    route: Arc<Route>,
    number: usize,
    /// Of the actor that it feeds now.
    generation: u64,
    /// What an actor has told last; `None`: it is as the constructor made it.
    snapshot: Option<Buffer>,
    /// Blocks answered after that.
    since: Vec<RecordBatch>,
    /// Those that are not answered, the oldest first.
    open: VecDeque<Unanswered>,
    /// Since when no actor has answered, once one was lost.
    missed_since: Option<Instant>,
}

impl Feeder {
    async fn run(mut self, mut given: mpsc::UnboundedReceiver<Unanswered>) {
        // The actor is not looked for before there is something for it.
        let Some(first) = given.recv().await else {
            return;
        };
        self.open.push_back(first);
        if let Err(error) = self.feed(&mut given).await {
            if let Some(failed) = self.open.pop_front() {
                let _ = failed.reader.send(Err(error)).await;
            }
            // Readers of the others shall hear that, not that they were cut off.
            std::future::pending::<()>().await;
        }
    }

    /// Feeds one actor after the other until no more blocks come.
    async fn feed(
        &mut self,
        given: &mut mpsc::UnboundedReceiver<Unanswered>,
    ) -> Result<(), UdfError> {
        let mut reason = String::new();
        loop {
            let host = self.find(&reason).await?;
            let error = match self.serve_by(&host, given).await {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Lost(error)) => error,
            };
            reason = error.to_string();
            self.missed_since.get_or_insert_with(Instant::now);
            let (executor, function) = (&host.executor_id, self.route.function());
            tracing::warn!(executor, function, %error, "a keyed actor is lost; another goes on from its state");
            self.route.count(self.open.len() as u64, 0);
            if let Some(first) = self.open.front_mut()
                && first.lost.insert((host.executor_id, host.part))
            {
                first.losses.add(error)?;
            }
        }
    }

    /// Where its actor is; waits for it where it is nowhere. `reason`: why it was lost.
    async fn find(&mut self, reason: &str) -> Result<PoolHost, UdfError> {
        if let (None, Some(host)) = (self.missed_since, self.route.host_of(self.number)) {
            return Ok(host);
        }
        let since = *self.missed_since.get_or_insert_with(Instant::now);
        let patience = self.route.line.patience;
        while since.elapsed() < patience {
            tokio::time::sleep(ASK_EVERY).await;
            self.route.ask().await?;
            if let Some(host) = self.route.host_of(self.number) {
                return Ok(host);
            }
        }
        Err(UdfError::NoActors {
            function: self.route.function(),
            reason: reason.to_owned(),
            waited: patience,
        })
    }

    /// Has the actor at `host` go on, until no more blocks come.
    async fn serve_by(
        &mut self,
        host: &PoolHost,
        given: &mut mpsc::UnboundedReceiver<Unanswered>,
    ) -> Result<(), Stop> {
        self.generation += 1;
        let way = LaneWay {
            lane: 0,
            generation: self.generation,
            snapshot: self.snapshot.clone(),
        };
        let actor = self.route.open(host, self.number, way).map_err(stop)?;
        self.catch_up(&actor).await?;
        let keep_bytes = self.route.line.keep_bytes;
        let ask = |unanswered: &Unanswered| -> BoxFuture<'static, Result<Option<Buffer>, Stop>> {
            let (actor, block) = (Arc::clone(&actor), unanswered.block.clone());
            let reader = unanswered.reader.clone();
            Box::pin(async move { answered(&actor, block, &reader, keep_bytes).await })
        };
        let mut asked: FuturesOrdered<_> = self.open.iter().map(&ask).collect();
        let mut is_over = false;
        while !(is_over && asked.is_empty()) {
            tokio::select! {
                biased;
                Some(told) = asked.next(), if !asked.is_empty() => {
                    let told = told?;
                    self.note(&actor, told);
                }
                next = given.recv(), if !is_over => match next {
                    Some(next) => {
                        asked.push_back(ask(&next));
                        self.open.push_back(next);
                    }
                    None => is_over = true,
                },
            }
        }
        Ok(())
    }

    /// Has `actor` see what was answered after the state that it has been given.
    async fn catch_up(&mut self, actor: &Arc<dyn UdfPool>) -> Result<(), Stop> {
        let mut seen = 0;
        while let Some(block) = self.since.get(seen) {
            let answers = actor.call(block.clone()).await.map_err(stop)?;
            let answers: Vec<Result<Answer, UdfError>> = answers.collect().await;
            self.route.count(0, 1);
            seen += 1;
            for answer in answers {
                // All else is out already.
                if let Answer::Snapshot(state) = answer.map_err(stop)? {
                    self.snapshot = Some(state);
                    self.since.drain(..seen);
                    seen = 0;
                }
            }
        }
        Ok(())
    }

    /// The oldest block is answered, and its actor has told its state, or not.
    fn note(&mut self, actor: &Arc<dyn UdfPool>, told: Option<Buffer>) {
        self.missed_since = None;
        let Some(Unanswered { block, .. }) = self.open.pop_front() else {
            return;
        };
        match told {
            Some(state) => {
                self.snapshot = Some(state);
                self.since.clear();
            }
            None if actor.keeps_state() => self.since.push(block),
            None => {}
        }
    }
}

/// Hands on what `actor` answers to `block`, from its end on, or from when it is too much to
/// be kept; the state that it tells.
pub(super) async fn answered(
    actor: &Arc<dyn UdfPool>,
    block: RecordBatch,
    reader: &mpsc::Sender<Part>,
    keep_bytes: usize,
) -> Result<Option<Buffer>, Stop> {
    let mut answers = actor.call(block).await.map_err(stop)?;
    let (mut held, mut held_bytes, mut passed_on, mut state) = (vec![], 0, false, None);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(Answer::Snapshot(told)) => state = Some(told),
            Ok(answer) => {
                if let Answer::Rows(rows) = &answer {
                    held_bytes += block_bytes(rows);
                }
                held.push(answer);
            }
            Err(error) if passed_on => return Err(Stop::Failed(error)),
            Err(error) => return Err(stop(error)),
        }
        if held_bytes >= keep_bytes {
            (passed_on, held_bytes) = (true, 0);
            give(reader, &mut held).await;
        }
    }
    give(reader, &mut held).await;
    let _ = reader.send(Ok(None)).await;
    Ok(state)
}

/// A reader that has gone loses nothing.
async fn give(reader: &mpsc::Sender<Part>, held: &mut Vec<Answer>) {
    for answer in held.drain(..) {
        let _ = reader.send(Ok(Some(answer))).await;
    }
}

pub(super) fn stop(error: UdfError) -> Stop {
    match is_loss(&error) {
        true => Stop::Lost(error),
        false => Stop::Failed(error),
    }
}
