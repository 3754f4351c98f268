//! `a FULL JOIN b USING (k)`: its `k` is that of whichever side has a row.
//!
//! DataFusion takes the left side's, NULL for rows that only the right one has, and compares
//! that with the keys of further joins; and `*` has that of the side whose name comes first, NULL for
//! some rows of a LEFT JOIN too. Here a chain of joins with such a one in it becomes
//! one relation, `wrap` before planning, and is planned in `plan`:
//!
//! ```text
//! Projection: coalesce(a.k, b.k) AS "(a, …)".k, a.v, b.w
//!   Full Join: a.k = b.k
//! ```
//!
//! The column has a name of its own in front, so that the rest of the query finds one `k`
//! and no other. Where it asks for `a.k` as well, that stays, and the two are told apart: the
//! query's own `k` becomes `"(a, …)".k` (`qualify`), and `*` has one of them (`node`). What
//! cannot be told apart then is ambiguous to DataFusion, and refused: `k` of such a query in
//! a query inside it, in ON, or in `* EXCLUDE (k)`; and in WHERE where NATURAL does not say
//! that it is a key.
//!
//! Of INNER JOINs DataFusion puts the key at the place of the table whose name comes first, has it
//! twice in chains, and takes it for ambiguous in WHERE. They are planned here too, unless LATERAL
//! is among them. A key that is the left side's stays its column where nothing else is asked for.

mod chain;
mod node;
mod plan;
mod qualify;
#[cfg(test)]
mod tests;
mod wrap;

pub(crate) use node::KeyNamesNode;
pub(super) use plan::plan;
pub(super) use wrap::wrap;
