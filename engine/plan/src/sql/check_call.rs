//! Refuses calls that an operator does not make, and says what to do instead.
//!
//! For SQL's relations and for DataFrames alike.

use std::collections::HashSet;

use mobula_udfs::{
    BatchFormat, CallMode, Demand, FunctionSpec, Language, Literal, OnError, PoolBounds,
};

use super::call_options::CallOptions;
use super::relation::relation;
use crate::error::PlanError;
use crate::operator::Operator;
use crate::udf::check_method;

/// Refuses a call of `spec`, a method of a `pool` perhaps, that `op` does not make.
pub(crate) fn check_call(
    op: &Operator,
    (spec, pool): (&FunctionSpec, Option<PoolBounds>),
    args: &[(String, Literal)],
    options: &CallOptions,
) -> Result<(), PlanError> {
    check_method(spec)?;
    check_constructor(op, spec, args)?;
    check_function(op, spec)?;
    check_worker(op, (spec, pool), options)?;
    options.overlap.check(spec, options.concurrency_of(spec))?;
    check_options(op, spec, options)
}

/// Refuses to say of a named actor what its declaration says.
fn check_worker(
    op: &Operator,
    (spec, pool): (&FunctionSpec, Option<PoolBounds>),
    options: &CallOptions,
) -> Result<(), PlanError> {
    let problem = if !spec.is_method() {
        return Ok(());
    } else if options.concurrency.is_some() {
        match pool {
            None => "one worker. Leave concurrency out",
            Some(_) => {
                "as many workers as its min and max say. Leave concurrency out; ALTER ACTOR POOL changes them"
            }
        }
    } else if !options.demand.over(&Demand::default()).is_none() {
        match pool {
            None => {
                "in its process. Leave num_cpus, num_gpus, memory, resources and label_selector out"
            }
            Some(_) => {
                "in its processes. Leave num_cpus, num_gpus, memory, resources and label_selector out"
            }
        }
    } else if options.init_timeout.is_some() {
        match pool {
            None => "there already. CREATE ACTOR says init_timeout",
            Some(_) => "there already. CREATE ACTOR POOL says init_timeout",
        }
    } else {
        return Ok(());
    };
    let of = match pool {
        None => "an actor",
        Some(_) => "an actor pool",
    };
    let name = &spec.name;
    let problem = format!("\"{name}\" is a method of {of}, which is {problem}");
    Err(relation(op, &problem))
}

/// Refuses a function of another form than the operator calls.
fn check_function(op: &Operator, spec: &FunctionSpec) -> Result<(), PlanError> {
    let name = &spec.name;
    let problem = match (op.mode, spec.is_table(), spec.takes_table()) {
        (CallMode::Filter, true, _) => format!(
            "\"{name}\" returns a table. Declare it with RETURNS BOOLEAN, or call it by map or flat_map"
        ),
        (CallMode::FlatMap, false, _) => format!(
            "\"{name}\" returns a value. Declare it as {name}(row TABLE) RETURNS TABLE(…), or call it by map"
        ),
        (CallMode::Groups, false, _) => {
            format!("\"{name}\" returns a value. Declare it as {name}(rows TABLE) RETURNS TABLE(…)")
        }
        (CallMode::Map | CallMode::Batches, false, true) => {
            format!("\"{name}\" says which rows stay. Call it by filter")
        }
        _ => return Ok(()),
    };
    Err(relation(op, &problem))
}

/// Refuses options that mean nothing for this call.
fn check_options(
    op: &Operator,
    spec: &FunctionSpec,
    options: &CallOptions,
) -> Result<(), PlanError> {
    if let (Some(option), false) = (options.promise(), spec.is_table()) {
        let (function, option) = (spec.name.clone(), option.to_owned());
        return Err(PlanError::TableOption { function, option });
    }
    if options.row_preserving.is_some() && op.mode == CallMode::Groups {
        let problem = "no LIMIT moves below a call of groups, so row_preserving says nothing";
        return Err(relation(op, problem));
    }
    if options.strict == Some(true) && spec.is_table() {
        let name = &spec.name;
        let problem = format!("strict is for functions of values, and \"{name}\" takes rows");
        return Err(relation(op, &problem));
    }
    let plain = spec.actor.as_ref().is_some_and(|method| method.by_row);
    let given = ["batch_format", "zero_copy_batch"]
        .into_iter()
        .zip([
            options.batch_format.is_some(),
            options.zero_copy_batch.is_some(),
        ])
        .find(|(_, given)| *given);
    if let (true, Some((option, _))) = (plain, given) {
        let name = &spec.name;
        let problem =
            format!("\"{name}\" takes plain values, as its type hints say. Leave {option} out");
        return Err(relation(op, &problem));
    }
    let by_row = !matches!(op.mode, CallMode::Batches | CallMode::Groups);
    if by_row && options.batch_format.is_some() {
        return Err(relation(
            op,
            "it calls functions row by row. batch_format is an option of map_batches",
        ));
    }
    if spec.language == Language::Native && options.batch_format.is_some() {
        let name = &spec.name;
        return Err(relation(
            op,
            &format!("\"{name}\" is native and gets Arrow arrays. Leave batch_format out"),
        ));
    }
    check_handling(op, spec, options)?;
    let bounds = (
        options.max_errors.flatten(),
        options.max_error_ratio.flatten(),
    );
    if bounds != (None, None) && options.errors_of(spec).on_error == OnError::Raise {
        return Err(relation(
            op,
            "max_errors and max_error_ratio say nothing with on_error => 'raise', the default. Give on_error as well",
        ));
    }
    // A NULL in place of rows of which nobody knows how many they are.
    let is_null = options.errors_of(spec).on_error == OnError::Null;
    if is_null && spec.is_table() && op.mode != CallMode::Map {
        return Err(relation(
            op,
            "on_error => 'null' has no row to leave NULL in, since the function gives any number. Use 'drop' or 'dead_letter', or call it by map",
        ));
    }
    Ok(())
}

/// Refuses ways to handle blocks that mean nothing for this call.
fn check_handling(
    op: &Operator,
    spec: &FunctionSpec,
    options: &CallOptions,
) -> Result<(), PlanError> {
    let name = &spec.name;
    let given = [
        ("zero_copy_batch", options.zero_copy_batch.is_some()),
        ("retry_exceptions", options.retry_exceptions.is_some()),
        ("max_retries", options.max_retries.is_some()),
        ("init_timeout", options.init_timeout.is_some()),
    ];
    let of_python = given.into_iter().find(|(_, given)| *given);
    if let (Some((option, _)), Language::Native) = (of_python, spec.language) {
        let problem = format!("{option} is for functions in Python, and \"{name}\" is native");
        return Err(relation(op, &problem));
    }
    let handling = options.handling_of(spec);
    if handling.demand.memory_bytes.is_some() && spec.language == Language::Native {
        let problem = format!(
            "\"{name}\" is native: its threads share the memory of their executor. Leave memory out"
        );
        return Err(relation(op, &problem));
    }
    if handling.min_workers.is_some() && spec.language == Language::Native {
        let problem = format!(
            "\"{name}\" is native, and its threads start as they are needed. Write concurrency => n"
        );
        return Err(relation(op, &problem));
    }
    if options.max_retries.is_some() && handling.retry_exceptions.is_empty() {
        return Err(relation(
            op,
            "max_retries says nothing without retry_exceptions: which exceptions to call again for",
        ));
    }
    let by_row = !matches!(op.mode, CallMode::Batches | CallMode::Groups);
    if by_row && options.zero_copy_batch.is_some() {
        return Err(relation(
            op,
            "it gives functions Python values, row by row. zero_copy_batch is an option of map_batches",
        ));
    }
    let format = options.batch_format_of(spec);
    let may_write = matches!(format, BatchFormat::Numpy | BatchFormat::Pandas);
    if options.zero_copy_batch == Some(false) && !may_write {
        let problem = format!(
            "zero_copy_batch => false gives batches to write to, and those of batch_format '{format}' cannot be written to or are copies anyway. Leave it out"
        );
        return Err(relation(op, &problem));
    }
    Ok(())
}

fn check_constructor(
    op: &Operator,
    spec: &FunctionSpec,
    args: &[(String, Literal)],
) -> Result<(), PlanError> {
    let mut seen = HashSet::new();
    if let Some((name, _)) = args.iter().find(|(name, _)| !seen.insert(name)) {
        return Err(relation(
            op,
            &format!("argument \"{name}\" of {} is given twice", spec.name),
        ));
    }
    if let (true, Some((name, _))) = (spec.is_method(), args.first()) {
        let problem = format!(
            "\"{}\" is a method of an actor, which is built. CREATE ACTOR takes its constructor's \"{name}\"",
            spec.name
        );
        return Err(relation(op, &problem));
    }
    match args.first().filter(|_| !spec.object.is_class()) {
        Some((name, _)) if spec.language == Language::Native => {
            let problem = format!(
                "\"{}\" is native, keeps no state and has no argument \"{name}\"",
                spec.name
            );
            Err(relation(op, &problem))
        }
        Some((name, _)) => Err(relation(
            op,
            &format!(
                "\"{}\" is a def and has no constructor for \"{name}\". Only a class takes arguments here",
                spec.name
            ),
        )),
        None => Ok(()),
    }
}
