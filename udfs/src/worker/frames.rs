//! The words of a worker that has several blocks at a time, in the order it says them.
//!
//! Used by `async_calls`, which knows what each is about.

use std::pin::pin;

use tokio::time::Instant;

use super::{Deadline, LINGER, Stop, Worker};
use crate::channel::ChannelError;
use crate::error::UdfError;
use crate::protocol::{Failure, Frame};

impl Worker {
    /// The next word, whatever it is about. `stuck_at`: when the worker counts as stuck,
    /// if it says nothing before; asked again then, for that may have changed.
    ///
    /// # Errors
    /// Why there is none; the process is ended then.
    pub(crate) async fn next_frame(
        &mut self,
        function: &str,
        stuck_at: impl Fn() -> Option<Instant>,
        deadline: Deadline,
    ) -> Result<Frame, UdfError> {
        let stop = {
            let process = &self.process;
            let mut receive = pin!(self.channel.receive());
            loop {
                let until = stuck_at();
                let expired = async {
                    match until {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    frame = &mut receive => match frame {
                        Ok(frame) => return Ok(frame),
                        Err(error) => break Stop::Channel(error),
                    },
                    _ = process.ended() => {
                        // What it said before it ended still counts.
                        match tokio::time::timeout(LINGER, receive).await {
                            Ok(Ok(frame)) => return Ok(frame),
                            Ok(Err(error)) => break Stop::Channel(error),
                            Err(_) => break Stop::Channel(ChannelError::Closed),
                        }
                    }
                    () = expired => {
                        if stuck_at().is_some_and(|at| at <= Instant::now()) {
                            break Stop::TimedOut;
                        }
                    }
                }
            }
        };
        Err(self.explain(stop, function, deadline).await)
    }

    /// What an ERROR says.
    pub(crate) fn failure(&self, frame: &Frame, function: &str) -> UdfError {
        match self.read::<Failure>(frame, function) {
            Ok(failure) => self.failed(function, failure),
            Err(error) => error,
        }
    }

    /// As for any other that says what nobody asked for; it is ended.
    pub(crate) async fn lost_by(&self, function: &str, problem: &str) -> UdfError {
        self.lost_by_noise(function, problem).await
    }
}
