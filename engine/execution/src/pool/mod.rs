//! The actors of a query whose calls ask for resources, wherever there are any.
//!
//! A query that makes such calls gets all that they ask for before it starts, or waits
//! in line for it: `placement` says which executors could have which actors, `line` who
//! has what of the cluster and who waits. The coordinator then has the hosts start the
//! pools (`starter`), each of which claims its part of its own ledger (`hosting`), and
//! tells the query's tasks where they are (`directory`). Blocks go from the tasks to the
//! actors with nobody in between: `dispatch` gives each to the host that is likely to be
//! through with it first (`choose`), through an exchange (`actor_calls`) or, in the same
//! process, directly.
//!
//! Rows of a keyed call have their actor by key (`keyed`): a task keeps what one needs to go
//! on from where another was lost (`lane`).
//!
//! Named actors and pools that outlive queries are placed and found in the same way
//! (`named`). How many actors a named pool has follows its load: what they do (`watch`) is
//! looked at, a pure function says what becomes of it (`autoscale`), and that is done
//! (`scaling`). So do the pools of queries whose calls may have more actors than they need
//! (`query_scaling`). A named actor or pool that replaces another may have to have what that has
//! (`replace`).
//!
//! A named actor that is called by key has one sender that outlives queries (`named_lanes`,
//! `named_feeder`), in the process that they are sent to.
//!
//! Pools of a query end with it: when its stream does, or when their host has lost the
//! coordinator.

mod absent;
mod autoscale;
mod building;
mod choose;
pub mod directory;
pub mod dispatch;
mod ends;
pub mod hosting;
mod keyed;
mod lane;
pub mod line;
pub mod loads;
mod losses;
pub mod named;
mod named_feeder;
pub mod named_lanes;
pub mod placed_actor;
pub mod placement;
pub mod query_scaling;
mod replace;
pub mod scaling;
mod started;
pub mod starter;
mod watch;
