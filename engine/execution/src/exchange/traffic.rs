//! Running totals of one process: what it sent, fetched and started.
//!
//! Counters only grow (but `streams`, which counts what is open), are read
//! without locks, and travel to the coordinator with each heartbeat.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_flight::FlightData;
use mobula_proto::cluster::ExecutorLoad;

/// Shared by everything in a process that moves blocks.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
    streams: AtomicU64,
    tasks_started: AtomicU64,
}

impl Traffic {
    /// Counts a message that `DoGet` hands to the transport.
    pub fn sent(&self, data: &FlightData) {
        self.bytes_sent
            .fetch_add(encoded_bytes(data), Ordering::Relaxed);
    }

    /// Counts a message fetched from a peer; its bytes.
    pub fn received(&self, data: &FlightData) -> u64 {
        let bytes = encoded_bytes(data);
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
        bytes
    }

    /// Counts a task whose plan arrived.
    pub fn task_started(&self) {
        self.tasks_started.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a stream as open until the returned value is dropped.
    pub fn open_stream(self: &Arc<Self>) -> OpenStream {
        self.streams.fetch_add(1, Ordering::Relaxed);
        OpenStream(Arc::clone(self))
    }

    /// The totals now. `workers` is known to the caller only.
    pub fn load(&self, workers: u64) -> ExecutorLoad {
        ExecutorLoad {
            bytes_sent: self.bytes_sent.load(Ordering::Relaxed),
            bytes_received: self.bytes_received.load(Ordering::Relaxed),
            streams: self.streams.load(Ordering::Relaxed),
            tasks_started: self.tasks_started.load(Ordering::Relaxed),
            workers,
            free: None,
        }
    }
}

/// Keeps one stream counted as open.
#[derive(Debug)]
pub struct OpenStream(Arc<Traffic>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Encoded size: Arrow header, metadata and body; gRPC adds a few bytes more.
fn encoded_bytes(data: &FlightData) -> u64 {
    (data.data_header.len() + data.app_metadata.len() + data.data_body.len()) as u64
}
