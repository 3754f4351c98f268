//! What a process has to share out, and what calls ask of it.
//!
//! A [`Demand`] is what each worker of a call asks for, a [`Capacity`] what a process
//! has, found by [`detect`] or given. The [`Ledger`] of a process knows what of it is
//! free, serves those who wait in order of arrival, and gives reservations that come
//! back when they are dropped. Resources but GPUs and memory are bookkeeping: nothing
//! keeps user code from taking more than it asked for.

mod amount;
mod capacity;
mod demand;
mod detect;
mod devices;
mod free;
mod labels;
mod ledger;
mod names;
mod waiting;

pub use amount::{Amount, BadAmount};
pub use capacity::{Capacity, Lack};
pub use demand::{Class, Demand, Placement};
pub use detect::{Detected, detect};
pub use devices::{BadGpus, Gpus};
pub use free::{Free, Taken};
pub use labels::{BadLabels, LabelSelector};
pub use ledger::{Claim, Ledger, Refusal, Reservation, Share};
pub use names::{amounts_of, amounts_text, labels_of, labels_text};
pub use waiting::{Waiting, classes};
