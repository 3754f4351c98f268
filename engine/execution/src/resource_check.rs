//! Whether what a plan's calls ask for is there at all: pure, and asked before anything
//! starts, by EXPLAIN too.
//!
//! What is there but in use is waited for, see `admission`. Calls that ask for resources
//! or labels run in the process that plans them, so far: it must have what they ask for,
//! and where another has it, the error says so.

use mobula_plan::operator::map_batches::CallDemand;
use mobula_udfs::resources::Lack;
use mobula_udfs::{Capacity, Demand};

use crate::error::ExecutionError;

/// Processes that one error names.
const NAMED_MAX: usize = 8;

/// A process and what it has.
#[derive(Debug, Clone)]
pub struct Has {
    pub id: String,
    pub capacity: Capacity,
}

/// Refuses `calls` that can never run `here`; `others`: processes that run actors.
///
/// # Errors
/// What is missing, and what there is.
pub fn check(calls: &[CallDemand], here: &Has, others: &[Has]) -> Result<(), ExecutionError> {
    calls
        .iter()
        .try_for_each(|call| check_call(call, here, others))?;
    let at_once = all_workers(calls);
    match here.capacity.fits_at_once(&at_once) {
        true => Ok(()),
        false => Err(ExecutionError::DemandOfAll {
            asked: asked(calls),
            has: format!("{} has {}", here.id, has_of_all(here, calls)),
        }),
    }
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

fn check_call(call: &CallDemand, here: &Has, others: &[Has]) -> Result<(), ExecutionError> {
    let function = call.function.clone();
    let demand = &call.demand;
    if let Some(lack) = here.capacity.lacks(demand) {
        let mut all = std::iter::once(here).chain(others);
        let elsewhere = all.any(|has| has.capacity.lacks(demand).is_none());
        let asked = lack.option(demand);
        let has = listed(here, others, &lack);
        return Err(match elsewhere {
            true => ExecutionError::DemandHere {
                function,
                asked,
                has,
                way: way_here(&lack, demand),
            },
            false => ExecutionError::DemandNeverMet {
                function,
                asked,
                has,
                flag: lack.flag(demand),
            },
        });
    }
    let room = here.capacity.at_once(demand, call.workers);
    match room < call.workers {
        true => Err(ExecutionError::DemandTooMany {
            function,
            workers: call.workers,
            demand: demand.to_string(),
            room,
            has: format!("{} has {}", here.id, here.capacity.has_of(demand)),
        }),
        false => Ok(()),
    }
}

fn way_here(lack: &Lack, demand: &Demand) -> String {
    let flag = lack.flag(demand);
    match lack {
        // They would be dealt out.
        Lack::Gpus => format!("Start it with {flag} and without --executors"),
        _ => format!("Start it with {flag}"),
    }
}

/// `e-1 has 2 GPUs, e-2 has no GPU`.
fn listed(here: &Has, others: &[Has], lack: &Lack) -> String {
    let all = std::iter::once(here).chain(others);
    let named = all.take(NAMED_MAX);
    let named = named.map(|has| format!("{} has {}", has.id, has.capacity.has(lack)));
    let named = named.collect::<Vec<_>>().join(", ");
    match (1 + others.len()).saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named}, and {more} more are no better"),
    }
}

fn has_of_all(here: &Has, calls: &[CallDemand]) -> String {
    let mut sum = Demand::default();
    for CallDemand { demand, .. } in calls {
        sum.cpus = sum.cpus.or(demand.cpus);
        sum.gpus = sum.gpus.or(demand.gpus);
        sum.memory_bytes = sum.memory_bytes.or(demand.memory_bytes);
        sum.custom.extend(demand.custom.clone());
    }
    here.capacity.has_of(&sum)
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
            is_elastic: false,
        }
    }

    fn refused(calls: &[CallDemand], here: &Has, others: &[Has]) -> String {
        check(calls, here, others).unwrap_err().to_string()
    }

    #[test]
    fn what_fits_passes() {
        let two = host("embedded", 2);
        check(&[], &two, &[]).unwrap();
        check(&[call("a", 2000, 1)], &two, &[]).unwrap();
        check(&[call("a", 500, 2), call("b", 1000, 1)], &two, &[]).unwrap();
    }

    #[test]
    fn what_nobody_has_is_named_with_what_there_is() {
        assert_eq!(
            refused(&[call("embed", 3000, 1)], &host("c", 2), &[host("e-1", 0)]),
            "function \"embed\" asks for num_gpus => 3 for each worker, and no process has as much: c has 2 GPUs, e-1 has no GPU. Ask for less, or start one with --gpus 3"
        );
        let many: Vec<_> = (0..20).map(|n| host(&format!("e-{n}"), 1)).collect();
        let text = refused(&[call("embed", 3000, 1)], &host("c", 2), &many);
        assert!(
            text.contains("e-6 has 1 GPU, and 13 more are no better."),
            "{text}"
        );
        let mut labels = call("embed", 1000, 1);
        labels.demand.labels = "zone=c".parse().unwrap();
        let text = refused(&[labels], &host("c", 2), &[]);
        assert!(text.contains("label_selector => 'zone=c'"), "{text}");
        assert!(text.contains("c has zone=a"), "{text}");
    }

    #[test]
    fn what_others_have_does_not_help_yet() {
        assert_eq!(
            refused(&[call("embed", 1000, 1)], &host("c", 0), &[host("e-1", 1)]),
            "function \"embed\" asks for num_gpus => 1, and calls that ask for resources or labels run in the coordinator's process so far: c has no GPU, e-1 has 1 GPU. Start it with --gpus 1 and without --executors"
        );
    }

    #[test]
    fn workers_and_calls_must_fit_at_once() {
        assert_eq!(
            refused(&[call("embed", 600, 3)], &host("c", 2), &[]),
            "function \"embed\" asks for 3 workers with 0.6 GPU each, and there is room for 2: c has 2 GPUs. Ask for concurrency => 2 or '1..3', or start with more"
        );
        assert_eq!(
            refused(
                &[call("a", 1000, 1), call("b", 1000, 2)],
                &host("c", 2),
                &[]
            ),
            "the calls of this query ask for more than there is at once (\"a\" for 1 GPU, \"b\" for 2 workers with 1 GPU each): c has 2 GPUs. Ask for less, or split the query"
        );
    }
}
