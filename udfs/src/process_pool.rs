//! A [`UdfPool`] of worker processes.
//!
//! The pool of one call in one task has a crew of its own (`crew`); with one actor,
//! blocks reach it in the order of the calls. Where all that the pool may have are at
//! work, on blocks that take them so short a time that the way counts, the next block
//! goes ahead to one of them, and its call gets that worker when it comes free. What
//! is at work when the pool goes finishes for whoever still reads it, and then ends too.

use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, StreamExt};
use mobula_block::plain::{block_as, plain_block};
use tokio::sync::mpsc;

use crate::block_id::{BlockId, as_named};
use crate::block_run::{Place, run};
use crate::call::UdfCall;
use crate::crew::{Claim, Crew, Lease, Vacancy};
use crate::error::UdfError;
use crate::exchange::{Counters, Part};
use crate::keyed::{Keeper, resume};
use crate::manager::{TimeLimit, WorkerManager};
use crate::order::CallOrder;
use crate::pool::{Answer, AnswerStream, PoolStats, UdfPool};
use crate::resources::Share;
use crate::roster::Want;
use crate::spawn::{OwnedTask, spawn_named};
use crate::turns::Turn;

/// Outputs that may wait for their reader.
pub(crate) const PARTS_WAITING: usize = 2;

/// The workers of one call in one task.
#[derive(Debug)]
pub(crate) struct ProcessPool {
    call: Arc<CallOn>,
    concurrency: usize,
    /// Whether the crew ends with it.
    owns_crew: bool,
}

/// One call on the workers of a crew: what its blocks need, also after its pool is
/// gone.
#[derive(Debug)]
pub(crate) struct CallOn {
    pub(crate) crew: Arc<Crew>,
    pub(crate) order: Arc<CallOrder>,
    pub(crate) counters: Counters,
    /// As who its blocks stand in line.
    pub(crate) turn: Turn,
    /// What is kept beside the one actor of a keyed call.
    pub(crate) keeper: Option<Arc<Keeper>>,
}

impl ProcessPool {
    pub(crate) fn new(manager: Arc<WorkerManager>, order: CallOrder, concurrency: usize) -> Self {
        let concurrency = concurrency.max(1);
        let least = order.call.handling.min_workers.unwrap_or(concurrency);
        let least = least.clamp(1, concurrency);
        let crew = Self::crew(manager, &order.call, [least, concurrency], least);
        Self {
            call: CallOn::new(crew, order),
            concurrency,
            owns_crew: true,
        }
    }

    /// Calls of `order` on a crew that others call as well.
    pub(crate) fn on(crew: Arc<Crew>, order: CallOrder, concurrency: usize) -> Self {
        Self {
            call: CallOn::new(crew, order),
            concurrency,
            owns_crew: false,
        }
    }

    /// The one actor of `call`'s crew, which ends with who else has that.
    pub(crate) fn of(call: Arc<CallOn>) -> Self {
        Self {
            call,
            concurrency: 1,
            owns_crew: false,
        }
    }

    /// A crew for `call`, with `least` workers at first and at `most` so many, of which
    /// `claimed` have what they ask for from the query's claim.
    pub(crate) fn crew(
        manager: Arc<WorkerManager>,
        call: &UdfCall,
        [least, most]: [usize; 2],
        claimed: usize,
    ) -> Arc<Crew> {
        let demand = &call.handling.demand;
        let share = Share::new(&call.query, demand, claimed);
        // Workers stay with their crew: they have state, or resources.
        let stay = call.spec.object.is_class() || demand.takes_resources();
        let want = match (stay, call.spec.is_table()) {
            (true, _) => Want::Actor,
            (false, true) => Want::TableCall,
            (false, false) => Want::ScalarCall,
        };
        let growth = most.saturating_sub(least);
        Crew::new(manager, want, Some(share), None, [least, growth])
    }
}

#[async_trait]
impl UdfPool for ProcessPool {
    async fn call(&self, block: RecordBatch) -> Result<AnswerStream, UdfError> {
        self.call_each(vec![block]).await
    }

    async fn call_each(&self, blocks: Vec<RecordBatch>) -> Result<AnswerStream, UdfError> {
        let blocks = self.call.as_sent(blocks)?;
        if blocks.is_empty() {
            return Ok(self.call.answer_to_nothing());
        }
        let place = Place::wait(&self.call, &blocks, false).await?;
        let (parts, reader) = mpsc::channel(PARTS_WAITING * blocks.len());
        let task = run(Arc::clone(&self.call), place, blocks, parts);
        let task = spawn_named("udf-call", task);
        let function = self.call.function();
        let cut_off = UdfError::ShuttingDown { function };
        Ok(stream_of(reader, Some(task), cut_off))
    }

    fn train(&self) -> usize {
        self.call.counters.mean.train()
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }

    fn was_ready(&self) -> bool {
        self.call.crew.load().is_ready
    }

    fn keeps_state(&self) -> bool {
        self.call
            .keeper
            .as_ref()
            .is_some_and(|keeper| keeper.keeps_state())
    }

    fn stats(&self) -> PoolStats {
        self.call.counters.stats()
    }
}

impl Drop for ProcessPool {
    fn drop(&mut self) {
        if self.owns_crew {
            self.call.crew.close();
        }
    }
}

impl CallOn {
    pub(crate) fn new(crew: Arc<Crew>, order: CallOrder) -> Arc<Self> {
        let keyed = order.call.handling.keyed;
        let keeper = keyed.map(|_| Arc::new(Keeper::default()));
        Self::with_keeper(crew, order, keeper)
    }

    /// The same, with what is kept beside its actor.
    pub(crate) fn with_keeper(
        crew: Arc<Crew>,
        order: CallOrder,
        keeper: Option<Arc<Keeper>>,
    ) -> Arc<Self> {
        // A single actor promises to take calls as they come.
        let hosted = crew.hosted.as_ref();
        let shares = hosted.is_none_or(|hosted| hosted.spec.pool.is_some());
        Arc::new(Self {
            turn: Turn::of(&order.call, shares),
            crew,
            keeper,
            order: Arc::new(order),
            counters: Counters::default(),
        })
    }

    pub(crate) fn function(&self) -> String {
        self.order.function().to_owned()
    }

    /// A scalar function of no rows has no values, a table function no rows.
    pub(crate) fn answer_to_nothing(&self) -> AnswerStream {
        let output = &self.order.call.output;
        match self.order.call.spec.is_table() {
            true => stream::empty().boxed(),
            false => {
                let empty = RecordBatch::new_empty(Arc::clone(output));
                stream::once(async { Ok(Answer::Rows(empty)) }).boxed()
            }
        }
    }

    /// `blocks` as workers get them, but for those without rows.
    pub(crate) fn as_sent(&self, blocks: Vec<RecordBatch>) -> Result<Vec<RecordBatch>, UdfError> {
        let some = blocks.into_iter().filter(|block| block.num_rows() > 0);
        some.map(|block| self.one_as_sent(block)).collect()
    }

    /// The same of one block.
    pub(crate) fn one_as_sent(&self, block: RecordBatch) -> Result<RecordBatch, UdfError> {
        let id = BlockId::of(&block);
        plain_block(block)
            .and_then(|block| block_as(block, &self.order.input))
            .map(|block| as_named(id, block))
            .map_err(|source| UdfError::Block {
                function: self.function(),
                source,
            })
    }

    pub(crate) fn claim(&self) -> Claim<'_> {
        Claim {
            function: self.order.function(),
            order: Some(self.order.as_ref()),
            limit: self.init_limit(),
            counters: &self.counters,
        }
    }

    /// For getting a worker ready.
    pub(crate) fn init_limit(&self) -> TimeLimit {
        let own = self.order.call.handling.init_timeout;
        self.crew.manager.init_limit_of(own)
    }

    /// A worker with the call loaded, and with the state of who had its lane before.
    pub(crate) async fn lease(&self, vacancy: Vacancy) -> Result<Lease, UdfError> {
        let lease = self.lease_any(vacancy).await?;
        match &self.keeper {
            Some(keeper) => resume(self, keeper, lease).await,
            None => Ok(lease),
        }
    }

    /// A worker with the call loaded.
    pub(crate) async fn lease_any(&self, vacancy: Vacancy) -> Result<Lease, UdfError> {
        self.crew.lease(vacancy, &self.claim()).await
    }

    /// Makes a worker ready in place of one that was lost; blocks go to others meanwhile.
    pub(crate) fn replace(call: &Arc<Self>, vacancy: Vacancy) {
        let shared = Arc::clone(call);
        let task = spawn_named("udf-replace", async move {
            match shared.lease(vacancy).await {
                Ok(lease) => lease.end(),
                Err(error) => {
                    let function = shared.order.function();
                    tracing::warn!(%error, function, "a lost worker is replaced when a block needs it");
                }
            }
        });
        call.crew.replace_by(task);
    }

    /// Makes one more worker ready; no block waits for it meanwhile.
    pub(crate) fn grow(call: &Arc<Self>) {
        let shared = Arc::clone(call);
        let task = spawn_named("udf-grow", async move {
            let made = shared.crew.newcomer(&shared.claim()).await;
            if let Err(error) = &made {
                let function = shared.order.function();
                tracing::warn!(%error, function, "the workers there are go on without one more");
            }
            shared.crew.line.grown(made.is_ok());
            shared.crew.watch_idle();
        });
        *call.crew.grower.lock() = Some(task);
    }
}

/// What the reader sees. It owns the call's task, if it gets it: dropped, it ends it.
/// `cut_off`: what it says if the task is gone without a word.
pub(crate) fn stream_of(
    reader: mpsc::Receiver<Result<Part, UdfError>>,
    task: Option<OwnedTask>,
    cut_off: UdfError,
) -> AnswerStream {
    let state = Some((reader, task, cut_off));
    stream::unfold(state, |state| async {
        let (mut reader, task, cut_off) = state?;
        match reader.recv().await {
            Some(Ok(Part::Answer(answer))) => Some((Ok(answer), Some((reader, task, cut_off)))),
            Some(Ok(Part::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            // Its Tokio runtime is going down, or it panicked.
            None => Some((Err(cut_off), None)),
        }
    })
    .boxed()
}
