//! Arrow types inside serialised declarations: as Arrow IPC schema messages.
//!
//! Arrow's own serde form is tied to its Rust enums; the IPC form is a standard
//! that every version reads. Used by `spec` and `call` through `serde(with)`.

use std::fmt;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use mobula_block::ipc::{decode_schema, encode_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::ser::{self, Serializer};

/// `serde(with)` for a schema.
pub(crate) mod schema {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(schema: &SchemaRef, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&encode_schema(schema).map_err(ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SchemaRef, D::Error> {
        let bytes = from.deserialize_byte_buf(Bytes)?;
        decode_schema(&bytes)
            .map(Into::into)
            .map_err(de::Error::custom)
    }
}

/// `serde(with)` for one type, as a schema of one field.
pub(crate) mod data_type {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &DataType, to: S) -> Result<S::Ok, S::Error> {
        let schema = Schema::new(vec![Field::new("value", value.clone(), true)]);
        to.serialize_bytes(&encode_schema(&schema).map_err(ser::Error::custom)?)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<DataType, D::Error> {
        let bytes = from.deserialize_byte_buf(Bytes)?;
        let schema = decode_schema(&bytes).map_err(de::Error::custom)?;
        match schema.fields().first() {
            Some(field) => Ok(field.data_type().clone()),
            None => Err(de::Error::custom("a type is missing")),
        }
    }
}

/// Reads a byte string.
struct Bytes;

impl<'de> Visitor<'de> for Bytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes of an Arrow schema")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }
}
