//! Keys of different types that are the same key.
//!
//! A stream is chosen by the bits of a key, and the same number has others as an INT than as
//! a BIGINT. Where a key has to have the same stream in all queries, each is widened first:
//! integers to BIGINT, floats to DOUBLE, texts and bytes to one form of theirs.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::cast;

/// `key`, an expression over `input`, in the widest type of its kind.
///
/// # Errors
/// None that could happen: nothing is lost by that.
pub(super) fn widest(key: Arc<dyn PhysicalExpr>, input: &Schema) -> Result<Arc<dyn PhysicalExpr>> {
    let data_type = key.data_type(input)?;
    match widest_type(&data_type) {
        Some(wider) if wider != data_type => cast(key, input, wider),
        _ => Ok(key),
    }
}

/// `None`: it is alone of its kind.
fn widest_type(data_type: &DataType) -> Option<DataType> {
    use DataType::{
        Binary, BinaryView, Dictionary, Float16, Float32, Float64, Int8, Int16, Int32, Int64,
        LargeBinary, LargeUtf8, UInt8, UInt16, UInt32, Utf8, Utf8View,
    };
    match data_type {
        Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 => Some(Int64),
        Float16 | Float32 | Float64 => Some(Float64),
        Utf8 | LargeUtf8 | Utf8View => Some(Utf8),
        Binary | LargeBinary | BinaryView => Some(Binary),
        Dictionary(_, value) => Some(widest_type(value).unwrap_or_else(|| value.as_ref().clone())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::col;

    use super::*;

    #[test]
    fn keys_are_widened_to_one_type_of_their_kind() {
        let text = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::LargeUtf8));
        for (given, wanted) in [
            (DataType::Int16, DataType::Int64),
            (DataType::UInt32, DataType::Int64),
            (DataType::UInt64, DataType::UInt64),
            (DataType::Float32, DataType::Float64),
            (DataType::Utf8View, DataType::Utf8),
            (text, DataType::Utf8),
            (DataType::Date32, DataType::Date32),
        ] {
            let schema = Schema::new(vec![Field::new("k", given, true)]);
            let wider = widest(col("k", &schema).unwrap(), &schema).unwrap();
            assert_eq!(wider.data_type(&schema).unwrap(), wanted);
        }
    }
}
