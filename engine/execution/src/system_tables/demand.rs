//! `system.demand`: what would start if there were room, for who can add executors.
//!
//! A row for each kind of resource that somebody waits for: queries in line, actors and pools
//! whose CREATE waits, pools that would be larger, those of running queries among them, and
//! actors that have lost their executor.
//! What more room of that kind would let start is in `amount` and `actors`; where it is not
//! the only one that is missing, the other kinds have rows as well.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_udfs::Demand;

use super::columns::{amounts, counts, texts, times};
use super::{Rows, TIME, Table};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "demand",
    columns: &[
        ("resource", DataType::Utf8),
        ("amount", DataType::Float64),
        ("actors", DataType::UInt64),
        ("waiting", DataType::UInt64),
        ("since", TIME),
        ("who", DataType::Utf8),
    ],
    rows: Rows::Here(demand),
};

/// Somebody who waits for room.
#[derive(Debug, Clone)]
struct Wish {
    who: String,
    /// Of each actor that would start.
    demand: Demand,
    actors: usize,
    since: Instant,
}

/// What is missing of one kind.
#[derive(Debug, Clone, PartialEq)]
struct Missing {
    amount: f64,
    actors: usize,
    who: BTreeSet<String>,
    since: Instant,
}

fn demand(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let missing = by_resource(wishes(engine));
    let (now, system_now) = (Instant::now(), SystemTime::now());
    let since = missing.values().map(|missing| {
        let at = system_now.checked_sub(now.saturating_duration_since(missing.since));
        let at = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        at.map_or(0, |at| at.as_millis() as i64)
    });
    let who = missing.values().map(|missing| {
        let names = missing.who.iter().map(String::as_str);
        names.collect::<Vec<_>>().join(", ")
    });
    vec![
        texts(missing.keys()),
        amounts(missing.values().map(|missing| missing.amount)),
        counts(missing.values().map(|missing| missing.actors as u64)),
        counts(missing.values().map(|missing| missing.who.len() as u64)),
        times(since),
        texts(who),
    ]
}

fn wishes(engine: &Engine) -> Vec<Wish> {
    let waiting = engine.waiting().into_iter().flat_map(|waiting| {
        let (who, since) = (waiting.query, waiting.since);
        let each = waiting.demands.into_iter();
        each.map(move |demand| Wish {
            who: who.clone(),
            demand,
            actors: 1,
            since,
        })
    });
    let short = engine.short().into_iter().map(|short| Wish {
        who: short.claim,
        demand: short.demand,
        actors: short.actors,
        since: short.since,
    });
    let lost = engine.lost().into_iter().map(|lost| Wish {
        who: lost.query,
        demand: lost.demand,
        actors: lost.actors,
        since: lost.since,
    });
    waiting.chain(short).chain(lost).collect()
}

/// Sums over all of `wishes`, by kind of resource.
fn by_resource(wishes: Vec<Wish>) -> BTreeMap<String, Missing> {
    let mut all: BTreeMap<String, Missing> = BTreeMap::new();
    for wish in wishes {
        for (resource, amount) in amounts_of(&wish.demand) {
            let missing = all.entry(resource).or_insert(Missing {
                amount: 0.0,
                actors: 0,
                who: BTreeSet::new(),
                since: wish.since,
            });
            missing.amount += amount * wish.actors as f64;
            missing.actors += wish.actors;
            missing.who.insert(wish.who.clone());
            missing.since = missing.since.min(wish.since);
        }
    }
    all
}

/// The kinds that `demand` takes some of, called as the columns of `system.executors`.
fn amounts_of(demand: &Demand) -> Vec<(String, f64)> {
    let own = [
        ("cpus", demand.cpus_taken().as_f64()),
        ("gpus", demand.gpus_taken().as_f64()),
        ("memory_bytes", demand.memory_taken() as f64),
    ];
    let own = own.into_iter().map(|(name, n)| (name.to_owned(), n));
    let custom = demand.custom.iter();
    let custom = custom.map(|(name, amount)| (name.clone(), amount.as_f64()));
    own.chain(custom).filter(|(_, n)| *n > 0.0).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mobula_udfs::Amount;

    use super::*;

    fn wish(who: &str, demand: Demand, actors: usize, since: Instant) -> Wish {
        Wish {
            who: who.to_owned(),
            demand,
            actors,
            since,
        }
    }

    #[test]
    fn what_many_wait_for_is_summed_by_kind() {
        let now = Instant::now();
        let earlier = now.checked_sub(Duration::from_millis(5)).unwrap();
        let gpu = Demand {
            gpus: Some(Amount::from_milli(500)),
            ..Demand::default()
        };
        let both = Demand {
            cpus: Some(Amount::whole(2)),
            custom: [("fpga".to_owned(), Amount::ONE)].into(),
            ..gpu.clone()
        };
        let all = by_resource(vec![
            wish("q1", gpu.clone(), 1, now),
            wish("q1", gpu, 1, now),
            wish("pool", both, 3, earlier),
            wish("labels alone", Demand::default(), 1, now),
        ]);
        let found: Vec<_> = all
            .iter()
            .map(|(name, m)| (name.as_str(), m.amount, m.actors, m.who.len(), m.since))
            .collect();
        assert_eq!(
            found,
            [
                ("cpus", 6.0, 3, 1, earlier),
                ("fpga", 3.0, 3, 1, earlier),
                ("gpus", 2.5, 5, 2, earlier),
            ]
        );
    }
}
