//! Session options over the wire: `catalog`, `schema`, and every SQL setting.
//!
//! Drivers keep the current catalog and schema as options of these names. All
//! other names are settings as SQL's `SET` knows them (`mobula.udf_batch_rows`,
//! `datafusion.execution.batch_size`). The messages are Flight's, written by
//! hand because arrow-flight does not have them.

use std::collections::HashMap;

use datafusion::execution::SessionState;
use prost::{Message, Oneof};

use crate::Session;

/// `CloseSessionResult.Status.CLOSED`.
pub const CLOSED: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue.INVALID_NAME`.
pub const INVALID_NAME: i32 = 1;
/// `SetSessionOptionsResult.ErrorValue.INVALID_VALUE`.
pub const INVALID_VALUE: i32 = 2;

const CATALOG: &str = "datafusion.catalog.default_catalog";
const SCHEMA: &str = "datafusion.catalog.default_schema";

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsRequest {
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    /// Options that could not be set, by name.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, SessionOptionError>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionError {
    #[prost(int32, tag = "1")]
    pub value: i32,
}

#[derive(Clone, PartialEq, Message)]
pub struct GetSessionOptionsResult {
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// A value; none at all erases the option.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionValue {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum OptionValue {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int(i64),
    #[prost(double, tag = "4")]
    Float(f64),
    #[prost(message, tag = "5")]
    List(TextList),
}

#[derive(Clone, PartialEq, Message)]
pub struct TextList {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

impl SessionOptionValue {
    fn text(value: impl Into<String>) -> Self {
        Self {
            option_value: Some(OptionValue::Text(value.into())),
        }
    }
}

/// Sets each option it can and names the others.
pub fn set(session: &Session, asked: SetSessionOptionsRequest) -> SetSessionOptionsResult {
    let errors = asked
        .session_options
        .into_iter()
        .filter_map(|(name, value)| {
            let value = set_one(session, &name, value).err()?;
            Some((name, SessionOptionError { value }))
        })
        .collect();
    SetSessionOptionsResult { errors }
}

fn set_one(session: &Session, name: &str, value: SessionOptionValue) -> Result<(), i32> {
    let state = session.state();
    let text = match value.option_value {
        Some(OptionValue::Text(text)) => text,
        Some(OptionValue::Bool(value)) => value.to_string(),
        Some(OptionValue::Int(value)) => value.to_string(),
        Some(OptionValue::Float(value)) => value.to_string(),
        Some(OptionValue::List(_)) | None => return Err(INVALID_VALUE),
    };
    let key = match name {
        "catalog" => CATALOG,
        "schema" => SCHEMA,
        other => other,
    };
    if !state
        .config_options()
        .entries()
        .iter()
        .any(|entry| entry.key == key)
    {
        return Err(INVALID_NAME);
    }
    let known = match name {
        "catalog" => state.catalog_list().catalog(&text).is_some(),
        "schema" => has_schema(&state, &text),
        _ => true,
    };
    if !known {
        return Err(INVALID_VALUE);
    }
    session.set_option(key, &text).map_err(|_| INVALID_VALUE)
}

fn has_schema(state: &SessionState, name: &str) -> bool {
    let catalog = &state.config_options().catalog.default_catalog;
    state
        .catalog_list()
        .catalog(catalog)
        .is_some_and(|catalog| catalog.schema(name).is_some())
}

/// The current catalog and schema and all of our own settings.
pub fn get(session: &Session) -> GetSessionOptionsResult {
    let state = session.state();
    let config = state.config_options();
    let mut session_options: HashMap<_, _> = config
        .entries()
        .into_iter()
        .filter(|entry| entry.key.starts_with("mobula."))
        .filter_map(|entry| Some((entry.key, SessionOptionValue::text(entry.value?))))
        .collect();
    let current = &config.catalog;
    for (name, value) in [
        ("catalog", &current.default_catalog),
        ("schema", &current.default_schema),
    ] {
        session_options.insert(name.to_owned(), SessionOptionValue::text(value));
    }
    GetSessionOptionsResult { session_options }
}
