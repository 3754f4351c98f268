//! SqlInfo: what this server is and can do, code by code.
//!
//! Drivers cast the union leg of a code without looking, so the Rust type of a
//! value below is part of the answer: `&str` text, `bool` a flag, `i64` a number
//! (all limits, and the isolation level), `i32` an ordinal or a bitmask, lists
//! and the map of casts their own legs. A missing code breaks drivers as well,
//! so every code has a value; a limit of 0 means none that is known. An empty
//! request means all.

use std::collections::BTreeMap;

use arrow::compute::can_cast_types;
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::{
    CommandGetSqlInfo, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity, SqlSupportedGroupBy, SqlSupportedResultSetConcurrency,
    SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions,
    SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};
use datafusion::execution::SessionState;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use tonic::Status;

use super::ServiceSettings;
use super::metadata::unbuilt;

/// The answer to GetSqlInfo.
pub fn block(
    state: &SessionState,
    settings: &ServiceSettings,
    asked: CommandGetSqlInfo,
) -> Result<RecordBatch, Status> {
    let mut facts = SqlInfoDataBuilder::new();
    for (code, text) in TEXTS {
        facts.append(*code, *text);
    }
    for (code, flag) in FLAGS {
        facts.append(*code, *flag);
    }
    for code in UNKNOWN_LIMITS {
        facts.append(*code, 0_i64);
    }
    for (code, bits) in bitmasks() {
        facts.append(code, bits);
    }
    for (code, functions) in function_lists(state) {
        facts.append(code, functions);
    }
    let numbers = [
        (
            SqlInfo::SqlMaxStatementLength,
            number(settings.sql_max_bytes),
        ),
        (SqlInfo::SqlMaxStatements, number(settings.prepared_max)),
        (SqlInfo::SqlMaxConnections, number(settings.max_sessions)),
        (SqlInfo::SqlMaxRowSize, number(super::stream::ROW_LIMIT)),
        (
            SqlInfo::SqlDefaultTransactionIsolation,
            SqlTransactionIsolationLevel::SqlTransactionNone as i64,
        ),
    ];
    for (code, value) in numbers {
        facts.append(code, value);
    }
    let ttl_ms = i32::try_from(settings.session_ttl.as_millis()).unwrap_or(i32::MAX);
    facts.append(SqlInfo::FlightSqlServerStatementTimeout, ttl_ms);
    facts.append(SqlInfo::SqlSupportsConvert, casts());
    let keywords = ALL_KEYWORDS.iter().map(ToString::to_string);
    facts.append(SqlInfo::SqlKeywords, keywords.collect::<Vec<_>>());
    let facts = facts.build().map_err(unbuilt)?;
    asked.into_builder(&facts).build().map_err(unbuilt)
}

const TEXTS: &[(SqlInfo, &str)] = &[
    (SqlInfo::FlightSqlServerName, "Mobula"),
    (SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION")),
    (SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION),
    (SqlInfo::FlightSqlServerSubstraitMinVersion, ""),
    (SqlInfo::FlightSqlServerSubstraitMaxVersion, ""),
    (SqlInfo::SqlIdentifierQuoteChar, "\""),
    (SqlInfo::SqlSearchStringEscape, "\\"),
    (SqlInfo::SqlExtraNameCharacters, ""),
    (SqlInfo::SqlSchemaTerm, "schema"),
    (SqlInfo::SqlProcedureTerm, "procedure"),
    (SqlInfo::SqlCatalogTerm, "catalog"),
];

const FLAGS: &[(SqlInfo, bool)] = &[
    (SqlInfo::FlightSqlServerReadOnly, false),
    (SqlInfo::FlightSqlServerSql, true),
    (SqlInfo::FlightSqlServerSubstrait, false),
    (SqlInfo::FlightSqlServerCancel, true),
    (SqlInfo::FlightSqlServerBulkIngestion, true),
    (SqlInfo::FlightSqlServerIngestTransactionsSupported, false),
    (SqlInfo::SqlDdlCatalog, false),
    (SqlInfo::SqlDdlSchema, true),
    (SqlInfo::SqlDdlTable, true),
    (SqlInfo::SqlAllTablesAreSelectable, true),
    (SqlInfo::SqlSupportsColumnAliasing, true),
    (SqlInfo::SqlNullPlusNullIsNull, true),
    (SqlInfo::SqlSupportsTableCorrelationNames, true),
    (SqlInfo::SqlSupportsDifferentTableCorrelationNames, false),
    (SqlInfo::SqlSupportsExpressionsInOrderBy, true),
    (SqlInfo::SqlSupportsOrderByUnrelated, true),
    (SqlInfo::SqlSupportsLikeEscapeClause, true),
    (SqlInfo::SqlSupportsNonNullableColumns, true),
    (SqlInfo::SqlSupportsIntegrityEnhancementFacility, false),
    (SqlInfo::SqlCatalogAtStart, true),
    (SqlInfo::SqlSelectForUpdateSupported, false),
    (SqlInfo::SqlStoredProceduresSupported, false),
    (SqlInfo::SqlCorrelatedSubqueriesSupported, true),
    (SqlInfo::SqlMaxRowSizeIncludesBlobs, true),
    (SqlInfo::SqlTransactionsSupported, false),
    (SqlInfo::SqlDataDefinitionCausesTransactionCommit, false),
    (SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false),
    (SqlInfo::SqlBatchUpdatesSupported, false),
    (SqlInfo::SqlSavepointsSupported, false),
    (SqlInfo::SqlNamedParametersSupported, false),
    (SqlInfo::SqlLocatorsUpdateCopy, false),
    (SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported, false),
];

const UNKNOWN_LIMITS: &[SqlInfo] = &[
    SqlInfo::SqlMaxBinaryLiteralLength,
    SqlInfo::SqlMaxCharLiteralLength,
    SqlInfo::SqlMaxColumnNameLength,
    SqlInfo::SqlMaxColumnsInGroupBy,
    SqlInfo::SqlMaxColumnsInIndex,
    SqlInfo::SqlMaxColumnsInOrderBy,
    SqlInfo::SqlMaxColumnsInSelect,
    SqlInfo::SqlMaxColumnsInTable,
    SqlInfo::SqlMaxCursorNameLength,
    SqlInfo::SqlMaxIndexLength,
    SqlInfo::SqlDbSchemaNameLength,
    SqlInfo::SqlMaxProcedureNameLength,
    SqlInfo::SqlMaxCatalogNameLength,
    SqlInfo::SqlMaxTableNameLength,
    SqlInfo::SqlMaxTablesInSelect,
    SqlInfo::SqlMaxUsernameLength,
];

/// Ordinals and sets of ordinals, both in the 32-bit leg.
fn bitmasks() -> Vec<(SqlInfo, i32)> {
    use SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as ReadOnly;
    use SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as ForwardOnly;
    let lower = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    let unknown = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32;
    let no_transactions = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    vec![
        (
            SqlInfo::FlightSqlServerTransaction,
            SqlSupportedTransaction::None as i32,
        ),
        (SqlInfo::FlightSqlServerTransactionTimeout, 0),
        (SqlInfo::SqlIdentifierCase, lower),
        (SqlInfo::SqlQuotedIdentifierCase, unknown),
        (
            SqlInfo::SqlNullOrdering,
            SqlNullOrdering::SqlNullsSortedHigh as i32,
        ),
        (
            SqlInfo::SqlSupportedGroupBy,
            bits(&[
                SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
                SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedGrammar,
            bits(&[
                SupportedSqlGrammar::SqlMinimumGrammar as i32,
                SupportedSqlGrammar::SqlCoreGrammar as i32,
            ]),
        ),
        // Entry level of SQL-92 is bit 0.
        (SqlInfo::SqlAnsi92SupportedLevel, 1),
        (
            // An ordinal by its description, a set of them by every reader.
            SqlInfo::SqlOuterJoinsSupportLevel,
            bits(&[
                SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32,
                SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
            ]),
        ),
        (SqlInfo::SqlSchemasSupportedActions, 0),
        (SqlInfo::SqlCatalogsSupportedActions, 0),
        (SqlInfo::SqlSupportedPositionedCommands, 0),
        (
            SqlInfo::SqlSupportedSubqueries,
            bits(&[
                SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
                SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
                SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedUnions,
            bits(&[
                SqlSupportedUnions::SqlUnion as i32,
                SqlSupportedUnions::SqlUnionAll as i32,
            ]),
        ),
        (
            SqlInfo::SqlSupportedTransactionsIsolationLevels,
            bits(&[no_transactions]),
        ),
        (
            SqlInfo::SqlSupportedResultSetTypes,
            bits(&[ForwardOnly as i32]),
        ),
        (SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly,
            bits(&[ReadOnly as i32]),
        ),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive,
            0,
        ),
        (
            SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive,
            0,
        ),
    ]
}

fn bits(ordinals: &[i32]) -> i32 {
    ordinals.iter().fold(0, |set, ordinal| set | (1 << ordinal))
}

fn number(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Scalar functions by kind, as their documentation sorts them; those without
/// any, like users' own, count as system functions.
fn function_lists(state: &SessionState) -> Vec<(SqlInfo, Vec<String>)> {
    let mut numeric = Vec::new();
    let mut text = Vec::new();
    let mut time = Vec::new();
    let mut system = Vec::new();
    for (name, function) in state.scalar_functions() {
        let section = function
            .documentation()
            .map(|found| found.doc_section.label);
        let list = match section {
            Some("Math Functions") => &mut numeric,
            Some("String Functions" | "Regular Expression Functions") => &mut text,
            Some("Time and Date Functions") => &mut time,
            _ => &mut system,
        };
        list.push(name.clone());
    }
    let mut lists = vec![
        (SqlInfo::SqlNumericFunctions, numeric),
        (SqlInfo::SqlStringFunctions, text),
        (SqlInfo::SqlDatetimeFunctions, time),
        (SqlInfo::SqlSystemFunctions, system),
    ];
    for (_, names) in &mut lists {
        names.sort_unstable();
    }
    lists
}

/// Which of the types that drivers know can be cast to which, as CAST does it.
fn casts() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert as Kind;
    let types = [
        (Kind::SqlConvertBigint, DataType::Int64),
        (Kind::SqlConvertBit, DataType::Boolean),
        (Kind::SqlConvertChar, DataType::Utf8),
        (Kind::SqlConvertDate, DataType::Date32),
        (Kind::SqlConvertDecimal, DataType::Decimal128(38, 10)),
        (Kind::SqlConvertFloat, DataType::Float64),
        (Kind::SqlConvertInteger, DataType::Int32),
        (
            Kind::SqlConvertIntervalDayTime,
            DataType::Interval(IntervalUnit::DayTime),
        ),
        (
            Kind::SqlConvertIntervalYearMonth,
            DataType::Interval(IntervalUnit::YearMonth),
        ),
        (Kind::SqlConvertNumeric, DataType::Decimal128(38, 10)),
        (Kind::SqlConvertReal, DataType::Float32),
        (Kind::SqlConvertSmallint, DataType::Int16),
        (Kind::SqlConvertTime, DataType::Time64(TimeUnit::Nanosecond)),
        (
            Kind::SqlConvertTimestamp,
            DataType::Timestamp(TimeUnit::Nanosecond, None),
        ),
        (Kind::SqlConvertTinyint, DataType::Int8),
        (Kind::SqlConvertVarbinary, DataType::Binary),
        (Kind::SqlConvertVarchar, DataType::Utf8),
    ];
    types
        .iter()
        .map(|(from, source)| {
            let targets = types
                .iter()
                .filter(|(_, target)| can_cast_types(source, target))
                .map(|(to, _)| *to as i32)
                .collect();
            (*from as i32, targets)
        })
        .collect()
}
