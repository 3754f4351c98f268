//! Values for the parameters of a prepared statement, as DoPut carries them.
//!
//! A stream of Arrow blocks, one column a parameter, one row a run of the statement. It is
//! read to its end before anything runs, within `parameter_rows_max` and
//! `parameter_bytes_max`. Types that only carry a value in another form (dictionaries,
//! views) become the plain ones, as in results.

use arrow::array::Array;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use futures::{StreamExt, TryStreamExt};
use tonic::{Code, Status, Streaming};

use super::ServiceSettings;
use super::flight::not_cancelled;
use crate::Prepared;
use crate::status::{malformed, refuse};
use crate::wire_schema::{wire_block, wire_schema};

/// Values that a client sent.
pub struct Given {
    pub block: RecordBatch,
    /// What they take.
    pub bytes: usize,
}

/// What a driver is told of the parameters of `prepared`: names, and the types of values
/// where they are known, else the type of NULL. All may be NULL.
pub fn parameter_schema(prepared: &Prepared) -> Schema {
    let fields = prepared.parameters.iter().map(|parameter| {
        let data_type = parameter.data_type.clone().unwrap_or(DataType::Null);
        Field::new(&parameter.name, data_type, true)
    });
    let fields: Vec<Field> = fields.collect();
    wire_schema(&Schema::new(fields)).as_ref().clone()
}

/// Reads the values that come with `first` and after it; `None` where there are none:
/// drivers send an empty schema, or nothing, where there is nothing to bind.
///
/// # Errors
/// Data that is no Arrow, too many rows or bytes.
pub async fn read(
    first: FlightData,
    rest: Streaming<FlightData>,
    settings: &ServiceSettings,
) -> Result<Option<Given>, Status> {
    let mut received = 0;
    let most = settings.parameter_bytes_max;
    let messages = futures::stream::iter([Ok(first)]).chain(rest);
    let messages = messages.map_err(|status| FlightError::Tonic(Box::new(status)));
    // The descriptor may come without data.
    let messages = messages.try_filter(|data| futures::future::ready(!data.data_header.is_empty()));
    let messages = messages.map(move |data| {
        let data = data?;
        received += data.data_body.len();
        match received > most {
            true => Err(FlightError::Tonic(Box::new(too_many_bytes(most)))),
            false => Ok(data),
        }
    });
    let mut decoded = FlightRecordBatchStream::new_from_flight_data(messages);
    let mut blocks: Vec<RecordBatch> = vec![];
    let mut rows = 0;
    while let Some(block) = decoded.next().await {
        let block = block.map_err(unreadable)?;
        rows += block.num_rows();
        if rows > settings.parameter_rows_max {
            return Err(too_many_rows(settings.parameter_rows_max));
        }
        blocks.push(block);
    }
    not_cancelled().await;
    let Some(schema) = decoded.schema().cloned() else {
        return Ok(None);
    };
    if schema.fields().is_empty() {
        return Ok(None);
    }
    let block = concat_batches(&schema, &blocks).map_err(|e| unreadable(e.into()))?;
    let block = wire_block(&wire_schema(&schema), block).map_err(|e| unreadable(e.into()))?;
    let columns = block.columns().iter();
    let bytes = columns.map(|column| column.to_data().get_slice_memory_size());
    let bytes = bytes
        .sum::<Result<_, _>>()
        .map_err(|e| unreadable(e.into()))?;
    Ok(Some(Given { block, bytes }))
}

fn unreadable(error: FlightError) -> Status {
    match error {
        FlightError::Tonic(status) => *status,
        other => malformed(format!("cannot read the values of the parameters: {other}")),
    }
}

fn too_many_bytes(most: usize) -> Status {
    refuse(
        Code::ResourceExhausted,
        format!(
            "the values of the parameters have more than {most} bytes. Bind fewer rows at once, or raise mobula.parameter_bytes_max"
        ),
    )
}

fn too_many_rows(most: usize) -> Status {
    refuse(
        Code::ResourceExhausted,
        format!(
            "values for more than {most} rows were bound at once. Bind fewer, or raise mobula.parameter_rows_max"
        ),
    )
}
