//! How times are taken.
//!
//! Each system first runs every query once untimed: files are then in memory
//! and footers are cached. A pair runs every query on both systems before it
//! goes on to the next, the one that begins changing each time, so that a machine
//! that slows down slows both.

use std::time::Instant;

use arrow::array::RecordBatch;

use crate::arguments::{Pair, Tpch, Workload};
use crate::check::Checker;
use crate::error::BenchmarkError;
use crate::record::{Record, SystemTimes};
use crate::system::{Mode, System};
use crate::tpch::{self, Query};

/// A system that runs, and what it took so far.
struct Runner {
    mode: Mode,
    system: Box<dyn System>,
    times: SystemTimes,
}

/// `tpch`: one system.
///
/// # Errors
/// What a query fails with, or wrong answers.
pub async fn one(arguments: &Tpch) -> Result<(), BenchmarkError> {
    let workload = &arguments.workload;
    let queries = tpch::queries(workload)?;
    let data = tpch::data(workload).await?;
    let mut runner = Runner::start(&arguments.mode, workload, &queries).await?;
    let mut checker = match arguments.check {
        true => Some(Checker::new(&arguments.python, &data)?),
        false => None,
    };
    for (idx, query) in queries.iter().enumerate() {
        let (_, answer) = runner.timed(query).await?;
        for _ in 0..arguments.iterations {
            let (seconds, _) = runner.timed(query).await?;
            runner.times.queries[idx].seconds.push(seconds);
        }
        if let Some(checker) = &mut checker {
            checker.add(query, &answer)?;
        }
        println!("{}", runner.times.queries[idx]);
    }
    println!("total of medians {:.3} s", runner.times.total_median());
    let differences = checker.map(|checker| checker.finish()).transpose();
    let record = Record::new(workload, &data, vec![runner.times])?;
    record.write(workload.output.as_deref())?;
    if differences?.is_some() {
        println!("answers equal DuckDB's");
    }
    Ok(())
}

/// `pair`: two systems.
///
/// # Errors
/// What a query fails with on either.
pub async fn pair(arguments: &Pair) -> Result<(), BenchmarkError> {
    let workload = &arguments.workload;
    let queries = tpch::queries(workload)?;
    let data = tpch::data(workload).await?;
    let mut subject = Runner::start(&arguments.subject, workload, &queries).await?;
    let mut peer = Runner::start(&arguments.peer, workload, &queries).await?;
    for round in 0..=arguments.pairs {
        for (idx, query) in queries.iter().enumerate() {
            let (ours, theirs) = match (round as usize + idx).is_multiple_of(2) {
                true => in_turn(&mut subject, &mut peer, query).await?,
                false => {
                    let (theirs, ours) = in_turn(&mut peer, &mut subject, query).await?;
                    (ours, theirs)
                }
            };
            if round > 0 {
                subject.times.queries[idx].seconds.push(ours);
                peer.times.queries[idx].seconds.push(theirs);
            }
        }
        if round > 0 {
            let (ours, theirs) = (subject.times.last_round(), peer.times.last_round());
            println!(
                "pair {round}: {} {ours:.3} s, {} {theirs:.3} s, ratio {:.3}",
                subject.mode,
                peer.mode,
                ours / theirs
            );
        }
    }
    let record = Record::new(workload, &data, vec![subject.times, peer.times])?;
    record.print_ratios();
    record.write(workload.output.as_deref())
}

/// Seconds of the first and of the second. Each timed run comes after a run of
/// the same query on the other system: what a run leaves behind, memory above
/// all, helps or hinders both alike.
async fn in_turn(
    first: &mut Runner,
    second: &mut Runner,
    query: &Query,
) -> Result<(f64, f64), BenchmarkError> {
    second.timed(query).await?;
    let one = first.timed(query).await?.0;
    Ok((one, second.timed(query).await?.0))
}

impl Runner {
    async fn start(
        mode: &Mode,
        workload: &Workload,
        queries: &[Query],
    ) -> Result<Self, BenchmarkError> {
        let data = tpch::data(workload).await?;
        let settings = tpch::settings(workload)?;
        let started = Instant::now();
        let system = mode.start(&data, &settings).await?;
        println!(
            "{mode}: started in {:.2} s",
            started.elapsed().as_secs_f64()
        );
        Ok(Self {
            mode: mode.clone(),
            system,
            times: SystemTimes::new(mode, queries),
        })
    }

    /// Seconds until the whole answer is read, and the answer.
    async fn timed(&mut self, query: &Query) -> Result<(f64, Vec<RecordBatch>), BenchmarkError> {
        let started = Instant::now();
        let answer = self.system.query(&query.sql).await;
        let seconds = started.elapsed().as_secs_f64();
        let answer = answer.map_err(|source| BenchmarkError::Query {
            system: self.mode.to_string(),
            query: query.number,
            source: Box::new(source),
        })?;
        Ok((seconds, answer))
    }
}
