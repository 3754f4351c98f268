//! Errors of a file of text: which file, and what to do. They stay Arrow's, as those of the readers
//! are, so that a query adds the tables to them that it reads.

use std::io::ErrorKind;

use arrow::datatypes::Field;
use arrow::error::ArrowError;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::PartitionedFile;

use super::exact::Lost;
use super::{TextFormat, TypesFrom};

/// How Arrow's reader of JSON ends its sentence on a key that a schema does not have.
const UNKNOWN_KEY: &str = "' missing from schema";

/// Says what is wrong with one file.
#[derive(Debug, Clone)]
pub(super) struct Faults {
    file: String,
    /// Where the part of the file begins that is read, in bytes.
    start: i64,
    is_json: bool,
    types: TypesFrom,
}

impl Faults {
    pub(super) fn new(file: &PartitionedFile, format: &TextFormat, types: TypesFrom) -> Self {
        Self {
            file: format!("/{}", file.object_meta.location),
            start: file.range.as_ref().map_or(0, |range| range.start),
            is_json: matches!(format, TextFormat::Json(_)),
            types,
        }
    }

    /// A value of `column` that has no room there.
    pub(super) fn lost(&self, column: &Field, lost: &Lost) -> DataFusionError {
        let inside = match column.data_type() == &lost.into {
            true => String::new(),
            false => format!(" inside {}", column.data_type()),
        };
        let text = format!(
            "the column \"{}\" is {}{inside}, which cannot hold {:?} of the file {} exactly. {}",
            column.name(),
            lost.into,
            lost.value,
            self.file,
            self.way_out()
        );
        arrow_error(match self.is_json {
            true => ArrowError::JsonError(text),
            false => ArrowError::CsvError(text),
        })
    }

    /// What the reader says, with the file, and a way out if there is one.
    pub(super) fn explain(&self, error: DataFusionError) -> DataFusionError {
        let file = &self.file;
        let inner = match &error {
            DataFusionError::ArrowError(inner, _) => inner,
            // Bytes that cannot be decompressed, as they arrive.
            DataFusionError::IoError(fault) => {
                let text = format!("{fault}, in the file {file}");
                return std::io::Error::new(fault.kind(), text).into();
            }
            _ => return error,
        };
        arrow_error(match inner.as_ref() {
            ArrowError::JsonError(text) if text.contains(UNKNOWN_KEY) => {
                let key = text.split('\'').rev().nth(1).unwrap_or_default();
                ArrowError::JsonError(format!(
                    "the key \"{key}\" of the JSON file {file} is no column: it is not in the rows that were looked at. {}",
                    self.way_out()
                ))
            }
            ArrowError::JsonError(text) if text.contains("decoding field") => {
                let way_out = self.way_out();
                ArrowError::JsonError(format!("{text}, in the JSON file {file}. {way_out}"))
            }
            ArrowError::ParseError(text) => {
                let (counted, way_out) = (self.counted(), self.way_out());
                ArrowError::ParseError(format!("{text}, in the file {file}{counted}. {way_out}"))
            }
            ArrowError::JsonError(text) => {
                ArrowError::JsonError(format!("{text}, in the file {file}"))
            }
            ArrowError::CsvError(text) => {
                ArrowError::CsvError(format!("{text}, in the file {file}{}", self.counted()))
            }
            // An array of JSON that has no end, or more behind it.
            ArrowError::IoError(text, fault)
                if self.is_json && fault.kind() == ErrorKind::InvalidData =>
            {
                ArrowError::JsonError(format!("{text}, in the file {file}"))
            }
            ArrowError::IoError(text, fault) => {
                let fault = std::io::Error::new(fault.kind(), text.as_str());
                ArrowError::IoError(format!("{text}, in the file {file}"), fault)
            }
            _ => return error,
        })
    }

    /// What lines mean that a reader tells.
    fn counted(&self) -> String {
        match self.start {
            0 => String::new(),
            start => format!(" (lines counted from byte {start} on)"),
        }
    }

    fn way_out(&self) -> String {
        match self.types {
            TypesFrom::Declaration => "Declare a type that holds it".to_owned(),
            TypesFrom::FirstRows(rows) => format!(
                "Columns are those of the first {rows} rows: say them by schema, or look at more by infer_rows"
            ),
        }
    }
}

fn arrow_error(error: ArrowError) -> DataFusionError {
    DataFusionError::ArrowError(Box::new(error), None)
}
