//! Our plan rewrites, in the order they run.
//!
//! Analyzer rules run after DataFusion's type coercion, which has put casts
//! around arguments, and before its optimizer, which must never see a call of a
//! Python function inside an expression.

pub mod hoist_udf;

use std::sync::Arc;

use datafusion::optimizer::AnalyzerRule;

/// Rules appended to DataFusion's analyzer.
pub fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![Arc::new(hoist_udf::HoistUdf)]
}
