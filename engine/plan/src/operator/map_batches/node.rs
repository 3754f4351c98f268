//! The logical half: what goes in, what comes out, what may move past it.
//!
//! Four shapes. `Column`: all input columns pass through and one is appended, so
//! unread columns are pruned below it, filters on other columns and limits move
//! below it. With a mask the call sees only rows for which that column is true.
//! `Filter`: all input columns pass through for some rows; as `Column`, but limits
//! stay above, as above a column whose failed rows are left out. `Table`: all
//! columns go in and RETURNS TABLE comes out; nothing moves past it but what the
//! function promises: filters on columns that pass through, limits where it keeps
//! rows; unread columns are pruned below it. `Groups`: the same, a group of rows at a
//! time; nothing moves past it, nor past any of the others where rows go to actors by key.
//! Arguments are columns; whoever makes the node computes
//! expressions in a projection below.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use mobula_udfs::{FunctionSpec, Literal, Returns};

use super::{FunctionCall, Grouping};
use crate::error::PlanError;
use crate::physical_planner::is_ordered;
use crate::udf::check_arguments;

/// How a call meets its input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd)]
pub enum NodeShape {
    /// One column named `result` is appended.
    Column {
        /// Input column of each parameter, in order.
        args: Vec<Column>,
        /// Rows for which it is not true get NULL without a call.
        mask: Option<Column>,
        result: String,
    },
    /// Rows stay or go.
    Filter {
        /// Input column of each parameter, in order, or of each key of a row.
        args: Vec<Column>,
    },
    /// The output is the function's table alone.
    Table,
    /// The same, of each group of rows.
    Groups(Grouping),
}

impl NodeShape {
    /// The input columns that it names: arguments, then the mask; or keys, then
    /// their order.
    pub fn reads(&self) -> Vec<&Column> {
        let (args, mask) = match self {
            Self::Column { args, mask, .. } => (args.as_slice(), mask.as_ref()),
            Self::Filter { args } => (args.as_slice(), None),
            Self::Groups(grouping) => return grouping.columns().collect(),
            Self::Table => (&[][..], None),
        };
        args.iter().chain(mask).collect()
    }
}

/// `MapBatches` in a logical plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MapBatchesNode {
    input: LogicalPlan,
    call: FunctionCall,
    shape: NodeShape,
    schema: DFSchemaRef,
    /// Columns whose equal values go to one actor, and the order in which.
    keys: Option<Grouping>,
}

impl MapBatchesNode {
    /// Appends column `result`: a scalar function over columns of `input`.
    ///
    /// # Errors
    /// Wrong number or types of arguments, and a `result` that is taken.
    pub fn try_new_column(
        input: LogicalPlan,
        call: FunctionCall,
        args: Vec<Column>,
        result: String,
    ) -> Result<Self> {
        let Returns::Scalar(data_type) = &call.spec().returns else {
            return Err(PlanError::TableFunction {
                function: call.spec().name.clone(),
            }
            .into());
        };
        check_types(call.spec(), &input, &args)?;
        let schema = appended(input.schema(), &result, data_type)?;
        Ok(Self {
            input,
            call,
            shape: NodeShape::Column {
                args,
                mask: None,
                result,
            },
            schema,
            keys: None,
        })
    }

    /// The same with a column that says which rows the call sees.
    ///
    /// # Errors
    /// An internal error when the input has no such truth value, or the node
    /// appends no column.
    pub fn with_mask(mut self, column: Option<Column>) -> Result<Self> {
        let Some(column) = column else {
            return Ok(self);
        };
        let index = self.input.schema().index_of_column(&column)?;
        let data_type = self.input.schema().field(index).data_type();
        match &mut self.shape {
            NodeShape::Column { mask, .. } if *data_type == DataType::Boolean => {
                *mask = Some(column);
                Ok(self)
            }
            _ => internal_err!("column {column} ({data_type}) is no mask"),
        }
    }

    /// Drops rows of `input`: a function that returns BOOLEAN over its columns.
    ///
    /// # Errors
    /// A function that returns something else, and wrong types of arguments.
    pub fn try_new_filter(
        input: LogicalPlan,
        call: FunctionCall,
        args: Vec<Column>,
    ) -> Result<Self> {
        if call.spec().returns != Returns::Scalar(DataType::Boolean) {
            let function = call.spec().name.clone();
            return Err(PlanError::NotBoolean { function }.into());
        }
        if !call.spec().takes_table() {
            check_types(call.spec(), &input, &args)?;
        }
        Ok(Self {
            schema: Arc::clone(input.schema()),
            input,
            call,
            shape: NodeShape::Filter { args },
            keys: None,
        })
    }

    /// Replaces `input` by what a table function makes of it, or of each group.
    ///
    /// # Errors
    /// When the function is scalar, or two input columns have one name.
    pub fn try_new_table(
        input: LogicalPlan,
        call: FunctionCall,
        grouping: Option<Grouping>,
    ) -> Result<Self> {
        let Returns::Table(schema) = &call.spec().returns else {
            return internal_err!("function \"{}\" returns no table", call.spec().name);
        };
        let mut seen = HashSet::new();
        if let Some(field) = input
            .schema()
            .fields()
            .iter()
            .find(|f| !seen.insert(f.name()))
        {
            return Err(PlanError::ColumnTwice {
                function: call.spec().name.clone(),
                column: field.name().clone(),
            }
            .into());
        }
        check_promises(&call, &input)?;
        let schema = Arc::new(DFSchema::try_from(schema.as_ref().clone())?);
        Ok(Self {
            input,
            call,
            shape: match grouping {
                Some(grouping) => NodeShape::Groups(grouping),
                None => NodeShape::Table,
            },
            schema,
            keys: None,
        })
    }

    /// The same, of rows that go to actors by key.
    pub fn with_keys(mut self, keys: Option<Grouping>) -> Self {
        self.keys = keys;
        self
    }

    /// The same, built with parameters.
    pub(crate) fn with_parameters(mut self, parameters: Vec<(String, String)>) -> Self {
        self.call = self.call.with_parameters(parameters);
        self
    }

    /// The same with the values of the parameters it is built with.
    pub(crate) fn with_values<E>(
        mut self,
        value: impl Fn(&str) -> std::result::Result<Literal, E>,
    ) -> std::result::Result<Self, E> {
        self.call = self.call.with_values(value)?;
        Ok(self)
    }

    /// By what rows go to actors; `None`: to any.
    pub fn keys(&self) -> Option<&Grouping> {
        self.keys.as_ref()
    }

    /// The input columns that it names, those of its keys last.
    fn named(&self) -> impl Iterator<Item = &Column> {
        let keys = self.keys.iter().flat_map(Grouping::columns);
        self.shape.reads().into_iter().chain(keys)
    }

    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension {
            node: Arc::new(self),
        })
    }

    pub fn call(&self) -> &FunctionCall {
        &self.call
    }

    /// The columns of a table function's rows that are not the input's: those of
    /// another name or type.
    fn made_columns(&self) -> HashSet<String> {
        let input = self.input.schema();
        let passes = |field: &Field| {
            let from = input.field_with_unqualified_name(field.name());
            self.call.passthrough().contains(field.name())
                && from.is_ok_and(|from| from.data_type() == field.data_type())
        };
        let made = self.schema.fields().iter().filter(|field| !passes(field));
        made.map(|field| field.name().clone()).collect()
    }

    /// The input columns that a table function takes, by place.
    fn columns_in(&self) -> Vec<usize> {
        let fields = self.input.schema().fields().iter().enumerate();
        let taken = |name: &String| match self.call.reads() {
            Some(reads) => reads.contains(name) || self.call.passthrough().contains(name),
            None => true,
        };
        let taken = fields.filter(|(_, field)| taken(field.name()));
        taken.map(|(i, _)| i).collect()
    }

    pub fn shape(&self) -> &NodeShape {
        &self.shape
    }

    pub fn input(&self) -> &LogicalPlan {
        &self.input
    }
}

/// Columns that a table function names must be there.
fn check_promises(call: &FunctionCall, input: &LogicalPlan) -> Result<(), PlanError> {
    let names: Vec<_> = input.schema().fields().iter().map(|f| f.name()).collect();
    let reads = call.reads().unwrap_or_default().iter();
    let named = reads.map(|column| ("reads", column));
    let mut named = named.chain(call.passthrough().iter().map(|c| ("passthrough", c)));
    match named.find(|(_, column)| !names.contains(column)) {
        None => Ok(()),
        Some((option, column)) => Err(PlanError::PromisedColumn {
            function: call.spec().name.clone(),
            option,
            column: column.clone(),
            columns: names.into_iter().cloned().collect::<Vec<_>>().join(", "),
        }),
    }
}

fn check_types(spec: &FunctionSpec, input: &LogicalPlan, args: &[Column]) -> Result<()> {
    let types = args.iter().map(|column| {
        let index = input.schema().index_of_column(column)?;
        Ok(input.schema().field(index).data_type())
    });
    let types = types.collect::<Result<Vec<_>>>()?;
    check_arguments(spec, types.into_iter())?;
    Ok(())
}

/// `input` with a nullable column `result` at its end.
fn appended(input: &DFSchema, result: &str, data_type: &DataType) -> Result<DFSchemaRef> {
    if input.fields().iter().any(|field| field.name() == result) {
        return Err(PlanError::ResultName {
            column: result.to_owned(),
        }
        .into());
    }
    let mut fields: Vec<_> = input
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)))
        .collect();
    fields.push((None, Arc::new(Field::new(result, data_type.clone(), true))));
    let schema = DFSchema::new_with_metadata(fields, input.metadata().clone())?;
    Ok(Arc::new(schema))
}

impl PartialOrd for MapBatchesNode {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.call.partial_cmp(&other.call)? {
            Ordering::Equal => match self.shape.partial_cmp(&other.shape)? {
                Ordering::Equal => match self.keys.partial_cmp(&other.keys)? {
                    Ordering::Equal => self.input.partial_cmp(&other.input),
                    order => Some(order),
                },
                order => Some(order),
            },
            order => Some(order),
        }
    }
}

impl UserDefinedLogicalNodeCore for MapBatchesNode {
    fn name(&self) -> &str {
        self.call.operator().node
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.named().cloned().map(Expr::Column).collect()
    }

    /// A filter on passed-through columns may run before a call that has no
    /// memory; it must not change what a volatile function sees, or a keyed actor.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let has_memory = self.call.is_volatile() || self.keys.is_some();
        match &self.shape {
            NodeShape::Column { result, .. } if !has_memory => HashSet::from([result.clone()]),
            NodeShape::Filter { .. } if !has_memory => HashSet::new(),
            NodeShape::Table if !has_memory => self.made_columns(),
            // A group has its keys in every row: it goes or stays as a whole.
            NodeShape::Groups(Grouping { keys, .. }) if !has_memory => {
                let keys: HashSet<_> = keys.iter().map(Column::name).collect();
                let all = self.schema.fields().iter().map(|f| f.name());
                let within = all.filter(|name| !keys.contains(name.as_str())).cloned();
                within.chain(self.made_columns()).collect()
            }
            _ => self
                .schema
                .fields()
                .iter()
                .map(|f| f.name().clone())
                .collect(),
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |args: &[Column]| {
            let names: Vec<_> = args.iter().map(Column::flat_name).collect();
            names.join(", ")
        };
        write!(f, "{}: {} over ", self.call.operator().node, self.call)?;
        match &self.shape {
            NodeShape::Column { args, mask, result } => {
                write!(f, "[{}] AS {result}", listed(args))?;
                if let Some(mask) = mask {
                    write!(f, ", mask={}", mask.flat_name())?;
                }
            }
            NodeShape::Filter { args } => write!(f, "[{}]", listed(args))?,
            NodeShape::Table => write!(f, "TABLE")?,
            NodeShape::Groups(_) => write!(f, "TABLE")?,
        }
        let groups = match &self.shape {
            NodeShape::Groups(grouping) => Some(grouping),
            _ => self.keys.as_ref(),
        };
        if let Some(Grouping { keys, order }) = groups {
            write!(f, ", partition_by=[{}]", listed(keys))?;
            if !order.is_empty() {
                let keys = order.iter();
                let keys = keys.map(|(c, way)| format!("{}{way}", c.flat_name()));
                write!(f, ", order_by=[{}]", keys.collect::<Vec<_>>().join(", "))?;
            }
        }
        if self.call.spec().is_table() {
            self.call.write_promises(f)?;
        }
        Ok(())
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([input]) = <[LogicalPlan; 1]>::try_from(inputs) else {
            return internal_err!("{} has one input", self.call.operator().node);
        };
        let columns = exprs.into_iter().map(column_of);
        let mut args = columns.collect::<Result<Vec<_>>>()?;
        let call = self.call.clone();
        let keys = match &self.keys {
            Some(keys) => {
                let count = keys.columns().count();
                let columns = args.split_off(args.len().saturating_sub(count));
                Some(keys.of(columns))
            }
            None => None,
        };
        let node = match &self.shape {
            NodeShape::Table => Self::try_new_table(input, call, None),
            NodeShape::Groups(grouping) => {
                Self::try_new_table(input, call, Some(grouping.of(args)))
            }
            NodeShape::Filter { .. } => Self::try_new_filter(input, call, args),
            NodeShape::Column { mask, result, .. } => {
                let mask = mask.as_ref().and_then(|_| args.pop());
                Self::try_new_column(input, call, args, result.clone())?.with_mask(mask)
            }
        };
        Ok(node?.with_keys(keys))
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let input = self.input.schema();
        // The columns of an ORDER BY inside are among them, under whatever name.
        let is_sorted = self.call.is_in_order() && is_ordered(&self.input);
        if is_sorted {
            return Some(vec![(0..input.fields().len()).collect()]);
        }
        let mut needed: BTreeSet<usize> = match self.shape {
            NodeShape::Table | NodeShape::Groups(_) => self.columns_in().into_iter().collect(),
            NodeShape::Column { .. } | NodeShape::Filter { .. } => {
                let passed = output_columns.iter().copied();
                passed.filter(|i| *i < input.fields().len()).collect()
            }
        };
        for column in self.named() {
            needed.insert(input.maybe_index_of_column(column)?);
        }
        Some(vec![needed.into_iter().collect()])
    }

    fn supports_limit_pushdown(&self) -> bool {
        match self.shape {
            _ if self.keys.is_some() => false,
            NodeShape::Column { .. } => !self.call.errors().on_error.drops_rows(),
            NodeShape::Filter { .. } | NodeShape::Groups(_) => false,
            NodeShape::Table => self.call.keeps_rows(),
        }
    }
}

fn column_of(expr: Expr) -> Result<Column> {
    match expr {
        Expr::Column(column) => Ok(column),
        Expr::Alias(alias) => column_of(*alias.expr),
        other => internal_err!("an argument of our nodes must be a column, not {other}"),
    }
}
