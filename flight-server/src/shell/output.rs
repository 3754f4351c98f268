//! Writes results: as a table for people, csv or json for programs.
//!
//! CSV and JSON (one object a line) stream: memory holds one block. A table's
//! columns need their widths, so it is drawn in parts of [`TABLE_PART_ROWS`]
//! rows, each with its own widths, and memory stays bounded as well.

use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::csv::WriterBuilder;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::{self, writer::LineDelimited};
use arrow::util::display::{FormatOptions, array_value_to_string};
use arrow::util::pretty::pretty_format_batches_with_options;

use crate::ServerError;

/// Rows drawn with the same column widths.
const TABLE_PART_ROWS: usize = 1000;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Table,
    Csv,
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" => Ok(Self::Table),
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            other => Err(format!("\"{other}\" is not table, csv or json")),
        }
    }
}

/// Writes one result, block by block.
pub struct ResultWriter<'a, W: Write> {
    out: &'a mut W,
    format: Format,
    schema: SchemaRef,
    /// Blocks of a table part that are not drawn yet.
    part: Vec<RecordBatch>,
    part_rows: usize,
    rows: usize,
    /// A table draws at most so many rows.
    max_rows: Option<usize>,
    drawn: bool,
}

impl<'a, W: Write> ResultWriter<'a, W> {
    pub fn new(out: &'a mut W, format: Format, schema: SchemaRef, max_rows: Option<usize>) -> Self {
        Self {
            out,
            format,
            schema,
            part: vec![],
            part_rows: 0,
            rows: 0,
            max_rows: max_rows.filter(|_| format == Format::Table),
            drawn: false,
        }
    }

    /// Takes the next block.
    ///
    /// # Errors
    /// When the output is closed, or a value cannot be written.
    pub fn write(&mut self, block: &RecordBatch) -> Result<(), ServerError> {
        let before = self.rows;
        self.rows += block.num_rows();
        match self.format {
            Format::Csv => self.csv(block, before == 0 && !self.drawn),
            Format::Json => self.json(block),
            Format::Table => self.table(block, before),
        }
    }

    /// Draws what is left and returns the number of rows.
    ///
    /// # Errors
    /// As [`ResultWriter::write`].
    pub fn finish(mut self) -> Result<usize, ServerError> {
        match self.format {
            Format::Table if self.part_rows > 0 || !self.drawn => self.draw()?,
            Format::Csv if !self.drawn => {
                let empty = RecordBatch::new_empty(SchemaRef::clone(&self.schema));
                self.csv(&empty, true)?;
            }
            _ => {}
        }
        if let Some(max) = self.max_rows.filter(|max| self.rows > *max) {
            writeln!(self.out, "… {max} of {} rows shown", self.rows)
                .map_err(ServerError::Output)?;
        }
        self.out.flush().map_err(ServerError::Output)?;
        Ok(self.rows)
    }

    fn csv(&mut self, block: &RecordBatch, header: bool) -> Result<(), ServerError> {
        self.drawn = true;
        // By way of memory: the CSV writer makes texts of IO errors.
        let mut text = Vec::new();
        let mut writer = WriterBuilder::new().with_header(header).build(&mut text);
        writer.write(&flat(block)?).map_err(arrow_error)?;
        drop(writer);
        self.out.write_all(&text).map_err(ServerError::Output)
    }

    fn json(&mut self, block: &RecordBatch) -> Result<(), ServerError> {
        // Every line has every key, NULL or not.
        let builder = json::WriterBuilder::new().with_explicit_nulls(true);
        let mut writer = builder.build::<_, LineDelimited>(&mut *self.out);
        writer.write(block).map_err(arrow_error)?;
        writer.finish().map_err(arrow_error)
    }

    fn table(&mut self, block: &RecordBatch, before: usize) -> Result<(), ServerError> {
        let room = self
            .max_rows
            .map_or(usize::MAX, |max| max.saturating_sub(before));
        let mut left = block.slice(0, block.num_rows().min(room));
        while left.num_rows() > 0 {
            let take = left.num_rows().min(TABLE_PART_ROWS - self.part_rows);
            self.part.push(left.slice(0, take));
            self.part_rows += take;
            left = left.slice(take, left.num_rows() - take);
            if self.part_rows == TABLE_PART_ROWS {
                self.draw()?;
            }
        }
        Ok(())
    }

    /// A plan is a text of its own: frames around it only make it wider.
    fn draw_plans(&mut self) -> Result<(), ServerError> {
        for block in std::mem::take(&mut self.part) {
            for row in 0..block.num_rows() {
                let [kind, plan] = [0, 1].map(|at| array_value_to_string(block.column(at), row));
                let (kind, plan) = (kind.map_err(arrow_error)?, plan.map_err(arrow_error)?);
                writeln!(self.out, "{kind}\n\n{}\n", plan.trim_end())
                    .map_err(ServerError::Output)?;
            }
        }
        self.part_rows = 0;
        self.drawn = true;
        Ok(())
    }

    fn draw(&mut self) -> Result<(), ServerError> {
        if is_explained(&self.schema) {
            return self.draw_plans();
        }
        let options = FormatOptions::default()
            .with_display_error(true)
            .with_null("NULL");
        let part = concat_batches(&self.schema, &self.part).map_err(arrow_error)?;
        let text = pretty_format_batches_with_options(&[part], &options).map_err(arrow_error)?;
        self.part.clear();
        self.part_rows = 0;
        self.drawn = true;
        writeln!(self.out, "{text}").map_err(ServerError::Output)
    }
}

/// True for the rows that EXPLAIN gives.
fn is_explained(schema: &Schema) -> bool {
    let mut names = schema.fields().iter().map(|field| field.name().as_str());
    names.next() == Some("plan_type") && names.next() == Some("plan") && names.next().is_none()
}

/// CSV has no lists and no structs: they become text, as a table shows them.
fn flat(block: &RecordBatch) -> Result<RecordBatch, ServerError> {
    let schema = block.schema();
    let columns = schema.fields().iter().zip(block.columns());
    let flat = columns.map(|(field, column)| {
        if !column.data_type().is_nested() {
            return Ok((Field::clone(field), Arc::clone(column)));
        }
        let texts = (0..column.len()).map(|row| match column.is_null(row) {
            true => Ok(None),
            false => array_value_to_string(column, row).map(Some),
        });
        let texts = texts.collect::<Result<StringArray, _>>();
        let texts: ArrayRef = Arc::new(texts.map_err(arrow_error)?);
        Ok((Field::new(field.name(), DataType::Utf8, true), texts))
    });
    let (fields, columns): (Vec<_>, Vec<_>) = flat
        .collect::<Result<Vec<_>, ServerError>>()?
        .into_iter()
        .unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(arrow_error)
}

fn arrow_error(error: arrow::error::ArrowError) -> ServerError {
    match error {
        arrow::error::ArrowError::IoError(_, source) => ServerError::Output(source),
        other => ServerError::Query(other.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListArray};
    use arrow::datatypes::Int64Type;

    fn written(format: Format, blocks: &[RecordBatch], max_rows: Option<usize>) -> String {
        let mut out = Vec::new();
        let schema = numbers(0..0).schema();
        let mut writer = ResultWriter::new(&mut out, format, schema, max_rows);
        for block in blocks {
            writer.write(block).unwrap();
        }
        writer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    fn numbers(range: std::ops::Range<i64>) -> RecordBatch {
        let column: ArrayRef =
            Arc::new(Int64Array::from_iter(range.map(|n| (n != 1).then_some(n))));
        RecordBatch::try_from_iter_with_nullable([("n", column, true)]).unwrap()
    }

    #[test]
    fn csv_and_json_have_one_header_over_all_blocks() {
        let blocks = [numbers(0..2), numbers(2..3)];
        // A lone NULL is quoted: a blank line would be no row at all.
        assert_eq!(written(Format::Csv, &blocks, None), "n\n0\n\"\"\n2\n");
        assert_eq!(
            written(Format::Json, &blocks, None),
            "{\"n\":0}\n{\"n\":null}\n{\"n\":2}\n"
        );
        assert_eq!(written(Format::Csv, &[], None), "n\n");
    }

    #[test]
    fn csv_has_lists_as_text() {
        let lists = [Some(vec![Some(1), None]), None];
        let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists));
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![7, 8]));
        let block = RecordBatch::try_from_iter([("l", list), ("n", numbers)]).unwrap();
        let mut out = Vec::new();
        let mut writer = ResultWriter::new(&mut out, Format::Csv, block.schema(), None);
        writer.write(&block).unwrap();
        writer.finish().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "l,n\n\"[1, ]\",7\n,8\n");
    }

    #[test]
    fn a_table_is_cut_and_says_so() {
        let text = written(Format::Table, &[numbers(0..9)], Some(2));
        assert!(
            text.contains("NULL") && text.contains("2 of 9 rows"),
            "{text}"
        );
        assert!(!text.contains("| 5"), "{text}");
    }

    #[test]
    fn a_plan_has_no_frame() {
        let text = |s: &str| -> ArrayRef { Arc::new(StringArray::from(vec![s])) };
        let plan = [
            ("plan_type", text("physical_plan")),
            ("plan", text("A\n  B\n")),
        ];
        let plan = RecordBatch::try_from_iter(plan).unwrap();
        let mut out = Vec::new();
        let mut writer = ResultWriter::new(&mut out, Format::Table, plan.schema(), Some(40));
        writer.write(&plan).unwrap();
        writer.finish().unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "physical_plan\n\nA\n  B\n\n"
        );
    }

    #[test]
    fn a_long_table_keeps_every_row() {
        let text = written(Format::Table, &[numbers(0..2500)], None);
        assert_eq!(text.matches("| n ").count(), 3);
        assert!(text.contains("| 2499 |"), "{}", &text[..200]);
        assert!(written(Format::Table, &[], None).contains("n"));
    }
}
