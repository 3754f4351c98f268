//! `compare`: two results files side by side.

use std::path::Path;

use crate::error::BenchmarkError;
use crate::record::{Record, SystemTimes, median};

/// Prints the medians of the first system of each file, and their ratio.
///
/// # Errors
/// A file is missing or is something else.
pub fn print(before: &Path, after: &Path) -> Result<(), BenchmarkError> {
    let (before, after) = (Record::read(before)?, Record::read(after)?);
    for (name, record) in [("before", &before), ("after", &after)] {
        println!(
            "{name:>6}: {} at {} ({}), SF{} in {} files a table, {} cores, {}",
            record.systems.first().map_or("", |s| s.mode.as_str()),
            record.commit,
            record.profile,
            record.data.scale_factor,
            record.data.files_per_table,
            record.machine.cores,
            record.machine.cpu
        );
    }
    let (Some(old), Some(new)) = (before.systems.first(), after.systems.first()) else {
        return Ok(());
    };
    println!(
        "\n{:>6} {:>10} {:>10} {:>7}",
        "query", "before s", "after s", "ratio"
    );
    let (mut old_total, mut new_total) = (0.0, 0.0);
    for (query, a, b) in of_both(old, new) {
        println!(
            "{:>6} {a:>10.4} {b:>10.4} {:>7.3}",
            format!("q{query}"),
            b / a
        );
        old_total += a;
        new_total += b;
    }
    let ratio = new_total / old_total;
    println!(
        "{:>6} {old_total:>10.4} {new_total:>10.4} {ratio:>7.3}",
        "total"
    );
    Ok(())
}

/// The queries that both ran, with their medians.
fn of_both(old: &SystemTimes, new: &SystemTimes) -> Vec<(u32, f64, f64)> {
    let pairs = old.queries.iter().filter_map(|a| {
        let b = new.queries.iter().find(|b| b.query == a.query)?;
        Some((a.query, median(&a.seconds), median(&b.seconds)))
    });
    pairs.collect()
}
