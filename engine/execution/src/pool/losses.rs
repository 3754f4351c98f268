//! The hosts that were lost with one block on its way: when it is to blame.
//!
//! A host that goes while its actors are still being built has begun no block, so that says
//! little of the block: four times as many of those are let pass.

use mobula_udfs::UdfError;

/// How many hosts that were still building count as one.
const BUILDING_PER_LOSS: u32 = 4;

/// The losses of one block.
#[derive(Debug)]
pub(super) struct Losses {
    function: String,
    most: u32,
    /// Of hosts with actors that were ready, and of others.
    ready: u32,
    building: u32,
}

impl Losses {
    /// None yet, of `most`.
    pub(super) fn of(function: &str, most: u32) -> Self {
        Self {
            function: function.to_owned(),
            most,
            ready: 0,
            building: 0,
        }
    }

    /// A host is lost, so the way to it says.
    ///
    /// # Errors
    /// [`UdfError::HostsLost`] when the block is to be given to no other.
    pub(super) fn add(&mut self, error: UdfError) -> Result<(), UdfError> {
        let was_ready = match error {
            UdfError::PoolUnreachable { was_ready, .. } => was_ready,
            _ => true,
        };
        match was_ready {
            true => self.ready += 1,
            false => self.building += 1,
        }
        let building = self.building / BUILDING_PER_LOSS;
        if self.ready + building < self.most {
            return Ok(());
        }
        Err(UdfError::HostsLost {
            function: self.function.clone(),
            lost: self.ready + self.building,
            building: self.building,
            last: Box::new(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(was_ready: bool) -> UdfError {
        UdfError::PoolUnreachable {
            function: "f".to_owned(),
            place: "http://there".to_owned(),
            reason: "it is closed".to_owned(),
            was_ready,
        }
    }

    #[test]
    fn three_hosts_that_had_begun_are_enough() {
        let mut losses = Losses::of("f", 3);
        losses.add(lost(true)).unwrap();
        losses.add(lost(true)).unwrap();
        let told = losses.add(lost(true)).unwrap_err().to_string();
        let begin =
            "\"f\" has lost 3 hosts of its actors with the same block on its way, 0 of them";
        assert!(told.starts_with(begin), "{told}");
        assert!(told.contains("`udf_hosts_lost_max`"), "{told}");
        assert!(
            told.contains("http://there cannot be reached: it is closed"),
            "{told}"
        );
    }

    #[test]
    fn those_that_were_building_count_a_quarter() {
        let mut losses = Losses::of("f", 3);
        losses.add(lost(true)).unwrap();
        for _ in 0..7 {
            losses.add(lost(false)).unwrap();
        }
        let told = losses.add(lost(false)).unwrap_err();
        assert!(
            matches!(
                told,
                UdfError::HostsLost {
                    lost: 9,
                    building: 8,
                    ..
                }
            ),
            "{told}"
        );
        let told = Losses::of("f", 1).add(lost(true)).unwrap_err();
        assert!(
            matches!(told, UdfError::HostsLost { lost: 1, .. }),
            "{told}"
        );
    }
}
