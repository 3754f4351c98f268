//! SQL types as Arrow types, by DataFusion's own conversion and two types more: DURATION and, where
//! functions are declared, NULL.
//!
//! DataFusion offers the conversion only through a planner over a catalog; this
//! is that planner over nothing. Texts become `Utf8`, not views: declared types
//! are what workers receive and return. Called for `CREATE FUNCTION`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit};
use datafusion::common::{Result, TableReference, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::planner::{ContextProvider, ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{ColumnDef, DataType as SqlType};

/// Types that DataFusion's SQL has no words for: `DURATION`, a number of microseconds, and
/// `DURATION(n)` with `n` digits of a second, 0, 3, 6 or 9. It is what the difference of two
/// timestamps is, and Python's `timedelta`; an INTERVAL has months and days as well.
#[derive(Debug)]
pub(crate) struct MoreTypes;

impl TypePlanner for MoreTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let SqlType::Custom(name, digits) = sql_type else {
            return Ok(None);
        };
        if !name.to_string().eq_ignore_ascii_case("duration") {
            return Ok(None);
        }
        let unit = match digits.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["0"] => TimeUnit::Second,
            ["3"] => TimeUnit::Millisecond,
            [] | ["6"] => TimeUnit::Microsecond,
            ["9"] => TimeUnit::Nanosecond,
            _ => return plan_err!("{sql_type}: a DURATION has 0, 3, 6 or 9 digits of a second"),
        };
        Ok(Some(Arc::new(Field::new(
            "",
            DataType::Duration(unit),
            true,
        ))))
    }
}

/// Of declarations: `NULL` as well, the type of a column that has nothing else, as in `SELECT NULL`.
/// A function that passes such a column on gives it out as it came.
#[derive(Debug)]
struct DeclaredTypes;

impl TypePlanner for DeclaredTypes {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        match sql_type {
            SqlType::Custom(name, modifiers)
                if modifiers.is_empty() && name.to_string().eq_ignore_ascii_case("null") =>
            {
                Ok(Some(Arc::new(Field::new("", DataType::Null, true))))
            }
            _ => MoreTypes.plan_type_field(sql_type),
        }
    }
}

/// The Arrow schema of `columns`.
///
/// # Errors
/// Types DataFusion does not know.
pub fn arrow_schema(columns: Vec<ColumnDef>) -> Result<Schema> {
    let mut config = ConfigOptions::default();
    // A declaration is for all sessions, whatever zone they show times in.
    config.execution.time_zone = Some("+00:00".to_owned());
    let nothing = NoCatalog(config);
    let options = ParserOptions::default().with_map_string_types_to_utf8view(false);
    SqlToRel::new_with_options(&nothing, options).build_schema(columns)
}

/// A catalog without tables or functions: types need none.
struct NoCatalog(ConfigOptions);

impl ContextProvider for NoCatalog {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("no table \"{name}\" in a type")
    }

    fn get_function_meta(&self, _name: &str) -> Option<Arc<ScalarUDF>> {
        None
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _name: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(DeclaredTypes))
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.0
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
