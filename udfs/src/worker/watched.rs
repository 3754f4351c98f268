//! Waiting for a worker: until it ends, or its time is up.

use std::future::Future;
use std::pin::pin;

use tokio::time::Instant;

use super::{LINGER, Stop};
use crate::channel::ChannelError;
use crate::process::Process;

/// `io`, unless the process ends or time runs out first. Someone else may hold
/// the socket open, so its end is watched as well as the socket's.
pub(super) async fn watched<T>(
    process: &Process,
    deadline: Option<Instant>,
    io: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, Stop> {
    watched_until(process, passed(deadline), io).await
}

/// Waits for `deadline`; for ever without one.
pub(super) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The same, where time is up when `expired` completes.
pub(super) async fn watched_until<T>(
    process: &Process,
    expired: impl Future<Output = ()>,
    io: impl Future<Output = Result<T, ChannelError>>,
) -> Result<T, Stop> {
    let mut io = pin!(io);
    tokio::select! {
        biased;
        done = &mut io => done.map_err(Stop::Channel),
        _ = process.ended() => {
            // What it said before it ended still counts.
            let last = tokio::time::timeout(LINGER, io).await;
            last.unwrap_or(Err(ChannelError::Closed)).map_err(Stop::Channel)
        }
        () = expired => Err(Stop::TimedOut),
    }
}
