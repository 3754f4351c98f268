//! A call as workers get it: computed once, loaded wherever it runs.
//!
//! Made by `open_pool`; `worker` sends its LOAD and finds it again by its key.

use std::sync::Arc;
use std::time::Duration;

use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use mobula_block::ipc::encode_schema;
use mobula_block::plain::plain_schema;

use crate::call::{Literal, UdfCall};
use crate::error::UdfError;
use crate::fused::Take;
use crate::overlap::LoadOverlap;
use crate::protocol::{Argument, Load, LoadStep, Source};
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
    /// What errors and lists call it.
    names: String,
    /// Messages: the input's, then input and output of each step.
    schemas: Vec<Buffer>,
}

impl CallOrder {
    /// # Errors
    /// When a type of the schemas cannot cross to a worker.
    pub(crate) fn try_new(call: Arc<UdfCall>) -> Result<Self, UdfError> {
        let key = blake3::hash(&call.encode()?);
        let input = Arc::new(plain_schema(&call.input));
        let output = Arc::new(plain_schema(&call.output));
        let encode = |schema: &Schema| {
            encode_schema(schema)
                .map(Buffer::from_vec)
                .map_err(|source| UdfError::Block {
                    function: call.spec.name.clone(),
                    source,
                })
        };
        let mut schemas = vec![encode(&input)?];
        for step in call.parts() {
            schemas.push(encode(&plain_schema(&step.input))?);
            schemas.push(encode(&plain_schema(&step.output))?);
        }
        Ok(Self {
            names: call.function_names(),
            call,
            key,
            input,
            output,
            schemas,
        })
    }

    pub(crate) fn function(&self) -> &str {
        &self.names
    }

    /// LOAD, naming the call `id` in the worker; its payload is [`Self::schemas`].
    pub(crate) fn load(&self, id: u64, forget: Vec<u64>) -> Load<'_> {
        let takes = self.call.steps.iter().map(|step| step.takes.as_deref());
        let takes = takes.chain(std::iter::repeat(None));
        let mut bytes = self.schemas.iter().map(Buffer::len);
        let mut size = || bytes.next().unwrap_or_default();
        Load {
            call: id,
            forget,
            input_schema_bytes: size(),
            steps: self
                .call
                .parts()
                .zip(takes)
                .map(|(call, takes)| {
                    let sizes = [size(), size()];
                    load_step(call, takes, sizes, self.call.timeout)
                })
                .collect(),
        }
    }

    /// The messages of the schemas, as LOAD counts them.
    pub(crate) fn schemas(&self) -> &[Buffer] {
        &self.schemas
    }
}

fn load_step<'a>(
    call: &'a UdfCall,
    takes: Option<&'a [Take]>,
    schema_bytes: [usize; 2],
    timeout: Option<Duration>,
) -> LoadStep<'a> {
    let method = call.spec.actor.as_ref();
    LoadStep {
        source: source(&call.spec),
        method: method.map(|method| method.method.as_str()),
        args: arguments(&call.args),
        mode: call.mode,
        takes_table: call.spec.takes_table(),
        takes,
        batch_size: call.batch_size.filter(|rows| *rows > 0),
        batch_format: call.batch_format,
        strict: call.spec.strict,
        on_error: call.errors.on_error,
        bisect: call.may_ask_again(),
        retry: call.handling.retry().map(|(names, most)| {
            let seconds = timeout.map(|timeout| timeout.as_secs_f64());
            (names, most, seconds)
        }),
        overlap: LoadOverlap::of(call, timeout),
        keyed: call.handling.keyed.map(|keyed| {
            let most = [keyed.snapshot_every, keyed.replay_bytes];
            let [every, bytes] = most.map(|most| most.max(1));
            (every, bytes)
        }),
        zero_copy: call.handling.zero_copy_batch,
        schema_bytes,
    }
}

/// A function's text and what its declaration says about it. A method's text is where
/// its actor is.
pub(crate) fn source(spec: &FunctionSpec) -> Source<'_> {
    Source {
        function: &spec.name,
        body: if spec.is_method() { "" } else { &spec.body },
        params: spec
            .params
            .iter()
            .map(|param| param.name.as_str())
            .collect(),
        table: spec.is_table(),
    }
}

/// As workers read them.
pub(crate) fn arguments(args: &[(String, Literal)]) -> Vec<Argument<'_>> {
    args.iter()
        .map(|(name, value)| argument(name, value))
        .collect()
}

/// Texts, because JSON has neither NaN nor infinities.
fn argument<'a>(name: &'a str, value: &Literal) -> Argument<'a> {
    match value {
        Literal::Null => (name, "null", String::new()),
        Literal::Bool(value) => (name, "bool", value.to_string()),
        Literal::Int(value) => (name, "int", value.to_string()),
        Literal::Float(value) => (name, "float", format!("{value:?}")),
        Literal::Text(value) => (name, "text", value.clone()),
    }
}
