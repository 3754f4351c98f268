//! Readers of a split beside one another: who gets what, who waits, and what ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::DataFusionError;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;

use super::*;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, false)]))
}

/// The numbers `from..to`.
fn block(from: i64, to: i64) -> RecordBatch {
    RecordBatch::try_new(
        schema(),
        vec![Arc::new(Int64Array::from_iter_values(from..to))],
    )
    .unwrap()
}

/// A split of blocks of these lengths, which fails behind them if `fails`; and how often its
/// query was started.
fn split(
    lengths: &'static [i64],
    readers: usize,
    dealing: Dealing,
    fails: bool,
) -> (Arc<Split>, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let open: Open = Box::new(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            let mut from = 0;
            let mut blocks: Vec<Result<RecordBatch>> = vec![];
            for length in lengths {
                blocks.push(Ok(block(from, from + length)));
                from += length;
            }
            if fails {
                blocks.push(Err(DataFusionError::Execution(
                    "the disk is gone".to_owned(),
                )));
            }
            let rows = RecordBatchStreamAdapter::new(schema(), stream::iter(blocks));
            Ok(Box::pin(rows) as _)
        })
    });
    let split = Split::new(
        "s".to_owned(),
        String::new(),
        readers,
        dealing,
        schema(),
        open,
    );
    (Arc::new(split), runs)
}

impl Reading {
    /// The next numbers; none at the end.
    async fn take(&self) -> Result<Vec<i64>> {
        let next = self.epoch.next(self.reader, &self.split.open);
        let next = tokio::time::timeout(Duration::from_secs(5), next);
        let block = match next.await.expect("nobody waits") {
            Some(block) => block?,
            None => return Ok(vec![]),
        };
        let numbers = block.column(0).as_any().downcast_ref::<Int64Array>();
        Ok(numbers.unwrap().values().to_vec())
    }

    /// All that there is for it from now on.
    async fn rest(&self) -> Result<Vec<i64>> {
        let mut all = vec![];
        loop {
            match self.take().await? {
                none if none.is_empty() => return Ok(all),
                some => all.extend(some),
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_up_nobody_and_each_row_comes_once() {
    let (split, runs) = split(&[3, 1, 4, 2], 2, Dealing::AsTheyCome, false);
    let slow = split.enter(1).unwrap();
    assert_eq!(slow.take().await.unwrap(), [0, 1, 2]);
    let quick = split.enter(0).unwrap();
    assert_eq!(quick.rest().await.unwrap(), (3..10).collect::<Vec<_>>());
    drop(quick);
    // The next epoch is another run, and the slow one has nothing to do with it.
    let again = split.enter(0).unwrap();
    assert_eq!(again.rest().await.unwrap().len(), 10);
    assert_eq!(slow.rest().await.unwrap(), [0; 0]);
    drop(slow);
    assert_eq!(split.enter(1).unwrap().rest().await.unwrap(), [0; 0]);
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    drop(again);
    assert!(split.state.lock().epochs.is_empty());
}

#[tokio::test]
async fn all_get_as_many_rows_in_turn() {
    let (split, _) = split(&[1, 4, 5, 1], 3, Dealing::Equal, false);
    let readers = [0, 1, 2].map(|reader| split.enter(reader).unwrap());
    let all = futures::future::join_all(readers.iter().map(Reading::rest));
    let mut all: Vec<_> = all.await.into_iter().map(Result::unwrap).collect();
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3]);
    let mut numbers: Vec<_> = all.drain(..).flatten().collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..9).collect::<Vec<_>>());
}

#[tokio::test]
async fn equal_readers_wait_for_one_another_but_not_for_one_that_has_left() {
    let (split, _) = split(&[2; 20], 2, Dealing::Equal, false);
    let (first, second) = (split.enter(0).unwrap(), split.enter(1).unwrap());
    for n in [0, 2, 4, 6] {
        assert_eq!(first.take().await.unwrap(), [n]);
    }
    let waits = tokio::time::timeout(Duration::from_millis(50), first.epoch.next(0, &split.open));
    waits.await.expect_err("it waits for the second one");
    assert_eq!(second.take().await.unwrap(), [1]);
    assert_eq!(first.take().await.unwrap(), [8]);
    drop(second);
    let rest: Vec<_> = (5..20).map(|n| 2 * n).collect();
    assert_eq!(first.rest().await.unwrap(), rest);
}

#[tokio::test]
async fn all_are_told_of_an_error_and_of_the_end() {
    for dealing in [Dealing::AsTheyCome, Dealing::Equal] {
        let (split, runs) = split(&[2], 2, dealing, true);
        let readers = [0, 1].map(|reader| split.enter(reader).unwrap());
        for reading in &readers {
            let told = reading.rest().await.unwrap_err().to_string();
            assert!(told.contains("the disk is gone"), "{told}");
        }
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }
    let splits = Splits::new(1);
    let (split, _) = split(&[1; 4], 2, Dealing::AsTheyCome, false);
    let reading = split.enter(0).unwrap();
    let named = Split::new(
        "t".to_owned(),
        String::new(),
        1,
        Dealing::Equal,
        schema(),
        Box::new(|| Box::pin(futures::future::pending())),
    );
    splits.add(named).unwrap();
    let waiting = splits.get("t").unwrap().enter(0).unwrap();
    let (told, ()) = futures::join!(waiting.take(), async {
        tokio::task::yield_now().await;
        assert!(splits.remove("t") && !splits.remove("t"));
    });
    assert!(told.unwrap_err().to_string().contains("was dropped"));
    split.end();
    assert!(reading.take().await.is_err());
    assert!(matches!(
        split.enter(1).unwrap_err(),
        ExecutionError::SplitGone { .. }
    ));
}
