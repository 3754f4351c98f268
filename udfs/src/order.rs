//! A call as workers get it: computed once, loaded wherever it runs.
//!
//! Made by `open_pool`; `worker` sends its LOAD and finds it again by its key.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use mobula_block::ipc::encode_schema;
use mobula_block::plain::plain_schema;

use crate::call::{Literal, UdfCall};
use crate::error::UdfError;
use crate::protocol::{Load, Source};
use crate::spec::FunctionSpec;

/// A call with what is computed from it once.
#[derive(Debug)]
pub(crate) struct CallOrder {
    pub(crate) call: Arc<UdfCall>,
    /// Equal for equal calls.
    pub(crate) key: blake3::Hash,
    /// What the worker gets, and what it gives: plain types.
    pub(crate) input: SchemaRef,
    pub(crate) output: SchemaRef,
    schemas: [Buffer; 2],
}

impl CallOrder {
    /// # Errors
    /// When a type of the schemas cannot cross to a worker.
    pub(crate) fn try_new(call: Arc<UdfCall>) -> Result<Self, UdfError> {
        let key = blake3::hash(&call.encode()?);
        let input = Arc::new(plain_schema(&call.input));
        let output = Arc::new(plain_schema(&call.output));
        let encode = |schema| {
            encode_schema(schema)
                .map(Buffer::from_vec)
                .map_err(|source| UdfError::Block {
                    function: call.spec.name.clone(),
                    source,
                })
        };
        let schemas = [encode(&input)?, encode(&output)?];
        Ok(Self {
            call,
            key,
            input,
            output,
            schemas,
        })
    }

    pub(crate) fn function(&self) -> &str {
        &self.call.spec.name
    }

    /// LOAD, naming the call `id` in the worker; its payload is [`Self::schemas`].
    pub(crate) fn load(&self, id: u64, forget: Vec<u64>) -> Load<'_> {
        let call = &self.call;
        Load {
            call: id,
            forget,
            source: source(&call.spec),
            args: call
                .args
                .iter()
                .map(|(name, value)| argument(name, value))
                .collect(),
            mode: call.mode,
            takes_table: call.spec.takes_table(),
            batch_size: call.batch_size.filter(|rows| *rows > 0),
            batch_format: call.batch_format,
            strict: call.spec.strict,
            on_error: call.errors.on_error,
            bisect: call.may_ask_again(),
            retry: call.handling.retry().map(|(names, most)| {
                let seconds = call.timeout.map(|timeout| timeout.as_secs_f64());
                (names, most, seconds)
            }),
            zero_copy: call.handling.zero_copy_batch,
            input_schema_bytes: self.schemas[0].len(),
        }
    }

    /// The messages of the input schema and of the output schema.
    pub(crate) fn schemas(&self) -> &[Buffer] {
        &self.schemas
    }
}

/// A function's text and what its declaration says about it.
pub(crate) fn source(spec: &FunctionSpec) -> Source<'_> {
    Source {
        function: &spec.name,
        body: &spec.body,
        params: spec
            .params
            .iter()
            .map(|param| param.name.as_str())
            .collect(),
        table: spec.is_table(),
    }
}

/// Texts, because JSON has neither NaN nor infinities.
fn argument<'a>(name: &'a str, value: &Literal) -> (&'a str, &'static str, String) {
    match value {
        Literal::Null => (name, "null", String::new()),
        Literal::Bool(value) => (name, "bool", value.to_string()),
        Literal::Int(value) => (name, "int", value.to_string()),
        Literal::Float(value) => (name, "float", format!("{value:?}")),
        Literal::Text(value) => (name, "text", value.clone()),
    }
}
