//! Whether the coordinator answers an executor, for those who look after it.
//!
//! Told by the line to the coordinator with each call of it, at least one a heartbeat.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// What is known of the coordinator.
#[derive(Debug, Default)]
pub struct Contact {
    /// Since when it does not answer, and what the last call met with.
    silent: Mutex<Option<(Instant, String)>>,
}

impl Contact {
    /// It has answered.
    pub(super) fn heard(&self) {
        *self.silent.lock() = None;
    }

    /// It has not, for `reason`.
    pub(super) fn missed(&self, reason: &str) {
        let mut silent = self.silent.lock();
        let since = silent.as_ref().map_or_else(Instant::now, |(at, _)| *at);
        *silent = Some((since, reason.to_owned()));
    }

    /// For how long it has not answered, and why; `None`: it does.
    pub fn silent(&self) -> Option<(Duration, String)> {
        let silent = self.silent.lock();
        let silent = silent.as_ref();
        silent.map(|(since, reason)| (since.elapsed(), reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_begins_with_the_first_call_that_fails() {
        let contact = Contact::default();
        assert!(contact.silent().is_none());
        contact.missed("gone");
        std::thread::sleep(Duration::from_millis(5));
        contact.missed("still gone");
        let (since, reason) = contact.silent().unwrap();
        assert!(since >= Duration::from_millis(5) && reason == "still gone");
        contact.heard();
        assert!(contact.silent().is_none());
    }
}
