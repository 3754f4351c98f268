//! Turns any error of a running query into class, one line and place.
//!
//! DataFusion wraps errors in many layers (shared, context, external, arrow);
//! users want the innermost cause and callers its class. Both sides of the wire
//! use this: executors to fill `WireError`, the front to choose a status.

use std::error::Error;

use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use mobula_udfs::{UdfError, UdfErrorClass};

use crate::error::{ErrorClass, ExecutionError, NotReplaced, RemoteError, WhileReading};

/// Longest message kept, in bytes: it has to fit into HTTP/2 trailers.
const MESSAGE_LIMIT: usize = 4000;

/// An error, told apart.
#[derive(Debug, Clone)]
pub struct Classified {
    pub class: ErrorClass,
    /// One line, at most 4,000 bytes.
    pub message: String,
    /// URL of the executor where it happened, if on another one.
    pub executor: Option<String>,
    /// A traceback, if there is one.
    pub detail: Option<String>,
}

impl Classified {
    fn new(class: ErrorClass, message: impl AsRef<str>) -> Self {
        Self {
            class,
            message: one_line(message.as_ref()),
            executor: None,
            detail: None,
        }
    }
}

/// Finds class, message and place of `error`.
pub fn classify(error: &DataFusionError) -> Classified {
    match error {
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => {
            classify(inner)
        }
        DataFusionError::Collection(all) => all.first().map_or_else(
            || Classified::new(ErrorClass::Internal, "an empty list of errors"),
            classify,
        ),
        DataFusionError::External(inner) => classify_any(inner.as_ref()),
        DataFusionError::ArrowError(inner, _) => classify_arrow(inner),
        DataFusionError::ObjectStore(inner) => classify_store(inner),
        DataFusionError::IoError(e) => Classified::new(ErrorClass::Setup, e.to_string()),
        DataFusionError::ParquetError(e) => {
            Classified::new(ErrorClass::Setup, format!("cannot read Parquet: {e}"))
        }
        DataFusionError::ResourcesExhausted(text) => Classified::new(
            ErrorClass::ResourceExhausted,
            format!("{text}. The setting `memory_limit` bounds it"),
        ),
        DataFusionError::Internal(text) => Classified::new(ErrorClass::Internal, text),
        DataFusionError::ExecutionJoin(e) => Classified::new(
            ErrorClass::Internal,
            format!("a task of the query ended: {e}"),
        ),
        DataFusionError::Ffi(text) => Classified::new(ErrorClass::Internal, text),
        DataFusionError::SQL(e, _) => Classified::new(ErrorClass::User, e.to_string()),
        DataFusionError::Plan(text)
        | DataFusionError::Configuration(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Execution(text)
        | DataFusionError::Substrait(text) => Classified::new(ErrorClass::User, text),
        DataFusionError::SchemaError(e, _) => Classified::new(ErrorClass::User, e.to_string()),
    }
}

/// As [`classify`], for an error of unknown type.
pub fn classify_any(error: &(dyn Error + 'static)) -> Classified {
    if let Some(e) = error.downcast_ref::<DataFusionError>() {
        return classify(e);
    }
    if let Some(e) = error.downcast_ref::<RemoteError>() {
        let mut found = Classified::new(e.class, &e.message);
        found.executor = Some(e.executor.clone());
        found.detail.clone_from(&e.detail);
        return found;
    }
    if let Some(e) = error.downcast_ref::<WhileReading>() {
        let mut found = classify(&e.source);
        found.message = one_line(&format!("{} (while reading {})", found.message, e.tables));
        return found;
    }
    if let Some(e) = error.downcast_ref::<NotReplaced>() {
        let mut found = classify(&e.source);
        let note = NotReplaced::note(&e.actor);
        found.message = one_line(&format!("{} ({note})", found.message));
        return found;
    }
    if let Some(e) = error.downcast_ref::<UdfError>() {
        return classify_udf(e);
    }
    if let Some(e) = error.downcast_ref::<ExecutionError>() {
        let mut found = Classified::new(e.class(), e.to_string());
        if let ExecutionError::ExecutorLost { executor } = e {
            found.executor = Some(executor.clone());
        }
        return found;
    }
    if let Some(e) = error.downcast_ref::<mobula_plan::PlanError>() {
        return Classified::new(ErrorClass::User, e.to_string());
    }
    if let Some(e) = error.downcast_ref::<ArrowError>() {
        return classify_arrow(e);
    }
    if let Some(e) = error.downcast_ref::<object_store::Error>() {
        return classify_store(e);
    }
    match error.source() {
        Some(source) => classify_any(source),
        None => Classified::new(ErrorClass::Internal, error.to_string()),
    }
}

fn classify_udf(error: &UdfError) -> Classified {
    let class = match error.class() {
        UdfErrorClass::User => ErrorClass::User,
        UdfErrorClass::Setup => ErrorClass::Setup,
        UdfErrorClass::Lost => ErrorClass::Unavailable,
        UdfErrorClass::Exhausted => ErrorClass::ResourceExhausted,
        UdfErrorClass::Timeout => ErrorClass::Timeout,
        UdfErrorClass::Bug => ErrorClass::Internal,
    };
    let mut found = Classified::new(class, error.to_string());
    found.detail = error.traceback().map(str::to_owned);
    if let UdfError::Remote(failure) = error {
        found.executor = Some(failure.place.clone());
    }
    found
}

fn classify_arrow(error: &ArrowError) -> Classified {
    match error {
        ArrowError::ExternalError(inner) => classify_any(inner.as_ref()),
        ArrowError::DivideByZero => Classified::new(ErrorClass::User, "division by zero"),
        ArrowError::IoError(text, _) => Classified::new(ErrorClass::Setup, text),
        ArrowError::MemoryError(text) => Classified::new(ErrorClass::ResourceExhausted, text),
        ArrowError::CDataInterface(text) | ArrowError::IpcError(text) => {
            Classified::new(ErrorClass::Internal, text)
        }
        other => Classified::new(ErrorClass::User, other.to_string()),
    }
}

fn classify_store(error: &object_store::Error) -> Classified {
    use object_store::Error as Store;
    match error {
        Store::NotFound { path, .. } => Classified::new(
            ErrorClass::Setup,
            format!(
                "the file \"{path}\" cannot be found here. Every executor must see it under the same path"
            ),
        ),
        Store::PermissionDenied { path, .. } | Store::Unauthenticated { path, .. } => {
            Classified::new(
                ErrorClass::Setup,
                format!(
                    "reading \"{path}\" is not permitted. Check the credentials of its store on every executor"
                ),
            )
        }
        other => Classified::new(ErrorClass::Setup, other.to_string()),
    }
}

/// Keeps the first line's words: newlines become spaces, the tail is cut.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MESSAGE_LIMIT {
        let cut = (0..=MESSAGE_LIMIT)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn finds_the_innermost_cause_through_every_wrapper() {
        let remote = RemoteError {
            class: ErrorClass::User,
            message: "function \"f\" failed".into(),
            executor: "http://h:1".into(),
            detail: Some("Traceback".into()),
        };
        let wrapped = DataFusionError::Shared(Arc::new(DataFusionError::Context(
            "somewhere".into(),
            Box::new(DataFusionError::ArrowError(
                Box::new(ArrowError::ExternalError(Box::new(
                    DataFusionError::External(Box::new(remote)),
                ))),
                None,
            )),
        )));
        let found = classify(&wrapped);
        assert_eq!(found.class, ErrorClass::User);
        assert_eq!(found.message, "function \"f\" failed");
        assert_eq!(found.executor.as_deref(), Some("http://h:1"));
        assert_eq!(found.detail.as_deref(), Some("Traceback"));
    }

    #[test]
    fn messages_are_one_bounded_line() {
        let found = classify(&DataFusionError::Plan(format!(
            "a\n  b {}",
            "é".repeat(5000)
        )));
        assert!(found.message.starts_with("a b é"));
        assert!(found.message.len() <= MESSAGE_LIMIT + 3);
        assert!(!found.message.contains('\n'));
    }

    #[test]
    fn class_numbers_are_stable() {
        for number in 1..=7 {
            assert_eq!(ErrorClass::from_number(number) as u32, number);
        }
        assert_eq!(ErrorClass::from_number(99), ErrorClass::Internal);
    }
}
