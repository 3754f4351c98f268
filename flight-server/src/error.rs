//! What the server can fail at, towards users.

use std::io;
use std::path::PathBuf;

use datafusion::common::DataFusionError;
use datafusion::parquet::errors::ParquetError;
use mobula_execution::{Classified, ErrorClass, ExecutionError, classify, classify_any};
use mobula_plan::PlanError;
use mobula_udfs::UdfError;

use crate::Parameter;

/// Errors of this crate; every text is one line that names the way out.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{}", classify(.0).message)]
    Query(#[source] DataFusionError),

    #[error(transparent)]
    Plan(#[from] PlanError),

    #[error(transparent)]
    Execution(#[from] ExecutionError),

    #[error(transparent)]
    Function(#[from] UdfError),

    #[error("the statement is empty")]
    Empty,

    #[error(
        "the statement has {bytes} bytes, {limit} is the most. Load data from files, or raise mobula.sql_max_bytes"
    )]
    LongStatement { bytes: usize, limit: usize },

    #[error("\"{name}\" is no setting. Did you mean mobula.{name}?")]
    ShortSetting { name: String },

    #[error(
        "\"{location}\": patterns are not expanded in object stores. Give the directory, with a slash at its end"
    )]
    RemotePattern { location: String },

    #[error("{n} statements came at once. Send one at a time")]
    ManyStatements { n: usize },

    #[error(
        "parameters are for queries, INSERT, COPY and CREATE TABLE … AS. Write the values into this statement"
    )]
    Parameters,

    #[error("{source}. If nothing says the type of a parameter there, write CAST({name} AS type)")]
    OpenType {
        name: String,
        #[source]
        source: Box<ServerError>,
    },

    #[error("the statement takes values for its parameters ({names}), and none were bound")]
    NoValues { names: String },

    #[error("the statement takes {wanted} parameters, and values for {found} were bound")]
    ParameterCount { wanted: usize, found: usize },

    #[error("row {row} of the parameters: {source}. The statement was done for those before it")]
    ParameterRow {
        row: usize,
        #[source]
        source: Box<ServerError>,
    },

    #[error("{kind} \"{name}\" exists already. {hint}")]
    Exists {
        kind: &'static str,
        name: String,
        hint: &'static str,
    },

    #[error(
        "{what} cannot use the function \"{function}\", which is temporary: it ends with this session, and others do not see it. Create it without TEMP"
    )]
    TemporaryFunction {
        what: &'static str,
        function: String,
    },

    #[error("{kind} \"{name}\" does not exist")]
    Missing { kind: &'static str, name: String },

    #[error("there is no {kind} \"{name}\". {hint}")]
    OtherKind {
        kind: &'static str,
        name: String,
        hint: &'static str,
    },

    #[error("table \"{name}\" does not exist{hint}")]
    NoTable { name: String, hint: String },

    #[error("{kind} \"{name}\" cannot be used: {reason}")]
    Unusable {
        kind: &'static str,
        name: String,
        reason: String,
    },

    #[error(
        "the ending of \"{location}\" names no format. End it in .parquet, .csv or .json, or use CREATE EXTERNAL TABLE … STORED AS"
    )]
    NoFormat { location: String },

    #[error("cannot read \"{location}\": {reason}")]
    Unreadable { location: String, reason: String },

    #[error(
        "cannot read \"{location}\": it is not there, or the store refuses us. Check the address; credentials come from CREATE EXTERNAL TABLE … OPTIONS or the AWS_* environment"
    )]
    RemoteFile { location: String },

    #[error("{text}")]
    Panic { text: String },

    #[error("{what}")]
    Unsupported { what: &'static str },

    #[error("no file matches \"{location}\". Check the path: it is read where the server runs")]
    NoFiles { location: String },

    #[error("cannot use \"{location}\" for table \"{table}\": {reason}")]
    TableFiles {
        table: String,
        location: String,
        reason: String,
    },

    #[error("cannot load rows into table \"{table}\": {reason}")]
    Load { table: String, reason: String },

    #[error(
        "table \"{table}\" was changed while rows for it came. None was loaded: load them again"
    )]
    LoadOvertaken { table: String },

    #[error("{most} loads are under way already. Try again later, or raise mobula.loads_max")]
    ManyLoads { most: usize },

    #[error(
        "loaded rows have more than {most} bytes on disk. Drop tables, or raise mobula.loaded_bytes_max"
    )]
    LoadedBytes { most: u64 },

    #[error("cannot write the rows as Parquet: {source}")]
    Unwritable {
        #[source]
        source: ParquetError,
    },

    #[error("the data directory \"{}\" is in use by process {pid}. Stop it, or choose another --data-dir", path.display())]
    DataDirInUse { path: PathBuf, pid: String },

    #[error("\"{}\" is a file. Choose another --data-dir", path.display())]
    DataDirIsFile { path: PathBuf },

    #[error("cannot {deed} \"{}\": {source}", path.display())]
    File {
        deed: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    #[error("the catalog \"{}\" cannot be used: {source}", path.display())]
    Catalog {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },

    #[error("the catalog holds a damaged {kind} \"{name}\": {reason}. Drop it and create it again")]
    Damaged {
        kind: String,
        name: String,
        reason: String,
    },

    #[error("{source_name}: {message}")]
    Setting {
        source_name: String,
        message: String,
    },

    #[error(
        "listening on {address} lets anyone in: there is no TLS and there are no users yet. Say --insecure if the network is trusted, or listen on 127.0.0.1"
    )]
    Insecure { address: String },

    #[error(
        "cannot listen on {address}: {source}. Choose another address, or port 0 for any free one"
    )]
    Listen {
        address: String,
        #[source]
        source: io::Error,
    },

    #[error("the client listener broke: {0}")]
    Serve(#[source] tonic::transport::Error),

    #[error(
        "cannot reach {url}: {}. Is `mobula serve` running there?",
        innermost(source)
    )]
    Connect {
        url: String,
        #[source]
        source: tonic::transport::Error,
    },

    #[error("{message}")]
    Remote { code: tonic::Code, message: String },

    #[error("{message}")]
    Python { message: String },

    #[error("cannot make TPC-H data in \"{}\": {reason}", path.display())]
    TpchData { path: PathBuf, reason: String },

    #[error("cancelled")]
    Cancelled,

    #[error("cannot write the result: {0}")]
    Output(#[source] io::Error),
}

impl ServerError {
    /// A statement with `parameters` that was bound to nothing.
    pub fn no_values(parameters: &[Parameter]) -> Self {
        const LISTED_MAX: usize = 20;
        let listed = parameters.iter().take(LISTED_MAX);
        let mut names: Vec<_> = listed.map(|p| p.name.as_str()).collect();
        if parameters.len() > LISTED_MAX {
            names.push("…");
        }
        let names = names.join(", ");
        Self::NoValues { names }
    }

    /// Class, line and place.
    pub fn classified(&self) -> Classified {
        match self {
            Self::ParameterRow { source, .. } | Self::OpenType { source, .. } => Classified {
                message: self.to_string(),
                ..source.classified()
            },
            Self::Query(e) => classify(e),
            Self::Plan(e) => classify_any(e),
            Self::Execution(e) => classify_any(e),
            Self::Function(e) => classify_any(e),
            other => Classified {
                class: other.class(),
                message: other.to_string(),
                executor: None,
                detail: None,
            },
        }
    }

    fn class(&self) -> ErrorClass {
        match self {
            Self::Connect { .. } => ErrorClass::Unavailable,
            Self::DataDirInUse { .. }
            | Self::DataDirIsFile { .. }
            | Self::File { .. }
            | Self::Catalog { .. }
            | Self::Insecure { .. }
            | Self::Listen { .. }
            | Self::Serve(_)
            | Self::Python { .. }
            | Self::TpchData { .. }
            | Self::Output(_) => ErrorClass::Setup,
            Self::ManyLoads { .. } | Self::LoadedBytes { .. } => ErrorClass::ResourceExhausted,
            Self::Unwritable {
                source: ParquetError::External(_),
            } => ErrorClass::Setup,
            Self::Cancelled => ErrorClass::Cancelled,
            Self::Damaged { .. } => ErrorClass::Internal,
            _ => ErrorClass::User,
        }
    }

    /// True when the named thing is not there.
    pub fn not_found(&self) -> bool {
        matches!(
            self,
            Self::Missing { .. }
                | Self::OtherKind { .. }
                | Self::NoTable { .. }
                | Self::NoFiles { .. }
                | Self::Unusable { .. }
        )
    }

    /// True when the named thing is there already.
    pub fn already_exists(&self) -> bool {
        matches!(self, Self::Exists { .. })
    }

    /// A user's traceback, if there is one.
    pub fn detail(&self) -> Option<String> {
        self.classified().detail
    }
}

impl From<DataFusionError> for ServerError {
    fn from(error: DataFusionError) -> Self {
        Self::Query(error)
    }
}

/// Transport errors hide the reason at the end of their chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
