//! SQL files with their expected answers, each run in two modes.
//!
//! `embedded` runs in this process, `cluster` against a server without local
//! executor and three executor processes, with scans cut as small as they go.
//! The expected text is the same. In cluster mode a file must have moved bytes
//! between executors, or say `# exchanges: none` in its first lines, where also
//! `# settings: cpus=4 label=zone=a` may stand. `onlyif` and `skipif` know both modes by name.
//!
//! Files may write `$DATA` for a directory with the TPC-H tables at scale factor
//! 0.01, four Parquet files each, `$FILES` for `slt/data`, and `$SCRATCH` for an
//! empty directory of their own. With `MOBULA_APPROVE=1` the embedded run writes
//! what it gets into the files: read the diff before you commit it.
//!
//! `pages` runs the SQL that stands in the documentation.

#[cfg(test)]
mod answer;
#[cfg(test)]
mod database;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod pages;
