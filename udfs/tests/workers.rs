//! Worker processes end to end: real Python, real sockets, real signals.
//!
//! Needs a Python with pyarrow, numpy, pandas and polars: `MOBULA_PYTHON`, else
//! `python3`. Every
//! wait is bounded; every test has a manager of its own and leaves no process.

#[cfg(test)]
#[path = "workers/actors.rs"]
mod actors;
#[cfg(test)]
#[path = "workers/ahead.rs"]
mod ahead;
#[cfg(test)]
#[path = "workers/apart.rs"]
mod apart;
#[cfg(test)]
#[path = "workers/bench.rs"]
mod bench;
#[cfg(test)]
#[path = "workers/block_ids.rs"]
mod block_ids;
#[cfg(test)]
#[path = "workers/faults.rs"]
mod faults;
#[cfg(test)]
#[path = "workers/formats.rs"]
mod formats;
#[cfg(test)]
#[path = "workers/functions.rs"]
mod functions;
#[cfg(test)]
#[path = "workers/fused.rs"]
mod fused;
#[cfg(test)]
#[path = "workers/groups.rs"]
mod groups;
#[cfg(test)]
#[path = "workers/handling.rs"]
mod handling;
#[cfg(test)]
#[path = "workers/hints.rs"]
mod hints;
#[cfg(test)]
#[path = "workers/hosted.rs"]
mod hosted;
#[cfg(test)]
#[path = "workers/idle.rs"]
mod idle;
#[cfg(test)]
#[path = "workers/isolation.rs"]
mod isolation;
#[cfg(test)]
#[path = "workers/keyed.rs"]
mod keyed;
#[cfg(test)]
#[path = "workers/lanes.rs"]
mod lanes;
#[cfg(test)]
#[path = "workers/lifetimes.rs"]
mod lifetimes;
#[cfg(test)]
#[cfg(target_os = "linux")]
#[path = "workers/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "workers/lost_values.rs"]
mod lost_values;
#[cfg(test)]
#[path = "workers/misuse.rs"]
mod misuse;
#[cfg(test)]
#[path = "workers/named_keyed.rs"]
mod named_keyed;
#[cfg(test)]
#[path = "workers/odd_values.rs"]
mod odd_values;
#[cfg(test)]
#[path = "workers/overlap.rs"]
mod overlap;
#[cfg(test)]
#[path = "workers/overlap_faults.rs"]
mod overlap_faults;
#[cfg(test)]
#[path = "workers/places.rs"]
mod places;
#[cfg(test)]
#[path = "workers/refusals.rs"]
mod refusals;
#[cfg(test)]
#[path = "workers/resources.rs"]
mod resources;
#[cfg(test)]
#[path = "workers/rows.rs"]
mod rows;
#[cfg(test)]
#[path = "workers/stage.rs"]
mod stage;
#[cfg(test)]
#[path = "workers/trains.rs"]
mod trains;
#[cfg(test)]
#[cfg(target_os = "linux")]
#[path = "workers/transport.rs"]
mod transport;
#[cfg(test)]
#[path = "workers/types.rs"]
mod types;
#[cfg(test)]
#[path = "workers/zygote.rs"]
mod zygote;
