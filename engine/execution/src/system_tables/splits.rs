//! `system.splits`: queries whose rows several readers share, a row for each reader.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use super::columns::{counts, texts};
use super::{Rows, Table};
use crate::engine::Engine;
use crate::split::{Dealing, ReaderFigures, Split};

pub const TABLE: Table = Table {
    name: "splits",
    columns: &[
        ("name", DataType::Utf8),
        ("sql", DataType::Utf8),
        ("dealing", DataType::Utf8),
        ("reader", DataType::UInt64),
        ("epochs", DataType::UInt64),
        ("rows", DataType::UInt64),
        ("state", DataType::Utf8),
    ],
    rows: Rows::Here(splits),
};

fn splits(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let all = engine.splits().all();
    let rows: Vec<(&Split, usize, ReaderFigures)> = all
        .iter()
        .flat_map(|split| {
            let figures = split.figures().into_iter().enumerate();
            figures.map(|(reader, figures)| (split.as_ref(), reader, figures))
        })
        .collect();
    vec![
        texts(rows.iter().map(|(split, ..)| &split.name)),
        texts(rows.iter().map(|(split, ..)| &split.sql)),
        texts(rows.iter().map(|(split, ..)| match split.dealing {
            Dealing::AsTheyCome => "as they come",
            Dealing::Equal => "equal",
        })),
        counts(rows.iter().map(|(_, reader, _)| *reader as u64)),
        counts(rows.iter().map(|(.., figures)| figures.epochs)),
        counts(rows.iter().map(|(.., figures)| figures.rows)),
        texts(rows.iter().map(|(.., figures)| match figures.reading {
            0 => "idle",
            _ => "reading",
        })),
    ]
}
