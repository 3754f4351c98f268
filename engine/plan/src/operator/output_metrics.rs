//! What an operator of ours has given out, as DataFusion's own count it, but for bytes.
//!
//! `BaselineMetrics` of DataFusion counts the whole memory behind each batch. Ours give out
//! slices of larger batches, each of which would count for all of it.

use std::task::Poll;

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::physical_plan::metrics::{
    Count, ExecutionPlanMetricsSet, MetricBuilder, MetricType, Time, Timestamp,
};
use mobula_block::size::block_bytes;

/// The output of one partition; its end is noted when it is dropped, if not before.
#[derive(Debug)]
pub(crate) struct OutputMetrics {
    elapsed_compute: Time,
    rows: Count,
    bytes: Count,
    batches: Count,
    end: Timestamp,
}

impl OutputMetrics {
    /// Of `partition`, which starts now.
    pub(crate) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        MetricBuilder::new(metrics)
            .start_timestamp(partition)
            .record();
        let summary = || MetricBuilder::new(metrics).with_type(MetricType::Summary);
        let dev = || MetricBuilder::new(metrics).with_type(MetricType::Dev);
        Self {
            end: summary().end_timestamp(partition),
            elapsed_compute: summary().elapsed_compute(partition),
            rows: summary().output_rows(partition),
            bytes: summary().output_bytes(partition),
            batches: dev().output_batches(partition),
        }
    }

    /// Where the operator's own time is counted.
    pub(crate) fn elapsed_compute(&self) -> &Time {
        &self.elapsed_compute
    }

    /// Counts what a stream gives out, and passes it on.
    pub(crate) fn record_poll(
        &self,
        polled: Poll<Option<Result<RecordBatch>>>,
    ) -> Poll<Option<Result<RecordBatch>>> {
        match &polled {
            Poll::Ready(Some(Ok(batch))) => {
                self.rows.add(batch.num_rows());
                self.bytes.add(block_bytes(batch));
                self.batches.add(1);
            }
            Poll::Ready(_) => self.end.record(),
            Poll::Pending => {}
        }
        polled
    }
}

impl Drop for OutputMetrics {
    fn drop(&mut self) {
        if self.end.value().is_none() {
            self.end.record();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};

    use super::*;

    #[test]
    fn a_slice_counts_for_what_it_is() {
        let set = ExecutionPlanMetricsSet::new();
        let metrics = OutputMetrics::new(&set, 0);
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let all = RecordBatch::try_from_iter([("x", column)]).unwrap();
        for row in 0..1000 {
            let polled = metrics.record_poll(Poll::Ready(Some(Ok(all.slice(row, 1)))));
            assert!(matches!(polled, Poll::Ready(Some(Ok(_)))));
        }
        drop(metrics);
        let found = set.clone_inner();
        let value = |name: &str| {
            let mut all = found.iter().map(|metric| metric.value());
            all.find(|value| value.name() == name)
                .map(|value| value.as_usize())
        };
        assert_eq!(value("output_rows"), Some(1000));
        assert_eq!(value("output_bytes"), Some(8000));
        assert_eq!(value("output_batches"), Some(1000));
    }
}
