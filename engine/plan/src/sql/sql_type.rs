//! SQL types as Arrow types, by DataFusion's own conversion.
//!
//! DataFusion offers the conversion only through a planner over a catalog; this
//! is that planner over nothing. Texts become `Utf8`, not views: declared types
//! are what workers receive and return. Called for `CREATE FUNCTION`.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::{Result, TableReference, plan_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::sql::planner::{ContextProvider, ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::ColumnDef;

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
