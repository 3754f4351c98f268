//! Several functions that one worker runs on a block, one after another.
//!
//! What one of them gives goes to the next without leaving the worker. Two kinds:
//! functions of values, which each append a column to the columns that went in; and
//! a function of rows, whose rows go through functions that are called row by row.
//! Which neighbours may be put together is for the rule that does it; the worker's
//! `chain.py` runs them.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::call::{CallMode, UdfCall};
use crate::spec::FunctionSpec;

/// One function of a fused call.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// As if it stood alone: it has no steps of its own.
    pub call: UdfCall,
    /// The columns it is given, in order; `None`: those that come to it.
    pub takes: Option<Vec<Take>>,
}

/// Where a column of a step comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Take {
    /// A column of the block, or of the rows that come to this step.
    In(usize),
    /// What a function of values before this one made: the number of its step.
    Made(usize),
}

impl UdfCall {
    /// One call of `first` and then `others` on blocks of `input`.
    pub fn fused(input: SchemaRef, first: Step, others: Vec<Step>) -> Self {
        let call = first.call.clone();
        let steps: Vec<_> = std::iter::once(first).chain(others).collect();
        Self {
            input,
            output: given_by(&steps),
            steps,
            ..call
        }
    }

    /// The calls of one function each that it is made of.
    pub fn parts(&self) -> impl Iterator<Item = &UdfCall> {
        let alone = self.steps.is_empty().then_some(self);
        let fused = self.steps.iter().map(|step| &step.call);
        alone.into_iter().chain(fused)
    }

    /// The functions it is made of.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &FunctionSpec> {
        self.parts().map(|call| call.spec.as_ref())
    }

    /// `f`, or `f, g` of several functions.
    pub fn function_names(&self) -> String {
        let names: Vec<_> = self.specs().map(|spec| spec.name.as_str()).collect();
        names.join(", ")
    }
}

/// What comes out of the last step.
fn given_by(steps: &[Step]) -> SchemaRef {
    let mut given: Option<SchemaRef> = None;
    for Step { call, .. } in steps {
        given = Some(match given {
            Some(rows) if call.mode == CallMode::Filter && !call.spec.is_table() => rows,
            Some(columns) if !call.spec.is_table() => {
                let fields = columns.fields().iter().chain(call.output.fields());
                Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
            }
            _ => Arc::clone(&call.output),
        });
    }
    given.unwrap_or_else(|| Arc::new(Schema::empty()))
}
