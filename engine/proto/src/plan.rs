//! Messages of plan nodes: what an executor needs to rebuild our execs.
//!
//! Written and read by `mobula_plan::codec` alone. The declaration of a
//! function travels inside [`MapBatchesExecNode::udf_call`], encoded by
//! `mobula_udfs`, so that this crate knows no Arrow type.

/// One of our execs inside a plan; its inputs travel beside it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecNode {
    #[prost(oneof = "exec_node::Kind", tags = "1, 2, 3, 4, 5, 6, 7, 8")]
    pub kind: Option<exec_node::Kind>,
}

/// The kinds of [`ExecNode`].
pub mod exec_node {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        MapBatches(super::MapBatchesExecNode),
        #[prost(message, tag = "2")]
        Spread(super::SpreadExecNode),
        #[prost(message, tag = "3")]
        Route(super::RouteExecNode),
        #[prost(message, tag = "4")]
        Blocks(super::BlocksExecNode),
        #[prost(message, tag = "5")]
        Veil(super::VeilExecNode),
        #[prost(message, tag = "6")]
        TextScan(super::TextScanExecNode),
        #[prost(message, tag = "7")]
        Keep(super::KeepExecNode),
        #[prost(message, tag = "8")]
        KeptScan(super::KeptScanExecNode),
    }
}

/// `SpreadExec` above rows that are spread.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SpreadExecNode {
    /// Streams of each task.
    #[prost(uint64, tag = "1")]
    pub partitions: u64,
    #[prost(uint64, tag = "2")]
    pub tasks: u64,
    /// Columns of the input whose equal values come in one stream.
    #[prost(uint32, repeated, tag = "3")]
    pub by: Vec<u32>,
}

/// `RouteExec`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RouteExecNode {
    /// Over all tasks.
    #[prost(uint64, tag = "1")]
    pub partitions: u64,
}

/// `BlocksExec`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BlocksExecNode {
    #[prost(uint64, tag = "1")]
    pub rows_per_block: u64,
}

/// `VeilExec`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct VeilExecNode {}

/// A scan of files of CSV or JSON.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TextScanExecNode {
    /// A scan of the same files and columns, as a plan node of DataFusion's.
    #[prost(bytes = "vec", tag = "1")]
    pub files: Vec<u8>,
    /// As `CREATE EXTERNAL TABLE` has it: `GZIP`, `BZIP2`, `XZ`, `ZSTD`; empty: none.
    #[prost(string, tag = "2")]
    pub compression: String,
    /// Absent: JSON.
    #[prost(message, optional, tag = "3")]
    pub csv: Option<CsvDialect>,
    /// All rows of JSON are in one array.
    #[prost(bool, tag = "4")]
    pub is_array: bool,
    /// First rows that types were found by; absent: they were declared.
    #[prost(uint64, optional, tag = "5")]
    pub rows_looked_at: Option<u64>,
}

/// How rows of CSV are written. Characters are single bytes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct CsvDialect {
    #[prost(bool, tag = "1")]
    pub has_header: bool,
    #[prost(uint32, tag = "2")]
    pub delimiter: u32,
    #[prost(uint32, tag = "3")]
    pub quote: u32,
    /// Absent: line breaks end rows.
    #[prost(uint32, optional, tag = "4")]
    pub terminator: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub escape: Option<u32>,
    /// Begins lines that are no rows.
    #[prost(uint32, optional, tag = "6")]
    pub comment: Option<u32>,
    #[prost(bool, tag = "7")]
    pub newlines_in_values: bool,
    /// Rows may have fewer values than there are columns.
    #[prost(bool, tag = "8")]
    pub truncated_rows: bool,
}

/// `MapBatchesExec` and those that are run like it: one call of a function, and how it meets its input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MapBatchesExecNode {
    /// An encoded `mobula_udfs::UdfCall`.
    #[prost(bytes = "vec", tag = "1")]
    pub udf_call: Vec<u8>,
    /// Workers over the whole cluster; absent: the cores of each task.
    #[prost(uint64, optional, tag = "2")]
    pub concurrency: Option<u64>,
    #[prost(oneof = "map_batches_exec_node::Shape", tags = "3, 4, 5")]
    pub shape: Option<map_batches_exec_node::Shape>,
    /// Rows of a group come together; only with a table.
    #[prost(message, optional, tag = "6")]
    pub grouping: Option<Grouping>,
    /// Names the operator among those of its coordinator.
    #[prost(uint64, tag = "7")]
    pub call_id: u64,
}

/// How a call meets its input.
pub mod map_batches_exec_node {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Shape {
        /// The input's columns pass through and one is appended.
        #[prost(message, tag = "3")]
        Column(super::ColumnShape),
        /// All columns go in, other rows come out.
        #[prost(message, tag = "4")]
        Table(super::TableShape),
        /// The input's rows stay or go.
        #[prost(message, tag = "5")]
        Filter(super::ColumnShape),
    }
}

/// One column is appended, or decides about a row.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ColumnShape {
    /// Input column of each parameter, in order.
    #[prost(uint32, repeated, tag = "1")]
    pub args: Vec<u32>,
    /// Input column that says which rows the call sees; absent: all.
    #[prost(uint32, optional, tag = "2")]
    pub mask: Option<u32>,
}

/// Which rows are a group, and their order in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Grouping {
    /// Columns of the input.
    #[prost(uint32, repeated, tag = "1")]
    pub keys: Vec<u32>,
    #[prost(message, repeated, tag = "2")]
    pub order: Vec<SortKey>,
}

/// One column of an order.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SortKey {
    #[prost(uint32, tag = "1")]
    pub column: u32,
    #[prost(bool, tag = "2")]
    pub descending: bool,
    #[prost(bool, tag = "3")]
    pub nulls_first: bool,
}

/// The input goes in as it is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TableShape {
    /// Whether a row comes out of each row that goes in.
    #[prost(bool, tag = "1")]
    pub keeps_rows: bool,
}

/// `KeepExec` above rows that stay where they are made.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeepExecNode {
    /// Of the table that they become.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `KeptScanExec`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeptScanExecNode {
    #[prost(string, tag = "1")]
    pub id: String,
    /// Of the table, for errors.
    #[prost(string, tag = "2")]
    pub name: String,
    /// All columns of the table: a schema as DataFusion encodes it.
    #[prost(bytes = "vec", tag = "3")]
    pub schema: Vec<u8>,
    #[prost(uint32, repeated, tag = "4")]
    pub projection: Vec<u32>,
    #[prost(message, repeated, tag = "5")]
    pub streams: Vec<KeptStream>,
}

/// The parts of one stream, in their order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeptStream {
    #[prost(message, repeated, tag = "1")]
    pub parts: Vec<KeptPart>,
}

/// Blocks that a process has kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeptPart {
    #[prost(string, tag = "1")]
    pub executor_id: String,
    #[prost(string, tag = "2")]
    pub url: String,
    #[prost(uint64, tag = "3")]
    pub part: u64,
    #[prost(uint64, tag = "4")]
    pub rows: u64,
    #[prost(uint64, tag = "5")]
    pub bytes: u64,
    #[prost(uint64, tag = "6")]
    pub spilled_bytes: u64,
}
