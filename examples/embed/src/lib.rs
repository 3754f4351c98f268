//! The functions that the programs of this example add to SQL: `embed`, which carries
//! the engine alone, and `mobula-with-functions`, which is the server.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Float64Type};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use mobula_execution::RustFunctions;
use mobula_udfs::native::NativeBatches;
use mobula_udfs::{FunctionSpec, Literal, Native, NativeError, NativeInstance, UdfError};

/// What the engine is made with.
pub fn functions() -> Result<RustFunctions, UdfError> {
    use DataType::{Float64, Int64, Utf8};
    let length = Native::scalar(
        "length_of",
        [("x", Float64), ("y", Float64)],
        Float64,
        length_of,
    )
    .immutable()
    .strict();
    let columns = [
        Field::new("word", Utf8, true),
        Field::new("letters", Int64, true),
    ];
    let words = Native::table("words", columns, words).immutable();
    let smoothed = FunctionSpec::native_scalar("smoothed", [("x", Float64)], Float64);
    let half = create_udf(
        "half",
        vec![Float64],
        Float64,
        Volatility::Immutable,
        Arc::new(|args: &[ColumnarValue]| {
            let values = ColumnarValue::values_to_arrays(args)?;
            let values = values[0].as_primitive::<Float64Type>();
            let halves: ArrayRef = Arc::new(values.unary::<_, Float64Type>(|x| x / 2.0));
            Ok(ColumnarValue::Array(halves))
        }),
    );
    Ok(RustFunctions::new()
        .with_native(length)?
        .with_native(words)?
        .with_native(Native::actor(smoothed, Smoothed::open))?
        .with_scalar(half))
}

/// A value for each row. STRICT, so there is no NULL to think of.
fn length_of(batch: &RecordBatch) -> Result<ArrayRef, NativeError> {
    let x = batch.column(0).as_primitive::<Float64Type>();
    let y = batch.column(1).as_primitive::<Float64Type>();
    let lengths = x.values().iter().zip(y.values()).map(|(x, y)| x.hypot(*y));
    Ok(Arc::new(Float64Array::from_iter_values(lengths)))
}

/// The words of column `line`, any number for each row.
fn words(batch: RecordBatch) -> Result<RecordBatch, NativeError> {
    let lines = batch
        .column_by_name("line")
        .ok_or("there is no column line")?;
    let lines = lines.as_string_opt::<i32>().ok_or("line is no text")?;
    let words: Vec<&str> = lines
        .iter()
        .flatten()
        .flat_map(str::split_whitespace)
        .collect();
    let letters = words.iter().map(|word| word.chars().count() as i64);
    let letters: ArrayRef = Arc::new(Int64Array::from_iter_values(letters));
    let words: ArrayRef = Arc::new(StringArray::from_iter_values(words));
    Ok(RecordBatch::try_from_iter_with_nullable([
        ("word", words, true),
        ("letters", letters, true),
    ])?)
}

/// An actor: exponential smoothing, which remembers the value before.
struct Smoothed {
    weight: f64,
    last: Option<f64>,
}

impl Smoothed {
    /// `smoothed(weight => 0.5)`.
    fn open(args: &[(String, Literal)]) -> Result<Self, NativeError> {
        match args {
            [(name, Literal::Float(weight))] if name == "weight" => Ok(Self {
                weight: *weight,
                last: None,
            }),
            _ => Err("it takes weight => a number from 0.0 to 1.0".into()),
        }
    }
}

impl NativeInstance for Smoothed {
    fn call(&mut self, batch: RecordBatch) -> Result<NativeBatches<'_>, NativeError> {
        let values = batch.column(0).as_primitive::<Float64Type>();
        let smoothed = values.iter().map(|value| {
            let value = value.unwrap_or_default();
            let last = self.last.unwrap_or(value);
            let smoothed = self.weight * value + (1.0 - self.weight) * last;
            self.last = Some(smoothed);
            smoothed
        });
        let smoothed: ArrayRef = Arc::new(Float64Array::from_iter_values(smoothed));
        let batch = RecordBatch::try_from_iter([("smoothed", smoothed)])?;
        Ok(Box::new(std::iter::once(Ok(batch))))
    }
}
