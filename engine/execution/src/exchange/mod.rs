//! Blocks between executors: Arrow Flight `DoGet`, one stream a partition.
//!
//! `flight_service` serves, `fetch` asks, `channels` keeps one connection a
//! peer, `compact` drops dead bytes before encoding, `guard` admits only holders of the cluster token, `traffic` counts
//! every encoded byte, `action` asks one question. `threads` moves the bytes, apart from
//! queries, whose threads `hand_over` has calls answered on. What bounds memory is HTTP/2 flow control: each stream
//! buffers at most its window, so a consumer that stops reading stops its
//! producer.

pub mod action;
pub mod channels;
pub mod compact;
pub mod fetch;
pub mod flight_service;
pub mod guard;
pub mod hand_over;
pub mod threads;
pub mod traffic;
