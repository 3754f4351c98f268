//! A statement with the values of its parameters: what it takes to run it.
//!
//! Values come as blocks of rows, one column a parameter. A statement runs once for each
//! row, in order; an INSERT of VALUES once for all of them. Columns go to parameters by
//! their names where these are written as `$name` and the columns have them, else by place.
//!
//! Invariant: a value is a value. It gets into the plan as a literal of its type; no text is
//! put together and parsed.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlan;
use mobula_plan::parameters::{bind, insert_all, with_types};
use mobula_plan::result_schema;

use super::prepared::{Ready, Work};
use super::{Parameter, Prepared, Session, StatementKind};
use crate::ServerError;

/// See the head of this file.
pub struct Bound {
    prepared: Arc<Prepared>,
    values: Values,
    /// The plan of the first run, if it is not that of the statement.
    first: Option<Arc<Ready>>,
    /// Of the rows; empty for all but queries.
    pub schema: SchemaRef,
}

enum Values {
    /// One run without any.
    None,
    /// A run for each row.
    Rows { columns: Vec<ArrayRef>, rows: usize },
    /// One run for all rows, whose plan has them.
    AtOnce,
}

impl Bound {
    pub fn prepared(&self) -> &Arc<Prepared> {
        &self.prepared
    }

    pub fn kind(&self) -> StatementKind {
        self.prepared.kind
    }

    /// How often it runs.
    pub fn runs(&self) -> usize {
        match &self.values {
            Values::None | Values::AtOnce => 1,
            Values::Rows { rows, .. } => *rows,
        }
    }

    /// Whether its plan was optimised by an earlier run.
    #[cfg(test)]
    pub fn is_ahead(&self) -> bool {
        self.first.as_ref().is_some_and(|ready| ready.is_optimised)
    }

    fn values(&self, run: usize) -> Result<Vec<ScalarValue>, ServerError> {
        match &self.values {
            Values::None | Values::AtOnce => Ok(vec![]),
            Values::Rows { columns, .. } => row(columns, run),
        }
    }
}

impl Session {
    /// `prepared` with `given`, the rows of its values.
    ///
    /// # Errors
    /// Too few or too many columns, none where there are parameters, and values that the
    /// statement cannot take.
    pub async fn bind(
        &self,
        prepared: &Arc<Prepared>,
        given: Option<RecordBatch>,
    ) -> Result<Arc<Bound>, ServerError> {
        // Rules of a library run here: a panic of theirs is this statement's alone.
        super::caught(async { self.bound(prepared, given).map(Arc::new) }).await
    }

    fn bound(
        &self,
        prepared: &Arc<Prepared>,
        given: Option<RecordBatch>,
    ) -> Result<Bound, ServerError> {
        let values = match given {
            Some(given) => placed(&prepared.parameters, given)?,
            None if prepared.parameters.is_empty() => Values::None,
            None => return Err(ServerError::no_values(&prepared.parameters)),
        };
        let mut bound = Bound {
            prepared: Arc::clone(prepared),
            values,
            first: None,
            schema: Arc::clone(&prepared.schema),
        };
        let Work::Plan(plan) = &prepared.work else {
            return Ok(bound);
        };
        if let Some(plan) = all_at_once(plan, &bound.values)? {
            bound.values = Values::AtOnce;
            bound.first = Some(Arc::new(written(plan)));
            return Ok(bound);
        }
        bound.first = match &bound.values {
            Values::Rows { rows: 0, columns } => {
                let types: Vec<DataType> = columns.iter().map(|c| c.data_type().clone()).collect();
                Some(Arc::new(written(with_types(
                    plan.as_ref().clone(),
                    &types,
                )?)))
            }
            _ => self.ready_with(prepared, &bound.values(0)?)?,
        };
        if let (StatementKind::Query, Some(first)) = (prepared.kind, &bound.first) {
            bound.schema = Arc::clone(&first.schema);
        }
        Ok(bound)
    }

    /// The plan of one run; `None`: as the statement was planned.
    pub(super) fn ready(
        &self,
        bound: &Bound,
        run: usize,
    ) -> Result<Option<Arc<Ready>>, ServerError> {
        match run {
            0 => Ok(bound.first.clone()),
            run => self.ready_with(&bound.prepared, &bound.values(run)?),
        }
    }

    fn ready_with(
        &self,
        prepared: &Prepared,
        values: &[ScalarValue],
    ) -> Result<Option<Arc<Ready>>, ServerError> {
        let Work::Plan(plan) = &prepared.work else {
            return Ok(None);
        };
        if let Some(ready) = prepared.optimised(self, values)? {
            return Ok(Some(Arc::new(ready)));
        }
        match values.is_empty() {
            true => Ok(None),
            false => {
                let bound = bind(plan.as_ref().clone(), values)?;
                Ok(Some(Arc::new(written(bound))))
            }
        }
    }
}

/// A plan that the rules have not seen.
fn written(plan: LogicalPlan) -> Ready {
    Ready {
        schema: result_schema(&plan),
        plan,
        is_optimised: false,
    }
}

/// An INSERT of several rows of values as one.
fn all_at_once(plan: &LogicalPlan, values: &Values) -> Result<Option<LogicalPlan>, ServerError> {
    let (Values::Rows { columns, rows }, LogicalPlan::Dml(_)) = (values, plan) else {
        return Ok(None);
    };
    if *rows < 2 {
        return Ok(None);
    }
    let rows = (0..*rows).map(|at| row(columns, at));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    Ok(insert_all(plan, &rows)?)
}

fn row(columns: &[ArrayRef], at: usize) -> Result<Vec<ScalarValue>, ServerError> {
    let values = columns.iter();
    let values = values.map(|column| ScalarValue::try_from_array(column, at));
    Ok(values.collect::<Result<_, _>>()?)
}

/// The columns of `given` in the order of `parameters`.
fn placed(parameters: &[Parameter], given: RecordBatch) -> Result<Values, ServerError> {
    let found = given.num_columns();
    if parameters.is_empty() && found == 0 {
        return Ok(Values::None);
    }
    let schema = given.schema();
    let place = |parameter: &Parameter| {
        let name = parameter.name.trim_start_matches('$');
        let is_it = |column: &str| column == name || column == parameter.name;
        schema.fields().iter().position(|f| is_it(f.name()))
    };
    let is_named = |p: &Parameter| !p.name[1..].bytes().all(|byte| byte.is_ascii_digit());
    let by_name: Option<Vec<usize>> = match parameters.iter().any(is_named) {
        true => parameters.iter().map(place).collect(),
        false => None,
    };
    let columns: Vec<ArrayRef> = match by_name {
        Some(places) => {
            let columns = places.into_iter().map(|at| Arc::clone(given.column(at)));
            columns.collect()
        }
        None => given.columns().to_vec(),
    };
    if columns.len() != parameters.len() || found != parameters.len() {
        let wanted = parameters.len();
        return Err(ServerError::ParameterCount { wanted, found });
    }
    let rows = given.num_rows();
    Ok(Values::Rows { columns, rows })
}
