//! One use of a function in a plan: the spec, how it is built and called, and
//! the schemas on both sides.
//!
//! Made by the physical planner, shipped inside `MapBatchesExec`, handed to the
//! pool. Two equal calls may share stateless workers.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};

use crate::error::UdfError;
use crate::failed_rows::ErrorPolicy;
use crate::fused::{Step, Take};
use crate::handling::Handling;
use crate::schema_bytes;
use crate::spec::{BatchFormat, FunctionSpec, Volatility};

/// What user code is given at a time, and what it gives for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallMode {
    /// A batch: a value a row for values, any rows for a table.
    #[default]
    Batches,
    /// A row, as plain values or as a dict: one value, or one dict.
    Map,
    /// A row as a dict: any number of dicts.
    FlatMap,
    /// A row, as plain values or as a dict: whether it stays.
    Filter,
    /// All rows of a group: any rows. The input's last column, [`GROUP_STARTS`],
    /// says where groups start; user code does not see it.
    Groups,
}

/// Name of the column that marks the first row of each group.
pub const GROUP_STARTS: &str = "__group_starts";

/// One use of a function.
#[derive(Debug, Clone, PartialEq)]
pub struct UdfCall {
    pub spec: Arc<FunctionSpec>,
    pub mode: CallMode,
    /// Keyword arguments of a class's constructor; empty for a `def`.
    pub args: Vec<(String, Literal)>,
    /// Rows of a batch, at least 1; `None`: the block as it comes.
    pub batch_size: Option<usize>,
    pub batch_format: BatchFormat,
    /// What becomes of rows that fail.
    pub errors: ErrorPolicy,
    pub handling: Handling,
    /// What the worker receives: exactly the parameters in order, or all columns
    /// where the parameter is a table. Plain types.
    pub input: SchemaRef,
    /// What comes back: one column for a function that returns a value, else
    /// RETURNS TABLE.
    pub output: SchemaRef,
    /// Longest time one block may take; `None`: as the manager is set. It is the
    /// running session's, so it does not travel with the encoded call.
    pub timeout: Option<Duration>,
    /// Rows of one block that may fail before the call does; `None`: all. As
    /// `timeout`, it does not travel.
    pub max_errors: Option<u64>,
    /// The query that makes the call, which has claimed what its workers ask for; empty:
    /// none. It does not travel either.
    pub query: String,
    /// How urgent it is where others wait for the same actors. Nor does that travel.
    pub priority: Priority,
    /// Of several functions that one worker runs on a block: each of them, this
    /// first one included. Else empty. See [`UdfCall::fused`].
    pub steps: Vec<Step>,
}

/// How urgent a call is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priority {
    /// Whether it goes before those that are not.
    pub is_interactive: bool,
    /// Whether the session has said so; else it is what the statement looks like.
    pub is_said: bool,
}

/// A constant in SQL, as a constructor's argument.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

/// The bytes' shape; the spec stands in it whole.
#[derive(Serialize, Deserialize)]
struct Encoded {
    spec: FunctionSpec,
    mode: CallMode,
    args: Vec<(String, Literal)>,
    batch_size: Option<usize>,
    batch_format: BatchFormat,
    errors: ErrorPolicy,
    handling: Handling,
    #[serde(with = "schema_bytes::schema")]
    input: SchemaRef,
    #[serde(with = "schema_bytes::schema")]
    output: SchemaRef,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    steps: Vec<EncodedStep>,
}

#[derive(Serialize, Deserialize)]
struct EncodedStep {
    call: Encoded,
    takes: Option<Vec<Take>>,
}

impl UdfCall {
    /// A row before which `block` may be cut in two, near its middle; `None` where
    /// its rows belong together.
    pub(crate) fn cut(&self, block: &RecordBatch) -> Option<usize> {
        let (rows, half) = (block.num_rows(), block.num_rows() / 2);
        if self.mode != CallMode::Groups {
            return (rows > 1).then_some(half);
        }
        let starts = block.columns().last()?.as_boolean_opt()?;
        let inside = (1..rows).filter(|row| starts.value(*row));
        inside.min_by_key(|row| row.abs_diff(half))
    }

    /// Whether user code may be asked about part of a batch that it has been asked
    /// about: it says the same again, whatever it was asked before.
    pub(crate) fn may_ask_again(&self) -> bool {
        self.spec.volatility == Volatility::Immutable
    }

    /// The call as bytes.
    ///
    /// # Errors
    /// [`UdfError::EncodeSpec`] for an Arrow type that IPC cannot write.
    pub fn encode(&self) -> Result<Vec<u8>, UdfError> {
        rmp_serde::to_vec_named(&Encoded::from(self)).map_err(UdfError::EncodeSpec)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`UdfError::DecodeSpec`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, UdfError> {
        let encoded: Encoded = rmp_serde::from_slice(bytes).map_err(UdfError::DecodeSpec)?;
        Ok(encoded.into())
    }
}

impl From<&UdfCall> for Encoded {
    fn from(call: &UdfCall) -> Self {
        let steps = call.steps.iter().map(|step| EncodedStep {
            call: Self::from(&step.call),
            takes: step.takes.clone(),
        });
        Self {
            spec: call.spec.as_ref().clone(),
            mode: call.mode,
            args: call.args.clone(),
            batch_size: call.batch_size,
            batch_format: call.batch_format,
            errors: call.errors,
            handling: call.handling.clone(),
            input: Arc::clone(&call.input),
            output: Arc::clone(&call.output),
            steps: steps.collect(),
        }
    }
}

impl From<Encoded> for UdfCall {
    fn from(encoded: Encoded) -> Self {
        let steps = encoded.steps.into_iter().map(|step| Step {
            call: step.call.into(),
            takes: step.takes,
        });
        Self {
            spec: Arc::new(encoded.spec),
            mode: encoded.mode,
            args: encoded.args,
            batch_size: encoded.batch_size,
            batch_format: encoded.batch_format,
            errors: encoded.errors,
            handling: encoded.handling,
            input: encoded.input,
            output: encoded.output,
            timeout: None,
            max_errors: None,
            query: String::new(),
            priority: Priority::default(),
            steps: steps.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::failed_rows::OnError;
    use crate::keyed::Keyed;
    use crate::overlap::Overlap;
    use crate::resources::{Amount, Demand};
    use crate::spec::{CallDefaults, Language, ObjectKind, Param, ParamKind, Returns};

    #[test]
    fn bytes_round_trip() {
        let spec = FunctionSpec {
            name: "embed".into(),
            language: Language::Python,
            params: vec![Param {
                name: "text".into(),
                kind: ParamKind::Value(DataType::Utf8),
            }],
            returns: Returns::Scalar(DataType::Float64),
            object: ObjectKind::Class,
            volatility: Volatility::Volatile,
            strict: true,
            body: "class embed: ...".into(),
            defaults: CallDefaults::default(),
            actor: None,
        };
        let schema = |t| Arc::new(Schema::new(vec![Field::new("text", t, true)]));
        let call = UdfCall {
            spec: Arc::new(spec),
            mode: CallMode::Filter,
            args: vec![
                ("a".into(), Literal::Null),
                ("b".into(), Literal::Int(i64::MIN)),
                ("c".into(), Literal::Float(0.1)),
                ("d".into(), Literal::Text("x'y".into())),
                ("e".into(), Literal::Bool(true)),
            ],
            batch_size: Some(256),
            batch_format: BatchFormat::Pyarrow,
            errors: ErrorPolicy {
                on_error: OnError::DeadLetter,
                max_errors: Some(7),
                max_error_ratio: Some(0.1),
            },
            handling: Handling {
                retry_exceptions: vec!["OSError".into()],
                max_retries: 2,
                zero_copy_batch: false,
                preserve_order: Some(true),
                min_workers: Some(3),
                timeout: Some(Duration::from_millis(5)),
                init_timeout: Some(Duration::from_secs(60)),
                demand: Demand {
                    cpus: Some(Amount::whole(2)),
                    memory_bytes: Some(7),
                    custom: [("fpga".to_owned(), Amount::ONE)].into(),
                    ..Demand::default()
                },
                overlap: Overlap {
                    max_in_flight: Some(64),
                    rate_limit: Some(2.5),
                },
                keyed: Some(Keyed {
                    snapshot_every: 3,
                    replay_bytes: 4,
                    snapshot_max_bytes: 5,
                    actors: 6,
                }),
            },
            input: schema(DataType::Utf8),
            output: schema(DataType::Float64),
            timeout: None,
            max_errors: None,
            query: String::new(),
            priority: Priority::default(),
            steps: vec![],
        };
        assert_eq!(UdfCall::decode(&call.encode().unwrap()).unwrap(), call);
        let fused = UdfCall::fused(
            Arc::clone(&call.input),
            Step {
                call: call.clone(),
                takes: None,
            },
            vec![Step {
                call: call.clone(),
                takes: Some(vec![Take::In(1), Take::Made(0)]),
            }],
        );
        assert_eq!(UdfCall::decode(&fused.encode().unwrap()).unwrap(), fused);
        assert!(UdfCall::decode(b"\x80").is_err());
    }
}
