//! `system.functions`: the functions that all sessions share.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use mobula_udfs::{FunctionSpec, ParamKind, Returns};

use super::columns::texts;
use super::{Rows, Table};
use crate::engine::Engine;

pub const TABLE: Table = Table {
    name: "functions",
    columns: &[
        ("name", DataType::Utf8),
        ("language", DataType::Utf8),
        ("kind", DataType::Utf8),
        ("object", DataType::Utf8),
        ("parameters", DataType::Utf8),
        ("returns", DataType::Utf8),
        ("volatility", DataType::Utf8),
        ("body", DataType::Utf8),
    ],
    rows: Rows::Here(functions),
};

fn functions(engine: &Arc<Engine>) -> Vec<ArrayRef> {
    let specs = engine.functions().list();
    let text = |f: fn(&FunctionSpec) -> String| texts(specs.iter().map(|s| f(s)));
    vec![
        text(|s| s.name.clone()),
        text(|s| format!("{:?}", s.language).to_lowercase()),
        text(|s| kind(s).to_owned()),
        text(|s| format!("{:?}", s.object).to_lowercase()),
        text(parameters),
        text(returns),
        text(|s| format!("{:?}", s.volatility).to_lowercase()),
        text(|s| s.body.clone()),
    ]
}

fn kind(spec: &FunctionSpec) -> &'static str {
    match (spec.is_method(), spec.is_table()) {
        (true, _) => "method",
        (false, true) => "table",
        (false, false) => "scalar",
    }
}

fn parameters(spec: &FunctionSpec) -> String {
    let params = spec.params.iter().map(|p| match &p.kind {
        ParamKind::Value(data_type) => format!("{} {data_type}", p.name),
        ParamKind::Table => format!("{} TABLE", p.name),
    });
    params.collect::<Vec<_>>().join(", ")
}

fn returns(spec: &FunctionSpec) -> String {
    match &spec.returns {
        Returns::Scalar(data_type) => data_type.to_string(),
        Returns::Table(schema) => {
            let columns = schema
                .fields()
                .iter()
                .map(|f| format!("{} {}", f.name(), f.data_type()));
            format!("TABLE({})", columns.collect::<Vec<_>>().join(", "))
        }
    }
}
