//! `system.settings`: the table of settings with the values of this process.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_plan::config::{SETTINGS, Scope, Setting};

use super::columns::texts;
use super::{Rows, Table};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "settings",
    columns: &[
        ("name", DataType::Utf8),
        ("value", DataType::Utf8),
        ("default_value", DataType::Utf8),
        ("scope", DataType::Utf8),
        ("description", DataType::Utf8),
    ],
    rows: Rows::Here(settings),
};

/// `value` is what new sessions begin with and, for keys of process scope, what
/// holds.
fn settings(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let text = |f: fn(&Setting) -> &str| texts(SETTINGS.iter().map(f));
    let options = engine.options();
    let value = |s: &Setting| options.get(s.key).unwrap_or_default();
    vec![
        texts(SETTINGS.iter().map(|s| format!("mobula.{}", s.key))),
        texts(SETTINGS.iter().map(value)),
        text(|s| s.default),
        text(|s| match s.scope {
            Scope::Session => "session",
            Scope::Process => "process",
        }),
        text(|s| s.doc),
    ]
}
