//! Whose the state of a named actor is.
//!
//! At first it is kept here, beside the actor: by the process that queries are sent to, which
//! lives as long as its actors are known. Where an actor was placed, its caller there keeps
//! the state, and has it for one tenure after the other: each begins with the state that it
//! brings, and ends the process that had another.

use std::sync::Arc;

use arrow::buffer::Buffer;
use parking_lot::Mutex;

use super::keeper::Keeper;
use super::kept_states::KeptStates;
use crate::error::UdfError;

/// The state of a named actor.
#[derive(Debug)]
pub(crate) struct KeyedState {
    states: Arc<KeptStates>,
    now: Mutex<Tenure>,
}

#[derive(Debug)]
struct Tenure {
    /// Whose it is; 0: it is kept here.
    generation: u64,
    keeper: Arc<Keeper>,
}

impl KeyedState {
    /// As the constructor makes it.
    pub(crate) fn new(states: Arc<KeptStates>) -> Self {
        let share = KeptStates::share(&states);
        Self {
            states,
            now: Mutex::new(Tenure {
                generation: 0,
                keeper: Arc::new(Keeper::of_actor(None, 0, Some(share))),
            }),
        }
    }

    /// What is kept, for who has it now.
    pub(crate) fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.now.lock().keeper)
    }

    /// Whether more may be kept.
    pub(crate) fn check_room(&self, function: &str) -> Result<(), UdfError> {
        self.states.check(function)
    }

    /// Gives it to who comes as `generation` with what was told of it last: what is kept from
    /// here on, and whether what the actor has in it counts no more. `None` to who is late.
    pub(crate) fn begin(
        &self,
        generation: u64,
        snapshot: Option<Buffer>,
    ) -> Option<(Arc<Keeper>, bool)> {
        let mut now = self.now.lock();
        if generation < now.generation {
            return None;
        }
        let mut ends = false;
        if generation > now.generation {
            let last = now.keeper.revoke();
            ends = snapshot.is_some() || last > 0;
            now.keeper = Arc::new(Keeper::of_actor(snapshot, last + 1, None));
            now.generation = generation;
        }
        Some((Arc::clone(&now.keeper), ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_whose_generation_is_the_highest() {
        let state = KeyedState::new(KeptStates::new(10));
        let here = state.keeper();
        let begin = |generation, told| state.begin(generation, told).map(|(_, ends)| ends);
        assert_eq!(begin(2, None), Some(false));
        assert_eq!(begin(1, None), None);
        assert_eq!(begin(2, None), Some(false));
        assert!(here.pass_on(true).is_err());
        let (second, _) = state.begin(2, None).unwrap();
        second.pass_on(true).unwrap();
        assert_eq!(begin(3, None), Some(true));
        let told = Buffer::from_vec(b"state".to_vec());
        assert_eq!(begin(4, Some(told.clone())), Some(true));
        assert!(second.pass_on(true).is_err());
        assert_eq!(state.keeper().pass_on(true).unwrap().snapshot, Some(told));
    }
}
