//! Who is next in the line for resources: pure.
//!
//! Who came first is served first. One may pass another only by asking for nothing that
//! the other one waits with: a query of cores passes one that waits for a GPU, and a
//! second query of GPUs, however small, does not, or the first might wait for ever.

use std::collections::BTreeSet;
use std::time::Instant;

use super::demand::{Class, Demand};
use super::free::Free;

/// One that waits.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub query: String,
    pub demands: Vec<Demand>,
    pub since: Instant,
    /// How many that came before it are in its way.
    pub ahead: usize,
}

/// The place in `line` of who is to be served now.
pub(super) fn next<'a>(free: &Free, line: impl Iterator<Item = &'a [Demand]>) -> Option<usize> {
    let mut blocked = BTreeSet::new();
    for (place, demands) in line.enumerate() {
        let wanted = classes(demands);
        if wanted.is_disjoint(&blocked) && free.clone().take_all(demands).is_some() {
            return Some(place);
        }
        blocked.extend(wanted);
    }
    None
}

/// What `demands` take some of.
pub fn classes(demands: &[Demand]) -> BTreeSet<Class<'_>> {
    demands.iter().flat_map(Demand::classes).collect()
}

#[cfg(test)]
mod tests {
    use super::super::amount::Amount;
    use super::super::capacity::Capacity;
    use super::*;

    fn demand(cpus: usize, gpus: usize) -> Demand {
        let some = |n: usize| (n > 0).then(|| Amount::whole(n));
        Demand {
            cpus: some(cpus),
            gpus: some(gpus),
            ..Demand::default()
        }
    }

    #[test]
    fn who_came_first_is_served_first_but_not_for_what_it_does_not_want() {
        let free = Free::all_of(&Capacity {
            cpus: Amount::whole(4),
            gpu_ids: vec!["a".into()],
            ..Capacity::default()
        });
        let next = |line: &[Vec<Demand>]| next(&free, line.iter().map(Vec::as_slice));
        let (two_gpus, gpu, core) = (demand(0, 2), demand(0, 1), demand(1, 0));
        assert_eq!(next(&[]), None);
        assert_eq!(next(&[vec![gpu.clone()], vec![core.clone()]]), Some(0));
        // One GPU is free, but who waits for two was here before.
        assert_eq!(next(&[vec![two_gpus.clone()], vec![gpu.clone()]]), None);
        assert_eq!(next(&[vec![two_gpus.clone()], vec![core.clone()]]), Some(1));
        let gpus_and_cores = vec![vec![demand(1, 2)], vec![core]];
        assert_eq!(next(&gpus_and_cores), None);
        // All of one query's demands, or none.
        assert_eq!(next(&[vec![gpu.clone(), gpu.clone()]]), None);
        let third = [vec![two_gpus], vec![demand(9, 0)], vec![demand(0, 0)]];
        assert_eq!(next(&third), Some(2));
    }
}
