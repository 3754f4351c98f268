//! The one place that makes a status for a client.
//!
//! A status carries a code that stock drivers can act on and one line of text
//! that says what to do. It travels in HTTP/2 trailers, which clients bound, so
//! the text never exceeds [`TEXT_LIMIT`] bytes. Never put `Debug` text or a
//! backtrace here.
//!
//! Called by everything in `service`; the status of a running query comes from
//! [`query_status`], that of a session's deed from [`status`], and what the
//! front itself refuses from [`refuse`].

use std::fmt::Display;

use datafusion::common::DataFusionError;
use mobula_execution::{Classified, ErrorClass, classify};
use tonic::{Code, Status};

use crate::ServerError;

/// Longest text of a status, in bytes.
pub const TEXT_LIMIT: usize = 4096;

/// The status of a failed deed of the database or of a session.
pub fn status(error: &ServerError) -> Status {
    let found = error.classified();
    let code = if error.not_found() {
        Code::NotFound
    } else if error.already_exists() {
        Code::AlreadyExists
    } else {
        code_of(found.class)
    };
    with_place(code, &found)
}

/// The status of an error that came out of a query's stream.
pub fn query_status(error: &DataFusionError) -> Status {
    let found = classify(error);
    with_place(code_of(found.class), &found)
}

/// A refusal of the front itself.
pub fn refuse(code: Code, text: impl Display) -> Status {
    Status::new(code, one_line(&text.to_string()))
}

/// A request that breaks the protocol, or that has a part we cannot read.
pub fn malformed(text: impl Display) -> Status {
    refuse(Code::InvalidArgument, text)
}

/// Something of ours that cannot fail has failed.
pub fn internal(text: impl Display) -> Status {
    refuse(Code::Internal, text)
}

/// Setup is `FAILED_PRECONDITION`, which says "not before something else is
/// mended". Drivers that know no such code show it as unknown, with our text:
/// better than `NOT_FOUND` or `INVALID_ARGUMENT`, which blame the statement.
fn code_of(class: ErrorClass) -> Code {
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

fn with_place(code: Code, found: &Classified) -> Status {
    match &found.executor {
        Some(executor) if !found.message.contains(executor.as_str()) => {
            // The place goes behind the cut, so that it survives it.
            let place = format!(" (on executor {})", one_line(executor));
            let room = TEXT_LIMIT.saturating_sub(place.len());
            let text = shorten(one_line(&found.message), room) + &place;
            Status::new(code, shorten(text, TEXT_LIMIT))
        }
        _ => refuse(code, &found.message),
    }
}

/// Newlines and runs of blanks become one blank; the tail is cut. Other control
/// characters are shown: clients written in C end a text at a NUL.
fn one_line(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.contains(char::is_control) {
        let shown = |c: char| match c.is_control() {
            true => c.escape_default().collect(),
            false => String::from(c),
        };
        line = line.chars().map(shown).collect();
    }
    shorten(line, TEXT_LIMIT)
}

/// Cuts `line` to `limit` bytes, marking the cut.
fn shorten(mut line: String, limit: usize) -> String {
    const MARK: &str = "…";
    if line.len() > limit {
        let keep = limit.saturating_sub(MARK.len());
        let cut = (0..=keep)
            .rev()
            .find(|at| line.is_char_boundary(*at))
            .unwrap_or(0);
        line.truncate(cut);
        line.push_str(MARK);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_of_at_most_4_kib() {
        let made = refuse(Code::Internal, format!("one\n  two {}", "é".repeat(5000)));
        assert!(made.message().starts_with("one two é"));
        assert!(made.message().len() <= TEXT_LIMIT);
        assert!(made.message().ends_with('…'));
        assert!(!made.message().contains('\n'));
    }

    #[test]
    fn control_characters_are_shown() {
        let made = refuse(Code::Internal, "a\0b\u{1b}[1m\u{85}c");
        assert_eq!(made.message(), "a\\u{0}b\\u{1b}[1m c");
    }

    #[test]
    fn every_class_has_its_code() {
        let codes = [
            (ErrorClass::User, Code::InvalidArgument),
            (ErrorClass::Setup, Code::FailedPrecondition),
            (ErrorClass::Unavailable, Code::Unavailable),
            (ErrorClass::ResourceExhausted, Code::ResourceExhausted),
            (ErrorClass::Cancelled, Code::Cancelled),
            (ErrorClass::Timeout, Code::DeadlineExceeded),
            (ErrorClass::Internal, Code::Internal),
        ];
        for (class, code) in codes {
            assert_eq!(code_of(class), code);
        }
    }

    #[test]
    fn the_executor_survives_the_cut() {
        let found = Classified {
            class: ErrorClass::User,
            message: "x".repeat(9000),
            executor: Some("http://10.0.0.7:4100".to_owned()),
            detail: None,
        };
        let made = with_place(Code::InvalidArgument, &found);
        assert!(
            made.message()
                .ends_with("(on executor http://10.0.0.7:4100)")
        );
        assert!(made.message().len() <= TEXT_LIMIT);
    }

    #[test]
    fn a_planning_error_blames_the_statement() {
        let made = query_status(&DataFusionError::Plan("no such column".to_owned()));
        assert_eq!(made.code(), Code::InvalidArgument);
        assert_eq!(made.message(), "no such column");
    }
}
