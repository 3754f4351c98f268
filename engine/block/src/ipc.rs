//! Schemas and blocks as Arrow IPC messages, one message each.
//!
//! Two sides that agreed on a schema exchange record-batch messages alone. An
//! encoded block shares its buffers with the arrays, so that a vectored write
//! is the only copy; a decoded one shares the memory of the bytes it was read
//! from. Schemas with dictionaries are refused: see [`crate::plain`].

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::MessageHeader;
use arrow_ipc::convert::{MessageBuffer, try_schema_from_ipc_buffer};
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::writer::{
    DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamEncoder, write_message,
};

use crate::error::BlockError;

/// What opens an encapsulated message.
const CONTINUATION: [u8; 4] = [0xFF; 4];

/// Encodes blocks of one schema as bare record-batch messages.
pub struct BlockEncoder {
    encoder: StreamEncoder,
}

impl std::fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockEncoder").finish_non_exhaustive()
    }
}

impl BlockEncoder {
    /// # Errors
    /// When Arrow IPC does not know a type of `schema`.
    pub fn try_new(schema: &SchemaRef) -> Result<Self, BlockError> {
        let mut encoder = StreamEncoder::try_new(schema).map_err(BlockError::Encode)?;
        // The first encoding carries the schema message, which receivers have.
        let empty = RecordBatch::new_empty(Arc::clone(schema));
        encoder.encode(&empty).map_err(BlockError::Encode)?;
        Ok(Self { encoder })
    }

    /// The message of `block` in pieces that share memory with it.
    ///
    /// # Errors
    /// When the block cannot be encoded.
    pub fn encode(&mut self, block: &RecordBatch) -> Result<Vec<Buffer>, BlockError> {
        self.encoder.encode(block).map_err(BlockError::Encode)
    }
}

/// `schema` as one message.
///
/// # Errors
/// When Arrow IPC cannot write it.
pub fn encode_schema(schema: &Schema) -> Result<Vec<u8>, BlockError> {
    let options = IpcWriteOptions::default();
    let mut dictionaries = DictionaryTracker::new(false);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut dictionaries,
        &options,
    );
    let mut bytes = Vec::new();
    write_message(&mut bytes, encoded, &options).map_err(BlockError::Encode)?;
    Ok(bytes)
}

/// The schema in a message made by [`encode_schema`].
///
/// # Errors
/// When `bytes` are not such a message.
pub fn decode_schema(bytes: &[u8]) -> Result<Schema, BlockError> {
    try_schema_from_ipc_buffer(bytes).map_err(BlockError::DecodeSchema)
}

/// `block` as one message in one piece; for paths where a copy does not matter.
///
/// # Errors
/// When the block cannot be encoded.
pub fn encode_block(block: &RecordBatch) -> Result<Vec<u8>, BlockError> {
    let pieces = BlockEncoder::try_new(&block.schema())?.encode(block)?;
    let mut bytes = Vec::with_capacity(pieces.iter().map(Buffer::len).sum());
    for piece in &pieces {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes)
}

/// The block of `schema` in `message`, sharing its memory where that is aligned
/// to 8 bytes. All offsets and texts are checked.
///
/// # Errors
/// When `message` is not a record-batch message that fits `schema`.
pub fn decode_block(message: &Buffer, schema: &SchemaRef) -> Result<RecordBatch, BlockError> {
    decode(message, schema, None)
}

/// The first column of a block that [`decode_block`] refuses which cannot be decoded
/// by itself, and why; `None` where it is none's fault.
pub fn invalid_column(message: &Buffer, schema: &SchemaRef) -> Option<(usize, ArrowError)> {
    let columns = 0..schema.fields().len();
    let mut refused = columns.filter_map(|at| match decode(message, schema, Some(&[at])) {
        Err(BlockError::Decode(error)) => Some((at, error)),
        _ => None,
    });
    refused.next()
}

fn decode(
    message: &Buffer,
    schema: &SchemaRef,
    columns: Option<&[usize]>,
) -> Result<RecordBatch, BlockError> {
    let (head, body) = split(message)?;
    let head = MessageBuffer::try_new(head).map_err(BlockError::Decode)?;
    let head = head.as_ref();
    if head.header_type() != MessageHeader::RecordBatch {
        return Err(BlockError::Framing {
            problem: "it is not a record batch",
        });
    }
    let Some(batch) = head.header_as_record_batch() else {
        return Err(BlockError::Framing {
            problem: "its record batch is missing",
        });
    };
    if usize::try_from(head.bodyLength()).ok() != Some(body.len()) {
        return Err(BlockError::Framing {
            problem: "its body has another length",
        });
    }
    let none = HashMap::new();
    RecordBatchDecoder::try_new(&body, batch, Arc::clone(schema), &none, &head.version())
        .map(|decoder| decoder.with_projection(columns))
        .and_then(RecordBatchDecoder::read_record_batch)
        .map_err(BlockError::Decode)
}

/// Metadata and body of an encapsulated message.
fn split(message: &Buffer) -> Result<(Buffer, Buffer), BlockError> {
    let short = BlockError::Framing {
        problem: "it is cut off",
    };
    let Some(prefix) = message.get(..8) else {
        return Err(short);
    };
    if prefix[..4] != CONTINUATION {
        return Err(BlockError::Framing {
            problem: "it has no continuation mark",
        });
    }
    let len = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]) as usize;
    let start = 8_usize.saturating_add(len);
    if message.len() < start {
        return Err(short);
    }
    Ok((message.slice_with_length(8, len), message.slice(start)))
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatchOptions, StringArray};

    use super::*;

    fn block() -> RecordBatch {
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]));
        let b: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("yy"), None]));
        RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap()
    }

    #[test]
    fn schema_and_blocks_round_trip() {
        let block = block();
        let schema = decode_schema(&encode_schema(&block.schema()).unwrap()).unwrap();
        assert_eq!(&schema, block.schema().as_ref());
        let schema = Arc::new(schema);
        for part in [block.clone(), block.slice(1, 2), block.slice(0, 0)] {
            let bytes = Buffer::from_vec(encode_block(&part).unwrap());
            assert_eq!(decode_block(&bytes, &schema).unwrap(), part);
        }
    }

    #[test]
    fn a_block_without_columns_keeps_its_rows() {
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let schema = Arc::new(Schema::empty());
        let block = RecordBatch::try_new_with_options(Arc::clone(&schema), vec![], &options);
        let bytes = Buffer::from_vec(encode_block(&block.unwrap()).unwrap());
        assert_eq!(decode_block(&bytes, &schema).unwrap().num_rows(), 7);
    }

    #[test]
    fn encoding_shares_memory() {
        let numbers = Int64Array::from_iter_values(0..100_000);
        let address = numbers.values().inner().as_ptr();
        let block = RecordBatch::try_from_iter([("n", Arc::new(numbers) as ArrayRef)]).unwrap();
        let mut encoder = BlockEncoder::try_new(&block.schema()).unwrap();
        let pieces = encoder.encode(&block).unwrap();
        assert!(pieces.iter().any(|piece| piece.as_ptr() == address));
    }

    #[test]
    fn the_column_that_is_not_valid_is_named() {
        let block = block();
        let schema = block.schema();
        let mut bytes = encode_block(&block).unwrap();
        let at = bytes.windows(3).position(|text| text == b"xyy").unwrap();
        bytes[at] = 0xFF;
        let bytes = Buffer::from_vec(bytes);
        decode_block(&bytes, &schema).unwrap_err();
        let (column, error) = invalid_column(&bytes, &schema).unwrap();
        assert_eq!(column, 1);
        assert!(error.to_string().contains("UTF8"), "{error}");
        let cut = bytes.slice_with_length(0, bytes.len() - 8);
        assert!(invalid_column(&cut, &schema).is_none());
    }

    #[test]
    fn garbage_is_an_error() {
        let schema = block().schema();
        let whole = encode_block(&block()).unwrap();
        for len in [0, 3, 8, 20, whole.len() - 1] {
            let cut = Buffer::from_vec(whole[..len].to_vec());
            assert!(decode_block(&cut, &schema).is_err(), "{len}");
        }
        let schema_message = Buffer::from_vec(encode_schema(&schema).unwrap());
        assert!(decode_block(&schema_message, &schema).is_err());
        assert!(decode_schema(b"nonsense").is_err());
    }
}
