//! Whether what a plan's calls ask for is there at all: pure, and asked before anything
//! starts, by EXPLAIN too.
//!
//! What is there but in use is waited for, see `admission`. Where one process has more of
//! what a call asks for than another, the error is about what even that one lacks.

use std::cmp::Ordering;

use mobula_plan::operator::map_batches::CallDemand;
use mobula_udfs::resources::Lack;
use mobula_udfs::{Capacity, Demand};

use crate::error::ExecutionError;
use crate::pool::placement::{Group, Room, at_once, place};

/// Processes that one error names.
const NAMED_MAX: usize = 8;

/// A process and what it has.
#[derive(Debug, Clone)]
pub struct Has {
    pub id: String,
    pub capacity: Capacity,
}

/// Refuses `calls` that can never run on `hosts`, the processes that run actors.
///
/// # Errors
/// What is missing, and what there is.
pub fn check(calls: &[CallDemand], hosts: &[Has]) -> Result<(), ExecutionError> {
    let rooms: Vec<_> = hosts
        .iter()
        .map(|has| Room::all_of(&has.capacity))
        .collect();
    calls
        .iter()
        .try_for_each(|call| check_call(call, hosts, &rooms))?;
    match place(&mut rooms.clone(), &groups(calls)) {
        Some(_) => Ok(()),
        None => Err(ExecutionError::DemandOfAll {
            asked: asked(calls),
            has: has_of_all(hosts, calls),
        }),
    }
}

/// The same of a named actor or pool, called `what`, which `call` stands for.
///
/// # Errors
/// As of [`check`], with the words of CREATE ACTOR.
pub fn check_actors(what: &str, call: &CallDemand, hosts: &[Has]) -> Result<(), ExecutionError> {
    let checked = check(std::slice::from_ref(call), hosts);
    checked.map_err(|error| match error {
        ExecutionError::DemandNeverMet {
            asked, has, flag, ..
        } => ExecutionError::ActorNeverHad {
            what: what.to_owned(),
            asked,
            has,
            flag,
        },
        ExecutionError::DemandTooMany {
            function,
            workers,
            demand,
            room,
            has,
        } => ExecutionError::PoolNeverHad {
            pool: function,
            min: workers,
            demand,
            room,
            has,
        },
        other => other,
    })
}

/// The actors of `calls`, to be placed.
pub fn groups(calls: &[CallDemand]) -> Vec<Group> {
    let groups = calls.iter().map(|call| Group {
        demand: call.demand.clone(),
        least: call.workers,
        most: call.most,
        grows: call.follows,
    });
    groups.collect()
}

/// What each worker takes that `calls` start with.
pub fn all_workers(calls: &[CallDemand]) -> Vec<Demand> {
    let taking = calls.iter().filter(|call| call.takes_resources());
    let each = taking.map(|call| std::iter::repeat_n(call.demand.clone(), call.workers));
    each.flatten().collect()
}

/// `"a" for 1 GPU, "b" for 2 workers with 0.5 GPU each`.
pub fn asked(calls: &[CallDemand]) -> String {
    let taking = calls.iter().filter(|call| call.takes_resources());
    let texts = taking.map(|call| {
        let CallDemand {
            function,
            demand,
            workers,
            ..
        } = call;
        match workers {
            1 => format!("\"{function}\" for {demand}"),
            n => format!("\"{function}\" for {n} workers with {demand} each"),
        }
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn check_call(call: &CallDemand, hosts: &[Has], rooms: &[Room]) -> Result<(), ExecutionError> {
    let function = call.function.clone();
    let demand = &call.demand;
    // What the last one lacks that has most of it.
    let lacks = hosts.iter().map(|has| has.capacity.lacks(demand));
    let lack = lacks.max_by(|a, b| match (a, b) {
        (None, None) => Ordering::Equal,
        (None, _) => Ordering::Greater,
        (_, None) => Ordering::Less,
        (Some(a), Some(b)) => a.cmp(b),
    });
    if let Some(lack) = lack.unwrap_or(Some(Lack::Gpus)) {
        return Err(ExecutionError::DemandNeverMet {
            function,
            asked: lack.option(demand),
            has: listed(hosts, |has| has.capacity.has(&lack)),
            flag: lack.flag(demand),
        });
    }
    let room = at_once(rooms, demand, call.workers);
    match room < call.workers {
        true => Err(ExecutionError::DemandTooMany {
            function,
            workers: call.workers,
            demand: demand.to_string(),
            room,
            has: listed(hosts, |has| has.capacity.has_of(demand)),
        }),
        false => Ok(()),
    }
}

/// `e-1 has 2 GPUs, e-2 has no GPU`.
fn listed(hosts: &[Has], what: impl Fn(&Has) -> String) -> String {
    if hosts.is_empty() {
        return "no executor runs actors".to_owned();
    }
    let named = hosts.iter().take(NAMED_MAX);
    let named = named.map(|has| format!("{} has {}", has.id, what(has)));
    let named = named.collect::<Vec<_>>().join(", ");
    match hosts.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named}, and {more} more are no better"),
    }
}

fn has_of_all(hosts: &[Has], calls: &[CallDemand]) -> String {
    let mut sum = Demand::default();
    for CallDemand { demand, .. } in calls {
        sum.cpus = sum.cpus.or(demand.cpus);
        sum.gpus = sum.gpus.or(demand.gpus);
        sum.memory_bytes = sum.memory_bytes.or(demand.memory_bytes);
        sum.custom.extend(demand.custom.clone());
    }
    listed(hosts, |has| has.capacity.has_of(&sum))
}

#[cfg(test)]
mod tests {
    use mobula_udfs::Amount;

    use super::*;

    fn host(id: &str, gpus: usize) -> Has {
        Has {
            id: id.to_owned(),
            capacity: Capacity {
                cpus: Amount::whole(4),
                gpu_ids: (0..gpus).map(|gpu| gpu.to_string()).collect(),
                labels: [("zone".to_owned(), "a".to_owned())].into(),
                ..Capacity::default()
            },
        }
    }

    fn call(function: &str, milli: u64, workers: usize) -> CallDemand {
        CallDemand {
            function: function.to_owned(),
            demand: Demand {
                gpus: Some(Amount::from_milli(milli)),
                ..Demand::default()
            },
            workers,
            most: Some(workers),
            call_id: 1,
            follows: false,
        }
    }

    fn refused(calls: &[CallDemand], hosts: &[Has]) -> String {
        check(calls, hosts).unwrap_err().to_string()
    }

    #[test]
    fn what_fits_passes() {
        let two = [host("embedded", 2)];
        check(&[], &two).unwrap();
        check(&[call("a", 2000, 1)], &two).unwrap();
        check(&[call("a", 500, 2), call("b", 1000, 1)], &two).unwrap();
        let spread = [host("c", 0), host("e-1", 1), host("e-2", 1)];
        check(&[call("a", 1000, 2)], &spread).unwrap();
        check(&[call("a", 1000, 1), call("b", 500, 2)], &spread).unwrap();
    }

    #[test]
    fn what_nobody_has_is_named_with_what_there_is() {
        assert_eq!(
            refused(&[call("embed", 3000, 1)], &[host("c", 2), host("e-1", 0)]),
            "function \"embed\" asks for num_gpus => 3 for each worker, and no process has as much: c has 2 GPUs, e-1 has no GPU. Ask for less, or start one with --gpus 3"
        );
        let many: Vec<_> = (0..20).map(|n| host(&format!("e-{n}"), 1)).collect();
        let text = refused(&[call("embed", 3000, 1)], &many);
        assert!(
            text.contains("e-7 has 1 GPU, and 12 more are no better."),
            "{text}"
        );
        let mut labels = call("embed", 1000, 1);
        labels.demand.labels = "zone=c".parse().unwrap();
        let text = refused(&[labels], &[host("c", 2)]);
        assert!(text.contains("label_selector => 'zone=c'"), "{text}");
        assert!(text.contains("c has zone=a"), "{text}");
        let text = refused(&[call("embed", 1000, 1)], &[]);
        assert!(text.contains("no executor runs actors"), "{text}");
    }

    #[test]
    fn actors_are_refused_in_the_words_of_their_statements() {
        let refused = |call: &CallDemand| {
            let error = check_actors("actor pool \"p\"", call, &[host("c", 2)]);
            error.unwrap_err().to_string()
        };
        check_actors("actor pool \"p\"", &call("p", 1000, 2), &[host("c", 2)]).unwrap();
        assert_eq!(
            refused(&call("p", 3000, 1)),
            "actor pool \"p\" asks for num_gpus => 3 for each actor, and no process has as much: c has 2 GPUs. Ask for less, or start one with --gpus 3"
        );
        assert_eq!(
            refused(&call("p", 1000, 3)),
            "actor pool \"p\" asks for 3 actors, its min, with 1 GPU each, and there is room for 2: c has 2 GPUs. Say min = 2, or start with more"
        );
    }

    #[test]
    fn one_that_lacks_less_says_what_is_missing() {
        let mut asked = call("embed", 3000, 1);
        asked.demand.labels = "zone=a".parse().unwrap();
        let mut elsewhere = host("e-1", 4);
        elsewhere.capacity.labels.clear();
        let text = refused(&[asked], &[elsewhere, host("c", 2)]);
        assert!(text.contains("asks for num_gpus => 3"), "{text}");
    }

    #[test]
    fn workers_and_calls_must_fit_at_once() {
        assert_eq!(
            refused(&[call("embed", 600, 3)], &[host("c", 1), host("e-1", 1)]),
            "function \"embed\" asks for 3 workers with 0.6 GPU each, and there is room for 2: c has 1 GPU, e-1 has 1 GPU. Ask for concurrency => 2 or '1..3', or start with more"
        );
        assert_eq!(
            refused(&[call("a", 1000, 1), call("b", 1000, 2)], &[host("c", 2)]),
            "the calls of this query ask for more than there is at once (\"a\" for 1 GPU, \"b\" for 2 workers with 1 GPU each): c has 2 GPUs. Ask for less, or split the query"
        );
    }
}
