//! Errors between executors: the only place that makes or reads their statuses.
//!
//! A status carries a `WireError` in its details, so class, place and traceback
//! survive any number of hops: the first executor fills it, later ones pass it
//! on unchanged. A status without one came from the transport itself, which
//! means that the peer is gone.

use datafusion::common::DataFusionError;
use mobula_proto::cluster::WireError;
use prost::Message;
use tonic::{Code, Status};

use crate::classify::{Classified, classify};
use crate::error::{ErrorClass, ExecutionError, RemoteError};

/// Makes the status that tells another executor of `error`, which happened
/// here (at `this_url`) unless it was already remote.
pub fn to_status(error: &DataFusionError, this_url: &str) -> Status {
    let found = classify(error);
    let class = found.class;
    let wire = to_wire(found, this_url);
    // The text repeats what the details hold, for tools that read only text.
    let text: String = wire.message.chars().take(200).collect();
    Status::with_details(code(class), text, wire.encode_to_vec().into())
}

/// What tells another executor of an error that was `found` here, at `this_url`.
pub fn to_wire(found: Classified, this_url: &str) -> WireError {
    WireError {
        class: found.class as u32,
        message: found.message,
        executor: found.executor.unwrap_or_else(|| this_url.to_owned()),
        detail: found.detail.map(|d| tail(&d)).unwrap_or_default(),
    }
}

/// Reads what [`to_wire`] made.
pub fn from_wire(wire: WireError) -> RemoteError {
    RemoteError {
        class: ErrorClass::from_number(wire.class),
        message: wire.message,
        executor: wire.executor,
        detail: (!wire.detail.is_empty()).then_some(wire.detail),
    }
}

/// Reads what `peer_url` answered.
pub fn from_status(status: &Status, peer_url: &str) -> DataFusionError {
    match told(status, peer_url) {
        Some(error) => DataFusionError::External(Box::new(error)),
        None => executor_lost(peer_url),
    }
}

/// What `peer_url` told by `status`; `None`: it told nothing, for it is gone.
pub fn told(status: &Status, peer_url: &str) -> Option<RemoteError> {
    let details = status.details();
    if !details.is_empty()
        && let Ok(wire) = WireError::decode(details)
        && wire.class != 0
    {
        return Some(from_wire(wire));
    }
    match status.code() {
        // Codes that our own layers answer without details.
        Code::Unauthenticated | Code::InvalidArgument | Code::Unimplemented | Code::Internal => {
            Some(RemoteError {
                class: ErrorClass::Internal,
                message: status.message().to_owned(),
                executor: peer_url.to_owned(),
                detail: None,
            })
        }
        _ => None,
    }
}

/// The error of a query whose executor at `url` is gone.
pub fn executor_lost(url: &str) -> DataFusionError {
    DataFusionError::External(Box::new(ExecutionError::ExecutorLost {
        executor: url.to_owned(),
    }))
}

/// The executor whose loss `error` tells of, here or over hops.
pub fn lost_executor(error: &DataFusionError) -> Option<String> {
    let found = classify(error);
    let url = found.executor?;
    let lost = ExecutionError::ExecutorLost {
        executor: url.clone(),
    };
    (found.message == lost.to_string()).then_some(url)
}

/// True when a status chain hides in `error` that only a broken transport
/// makes. The base hands those on as opaque external errors.
pub fn is_transport_failure(error: &DataFusionError) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = source {
        if let Some(status) = e.downcast_ref::<Status>() {
            return matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
            );
        }
        if e.is::<tonic::transport::Error>() {
            return true;
        }
        source = e.source();
    }
    false
}

fn code(class: ErrorClass) -> Code {
    match class {
        ErrorClass::User => Code::InvalidArgument,
        ErrorClass::Setup => Code::FailedPrecondition,
        ErrorClass::Unavailable => Code::Unavailable,
        ErrorClass::ResourceExhausted => Code::ResourceExhausted,
        ErrorClass::Cancelled => Code::Cancelled,
        ErrorClass::Timeout => Code::DeadlineExceeded,
        ErrorClass::Internal => Code::Internal,
    }
}

/// The last 2,000 bytes: message and details share one HTTP/2 trailer list.
fn tail(text: &str) -> String {
    const LIMIT: usize = 2000;
    let from = text.len().saturating_sub(LIMIT);
    let from = (from..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    text.get(from..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_and_place_survive_two_hops() {
        let first = DataFusionError::Plan("no column \"x\"".into());
        let hop1 = from_status(&to_status(&first, "http://a:1"), "http://a:1");
        let hop2 = from_status(&to_status(&hop1, "http://b:2"), "http://b:2");
        let found = classify(&hop2);
        assert_eq!(found.class, ErrorClass::User);
        assert_eq!(found.message, "no column \"x\"");
        assert_eq!(found.executor.as_deref(), Some("http://a:1"));
    }

    #[test]
    fn a_transport_status_means_the_peer_is_lost() {
        let lost = from_status(&Status::unavailable("broken pipe"), "http://c:3");
        let found = classify(&lost);
        assert_eq!(found.class, ErrorClass::Unavailable);
        assert!(found.message.contains("http://c:3"), "{}", found.message);
        assert_eq!(lost_executor(&lost).as_deref(), Some("http://c:3"));
        // Another executor that lost it says so too, and not of itself.
        let told = from_status(&to_status(&lost, "http://b:2"), "http://b:2");
        assert_eq!(lost_executor(&told).as_deref(), Some("http://c:3"));
        let busy = Status::internal("busy");
        assert_eq!(lost_executor(&from_status(&busy, "http://c:3")), None);
    }

    #[test]
    fn long_details_are_cut_at_the_front() {
        let long = format!("{}END", "x".repeat(9000));
        assert!(tail(&long).ends_with("END"));
        assert!(tail(&long).len() <= 2000);
    }
}
