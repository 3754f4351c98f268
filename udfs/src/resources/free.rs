//! What of a process's resources nobody has taken: pure.
//!
//! GPUs as in Ray: less than one is a share of one device, of the fullest that has it
//! left, so that whole ones stay whole; one or more are devices that nobody shares.

use std::collections::BTreeMap;

use super::amount::Amount;
use super::capacity::Capacity;
use super::demand::Demand;

/// What is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Free {
    pub cpus: Amount,
    /// What is left of each GPU, by id.
    pub gpus: Vec<(String, Amount)>,
    pub memory_bytes: u64,
    pub custom: BTreeMap<String, Amount>,
}

/// What was taken of which GPU, by its place in [`Free::gpus`].
pub(super) type Shares = Vec<(usize, Amount)>;

/// What one worker took of a [`Free`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    demand: Demand,
    shares: Shares,
}

impl Taken {
    /// What it was asked for.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }
}

impl Free {
    /// As much as `demand` asks for, if there is.
    pub fn try_take(&mut self, demand: &Demand) -> Option<Taken> {
        let shares = self.take(demand)?;
        let demand = demand.clone();
        Some(Taken { demand, shares })
    }

    /// Gives back what [`Self::try_take`] took.
    pub fn put_back(&mut self, taken: &Taken) {
        self.give(&taken.demand, &taken.shares);
    }

    /// Everything, nobody having taken any.
    pub fn all_of(capacity: &Capacity) -> Self {
        let gpus = capacity.gpu_ids.iter();
        Self {
            cpus: capacity.cpus,
            gpus: gpus.map(|id| (id.clone(), Amount::ONE)).collect(),
            memory_bytes: capacity.memory_bytes,
            custom: capacity.custom.clone(),
        }
    }

    /// What is left of all GPUs together.
    pub fn gpus_sum(&self) -> Amount {
        let left = self.gpus.iter().map(|(_, left)| *left);
        left.fold(Amount::ZERO, Amount::plus)
    }

    /// Takes what `demand` asks for, or nothing.
    pub(super) fn take(&mut self, demand: &Demand) -> Option<Shares> {
        let cpus = self.cpus.checked_sub(demand.cpus_taken())?;
        let memory_bytes = self.memory_bytes.checked_sub(demand.memory_taken())?;
        let mut custom = self.custom.clone();
        for (name, amount) in &demand.custom {
            let left = custom.get_mut(name)?;
            *left = left.checked_sub(*amount)?;
        }
        let shares = self.gpus_for(demand.gpus_taken())?;
        for (place, share) in &shares {
            let (_, left) = self.gpus.get_mut(*place)?;
            *left = left.checked_sub(*share)?;
        }
        (self.cpus, self.memory_bytes, self.custom) = (cpus, memory_bytes, custom);
        Some(shares)
    }

    /// Takes what all of `demands` ask for, or nothing; in their order.
    pub(super) fn take_all(&mut self, demands: &[Demand]) -> Option<Vec<Shares>> {
        let mut order: Vec<_> = (0..demands.len()).collect();
        // Whole devices before shares, large before small: less is left over.
        let gpus = |at: usize| demands.get(at).map(Demand::gpus_taken);
        order.sort_by_key(|at| std::cmp::Reverse(gpus(*at)));
        let mut after = self.clone();
        let mut taken = vec![Shares::new(); demands.len()];
        for at in order {
            *taken.get_mut(at)? = after.take(demands.get(at)?)?;
        }
        *self = after;
        Some(taken)
    }

    /// Gives back what [`Self::take`] took.
    pub(super) fn give(&mut self, demand: &Demand, shares: &Shares) {
        self.cpus = self.cpus.plus(demand.cpus_taken());
        self.memory_bytes += demand.memory_taken();
        for (name, amount) in &demand.custom {
            if let Some(left) = self.custom.get_mut(name) {
                *left = left.plus(*amount);
            }
        }
        for (place, share) in shares {
            if let Some((_, left)) = self.gpus.get_mut(*place) {
                *left = left.plus(*share);
            }
        }
    }

    fn gpus_for(&self, wanted: Amount) -> Option<Shares> {
        if wanted.is_zero() {
            return Some(vec![]);
        }
        let places = self.gpus.iter().enumerate();
        if wanted < Amount::ONE {
            let has_room = places.filter(|(_, (_, left))| *left >= wanted);
            let (place, _) = has_room.min_by_key(|(_, (_, left))| *left)?;
            return Some(vec![(place, wanted)]);
        }
        let whole = places.filter(|(_, (_, left))| *left == Amount::ONE);
        let whole = whole.map(|(place, _)| (place, Amount::ONE));
        let shares: Shares = whole.take(wanted.floor()).collect();
        (shares.len() == wanted.floor()).then_some(shares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_gpus() -> Free {
        Free::all_of(&Capacity {
            gpu_ids: vec!["a".into(), "b".into()],
            ..Capacity::default()
        })
    }

    fn gpus(milli: u64) -> Demand {
        Demand {
            gpus: Some(Amount::from_milli(milli)),
            ..Demand::default()
        }
    }

    fn taken(free: &mut Free, milli: u64) -> Option<Vec<usize>> {
        let shares = free.take(&gpus(milli))?;
        Some(shares.iter().map(|(place, _)| *place).collect())
    }

    #[test]
    fn shares_of_a_gpu_fill_one_before_the_next() {
        let mut free = two_gpus();
        assert_eq!(taken(&mut free, 500), Some(vec![0]));
        assert_eq!(taken(&mut free, 300), Some(vec![0]));
        assert_eq!(taken(&mut free, 300), Some(vec![1]));
        // The fullest that has it left.
        assert_eq!(taken(&mut free, 200), Some(vec![0]));
        assert_eq!(taken(&mut free, 800), None);
        assert_eq!(taken(&mut free, 700), Some(vec![1]));
        assert_eq!(free.gpus_sum(), Amount::ZERO);
    }

    #[test]
    fn whole_gpus_are_not_shared() {
        let mut free = two_gpus();
        assert_eq!(taken(&mut free, 100), Some(vec![0]));
        assert_eq!(taken(&mut free, 1000), Some(vec![1]));
        assert_eq!(taken(&mut free, 1000), None);
        assert_eq!(taken(&mut two_gpus(), 2000), Some(vec![0, 1]));
        assert_eq!(taken(&mut two_gpus(), 3000), None);
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut free = two_gpus();
        free.cpus = Amount::ONE;
        let before = free.clone();
        let demand = Demand {
            cpus: Some(Amount::ONE),
            custom: [("fpga".to_owned(), Amount::ONE)].into(),
            ..gpus(1000)
        };
        assert_eq!(free.take(&demand), None);
        assert_eq!(free.take_all(&[gpus(1000), gpus(1000), gpus(100)]), None);
        assert_eq!(free, before);
        // A share that comes first does not break up the last whole device.
        let all = free.take_all(&[gpus(500), gpus(1000), gpus(500)]).unwrap();
        assert_eq!(all[1], [(0, Amount::ONE)]);
        assert_eq!(all[0], all[2]);
    }
}
