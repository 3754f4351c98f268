//! What `CREATE FUNCTION` declares, and its bytes.
//!
//! Made by the SQL front end, kept in the catalog, shipped in plans. The bytes
//! are MessagePack with named fields, so that fields can be added; Arrow types
//! travel as IPC schemas. Equal bytes mean the same function.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use arrow::datatypes::{DataType, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::UdfError;
use crate::failed_rows::OnError;
use crate::overlap::Overlap;
use crate::resources::Demand;
use crate::schema_bytes;

/// By which user code gets its context.
const MODULE: &str = "mobula";

/// A declared function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// As SQL knows it.
    pub name: String,
    pub language: Language,
    /// In the order of the call: any number of values, or exactly one table.
    pub params: Vec<Param>,
    pub returns: Returns,
    /// As [`crate::WorkerManager::describe`] found it.
    pub object: ObjectKind,
    pub volatility: Volatility,
    /// Rows with a NULL argument are not passed and give NULL.
    pub strict: bool,
    /// Source text between the `$$`.
    pub body: String,
    pub defaults: CallDefaults,
    /// Of which named actor it is a method; `None`: of none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<MethodOf>,
}

/// What makes a function a method of a named actor: its name is `actor.method`, or
/// the actor's own for `__call__`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodOf {
    pub actor: String,
    /// As its class has it.
    pub method: String,
    /// Whether it takes plain Python values, one row a call, by whatever operator.
    pub by_row: bool,
    /// Why it cannot be called; continues a sentence that starts with it.
    pub problem: Option<String>,
}

/// The language of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Language {
    Python,
    /// Rust, in the program itself: there is no body. See [`crate::native`].
    Native,
}

/// One declared parameter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Param {
    pub name: String,
    pub kind: ParamKind,
}

/// What a parameter takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ParamKind {
    /// An array of values, one a row.
    Value(#[serde(with = "schema_bytes::data_type")] DataType),
    /// All columns of a relation.
    Table,
}

/// What a function gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Returns {
    /// One value a row.
    Scalar(#[serde(with = "schema_bytes::data_type")] DataType),
    /// Any number of rows.
    Table(#[serde(with = "schema_bytes::schema")] SchemaRef),
}

/// What a body defines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// A `def`: without state, any worker will do.
    Function,
    /// A `class`: built once per worker, which is then an actor.
    Class,
    /// An `async def`: a worker runs many of its calls at a time.
    AsyncFunction,
    /// A `class` whose `__call__` is one.
    AsyncClass,
}

impl ObjectKind {
    /// Whether it is built, and then keeps state.
    pub fn is_class(self) -> bool {
        matches!(self, Self::Class | Self::AsyncClass)
    }

    /// Whether a worker runs many of its calls at a time.
    pub fn is_async(self) -> bool {
        matches!(self, Self::AsyncFunction | Self::AsyncClass)
    }
}

/// How often a function must be asked, in PostgreSQL's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// What holds unless a call says otherwise; `None`: the engine decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CallDefaults {
    /// Rows of a batch; `None`: a block as it comes.
    pub batch_size: Option<usize>,
    /// Workers over the whole cluster.
    pub concurrency: Option<usize>,
    pub batch_format: Option<BatchFormat>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_error: Option<OnError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_errors: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_error_ratio: Option<f64>,
    /// Of `concurrency`, those to start with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_workers: Option<usize>,
    /// As in [`Handling`](crate::Handling), and the next ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_exceptions: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_copy_batch: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preserve_order: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_timeout: Option<Duration>,
    /// Columns of RETURNS TABLE that each row has from the input row it was made
    /// of, whatever other rows there are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passthrough: Vec<String>,
    /// One row of RETURNS TABLE comes of each input row.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub row_preserving: bool,
    /// Input columns that matter; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Vec<String>>,
    /// What each worker asks for of its process.
    #[serde(default, skip_serializing_if = "Demand::is_none")]
    pub demand: Demand,
    /// Of an async function.
    #[serde(default, skip_serializing_if = "Overlap::is_default")]
    pub overlap: Overlap,
    /// Blocks after which keyed actors are asked for snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_every: Option<u64>,
}

impl CallDefaults {
    /// Whether nothing is said of batches.
    pub fn takes_rows(&self) -> bool {
        self.batch_size.is_none() && self.batch_format.is_none()
    }
}

/// What a batch is in the user's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BatchFormat {
    /// numpy arrays, read-only, masked where there are NULLs.
    Numpy,
    /// pyarrow arrays or a RecordBatch.
    Pyarrow,
    /// Series or a DataFrame of pandas.
    Pandas,
    /// Series or a DataFrame of polars.
    Polars,
    /// Python values: a list a parameter, or a list with a dict a row.
    Rows,
}

impl BatchFormat {
    /// All, as they are written.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Numpy, "numpy"),
        (Self::Pyarrow, "pyarrow"),
        (Self::Pandas, "pandas"),
        (Self::Polars, "polars"),
        (Self::Rows, "rows"),
    ];

    /// `'numpy', 'pyarrow', … or 'rows'`.
    pub fn listed() -> String {
        let quoted: Vec<_> = Self::ALL
            .iter()
            .map(|(_, name)| format!("'{name}'"))
            .collect();
        match quoted.split_last() {
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }
}

/// A batch format nobody knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("batch_format '{0}' is not known. Write {listed}", listed = BatchFormat::listed())]
pub struct UnknownBatchFormat(pub String);

impl FunctionSpec {
    /// A native function of values, volatile until told otherwise.
    pub fn native_scalar<N: Into<String>>(
        name: impl Into<String>,
        params: impl IntoIterator<Item = (N, DataType)>,
        returns: DataType,
    ) -> Self {
        let params = params.into_iter().map(|(name, data_type)| Param {
            name: name.into(),
            kind: ParamKind::Value(data_type),
        });
        Self::native(name.into(), params.collect(), Returns::Scalar(returns))
    }

    /// A native function of all columns of a relation: it gives another one, or
    /// says by a BOOLEAN which rows stay.
    pub fn native_table(name: impl Into<String>, returns: Returns) -> Self {
        let rows = Param {
            name: "input".to_owned(),
            kind: ParamKind::Table,
        };
        Self::native(name.into(), vec![rows], returns)
    }

    /// Whether its code names the module `mobula`, and so may ask for the row that it is called
    /// for; `<mobula …` begins the file name of what the Python package sends along. Workers
    /// tell it alike (`context.py`).
    pub fn may_ask_for_context(&self) -> bool {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        self.body.match_indices(MODULE).any(|(at, _)| {
            let (before, after) = (&self.body[..at], &self.body[at + MODULE.len()..]);
            !before.ends_with(|c| c == '<' || in_word(c)) && !after.starts_with(in_word)
        })
    }

    fn native(name: String, params: Vec<Param>, returns: Returns) -> Self {
        Self {
            name,
            language: Language::Native,
            params,
            returns,
            object: ObjectKind::Function,
            volatility: Volatility::Volatile,
            strict: false,
            body: String::new(),
            defaults: CallDefaults::default(),
            actor: None,
        }
    }

    /// Whether it runs on a named actor, not on workers of its call.
    pub fn is_method(&self) -> bool {
        self.actor.is_some()
    }

    /// The column that a relation gets of its values: of `a.add` it is `add`.
    pub fn column_name(&self) -> &str {
        let method = self.actor.as_ref().and_then(|method| {
            let rest = self.name.strip_prefix(&method.actor)?;
            rest.strip_prefix('.')
        });
        method.unwrap_or(&self.name)
    }

    /// What its body is called in tracebacks.
    pub(crate) fn source_name(&self) -> &str {
        match &self.actor {
            Some(method) => &method.actor,
            None => &self.name,
        }
    }

    /// Whether it gives a relation; then it takes one as well.
    pub fn is_table(&self) -> bool {
        matches!(self.returns, Returns::Table(_))
    }

    /// Whether it takes all columns of a relation.
    pub fn takes_table(&self) -> bool {
        let tables = self.params.iter();
        tables.into_iter().any(|p| p.kind == ParamKind::Table)
    }

    /// BLAKE3 of the encoded declaration, in hex.
    pub fn hash(&self) -> String {
        // Only an Arrow type unknown to IPC cannot be encoded; no such function
        // passes `describe`, and its text still tells functions apart.
        let bytes = self
            .encode()
            .unwrap_or_else(|_| format!("{self:?}").into_bytes());
        blake3::hash(&bytes).to_hex().to_string()
    }

    /// The declaration as bytes.
    ///
    /// # Errors
    /// [`UdfError::EncodeSpec`] for an Arrow type that IPC cannot write.
    pub fn encode(&self) -> Result<Vec<u8>, UdfError> {
        rmp_serde::to_vec_named(self).map_err(UdfError::EncodeSpec)
    }

    /// Reads what [`Self::encode`] wrote.
    ///
    /// # Errors
    /// [`UdfError::DecodeSpec`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, UdfError> {
        rmp_serde::from_slice(bytes).map_err(UdfError::DecodeSpec)
    }
}

impl FromStr for BatchFormat {
    type Err = UnknownBatchFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.iter();
        let mut found = known.filter(|(_, name)| name.eq_ignore_ascii_case(text));
        match found.next() {
            Some((format, _)) => Ok(*format),
            None => Err(UnknownBatchFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for BatchFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut known = Self::ALL.iter().filter(|(format, _)| format == self);
        f.write_str(known.next().map_or("", |(_, name)| name))
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "python",
            Self::Native => "native",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;
    use crate::resources::Amount;

    fn spec() -> FunctionSpec {
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let columns = vec![Field::new("chunk", DataType::Utf8View, true)];
        FunctionSpec {
            name: "chunks".into(),
            language: Language::Python,
            params: vec![
                Param {
                    name: "docs".into(),
                    kind: ParamKind::Table,
                },
                Param {
                    name: "at".into(),
                    kind: ParamKind::Value(DataType::Timestamp(
                        TimeUnit::Microsecond,
                        Some("Europe/Rome".into()),
                    )),
                },
                Param {
                    name: "v".into(),
                    kind: ParamKind::Value(DataType::List(item)),
                },
            ],
            returns: Returns::Table(Arc::new(Schema::new(columns))),
            object: ObjectKind::Class,
            volatility: Volatility::Stable,
            strict: false,
            body: "def chunks(docs): ...".into(),
            defaults: CallDefaults {
                batch_size: Some(64),
                ..CallDefaults::default()
            },
            actor: None,
        }
    }

    #[test]
    fn code_that_names_the_module_may_ask_for_its_context() {
        for (body, asks) in [
            ("import mobula\ndef f(x): return x", true),
            ("def f(x): return __import__('mobula').context().row", true),
            ("from mobula import context", true),
            ("exec(compile(text, '<mobula carried>', 'exec'), {})", false),
            ("import mobula_tools, my_mobula", false),
            ("def f(x): return x", false),
        ] {
            let spec = FunctionSpec {
                body: body.into(),
                ..spec()
            };
            assert_eq!(spec.may_ask_for_context(), asks, "{body}");
        }
    }

    #[test]
    fn bytes_round_trip_and_name_the_function() {
        let spec = spec();
        let bytes = spec.encode().unwrap();
        let back = FunctionSpec::decode(&bytes).unwrap();
        assert_eq!(back, spec);
        assert_eq!(back.hash(), spec.hash());
        let other = FunctionSpec {
            body: "def chunks(docs): pass".into(),
            ..spec.clone()
        };
        assert_ne!(other.hash(), spec.hash());
        for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            assert!(FunctionSpec::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn a_demand_is_kept_and_older_bytes_have_none() {
        let mut spec = spec();
        let before = spec.encode().unwrap();
        assert!(!String::from_utf8_lossy(&before).contains("demand"));
        assert!(
            FunctionSpec::decode(&before)
                .unwrap()
                .defaults
                .demand
                .is_none()
        );
        spec.defaults.demand.gpus = Some(Amount::from_milli(500));
        spec.defaults.demand.labels = "zone=a|zone!=b".parse().unwrap();
        assert_eq!(FunctionSpec::decode(&spec.encode().unwrap()).unwrap(), spec);
    }

    #[test]
    fn batch_formats_read_back() {
        for (format, name) in BatchFormat::ALL {
            assert_eq!(format.to_string(), name);
            assert_eq!(name.to_uppercase().parse(), Ok(format));
        }
        let error = "arrow".parse::<BatchFormat>().unwrap_err().to_string();
        assert_eq!(
            error,
            "batch_format 'arrow' is not known. Write 'numpy', 'pyarrow', 'pandas', 'polars' or 'rows'"
        );
    }
}
