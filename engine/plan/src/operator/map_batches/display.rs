//! How a call reads in EXPLAIN.

use std::fmt;

use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan};
use mobula_udfs::{
    BatchFormat, CallMode, FunctionSpec, Handling, Language, OnError, UdfCall, Volatility,
};

use super::call::write_call;
use super::exec::MapBatchesExec;
use crate::operator::Operator;

impl DisplayAs for MapBatchesExec {
    fn fmt_as(&self, t: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match t {
            DisplayFormatType::Default | DisplayFormatType::Verbose => {
                write!(f, "{}: ", self.name())?;
                ", "
            }
            DisplayFormatType::TreeRender => "\n",
        };
        write!(f, "udf=")?;
        write_call(f, &self.call().spec.name, &self.call().args)?;
        if let [_, then @ ..] = self.call().steps.as_slice() {
            let then = then.iter().map(|step| {
                let operator = Operator::of(step.call.mode).sql;
                let own = own_properties(&step.call).join(", ");
                match own.is_empty() {
                    true => format!("{operator} {}", step.call.spec.name),
                    false => format!("{operator} {} ({own})", step.call.spec.name),
                }
            });
            let then = then.collect::<Vec<_>>().join(", ");
            write!(f, "{separator}then=[{then}]")?;
        }
        let kind = if self.is_table() { "table" } else { "scalar" };
        let count = |n: Option<usize>, none: &str| n.map_or(none.to_owned(), |n| n.to_string());
        let batch_size = count(self.call().batch_size, "block");
        let concurrency = match self.call().handling.min_workers {
            Some(least) => format!("{least}..{}", count(self.concurrency(), "cores")),
            None => count(self.concurrency(), "cores"),
        };
        let format = &self.call().batch_format;
        let is_native = self.call().spec.language == Language::Native;
        write!(f, "{separator}kind={kind}")?;
        if is_native {
            write!(f, "{separator}language=native")?;
        }
        for property in declared(&self.call().spec) {
            write!(f, "{separator}{property}")?;
        }
        if let Some(grouping) = self.grouping() {
            grouping.write(f, &self.input().schema(), separator)?;
        }
        let mode = self.call().mode;
        if mode == CallMode::Batches || self.call().batch_size.is_some() {
            write!(f, "{separator}batch_size={batch_size}")?;
        }
        if matches!(mode, CallMode::Batches | CallMode::Groups) && !is_native {
            write!(f, "{separator}batch_format={format}")?;
        }
        write!(f, "{separator}concurrency={concurrency}")?;
        if self.is_table() && self.keeps_rows() {
            write!(f, "{separator}row_preserving=true")?;
        }
        if self.call().is_async() {
            let most = self.call().handling.overlap.in_flight();
            write!(f, "{separator}max_in_flight={most}")?;
        }
        if let Some(mask) = self.shape().mask() {
            let schema = self.input().schema();
            write!(f, "{separator}mask={}@{mask}", schema.field(mask).name())?;
        }
        write_handling(f, &self.call().handling, separator)?;
        let errors = &self.call().errors;
        if errors.on_error != OnError::Raise {
            write!(f, "{separator}on_error={}", errors.on_error)?;
        }
        if let Some(most) = errors.max_errors {
            write!(f, "{separator}max_errors={most}")?;
        }
        if let Some(most) = errors.max_error_ratio {
            write!(f, "{separator}max_error_ratio={most}")?;
        }
        Ok(())
    }
}

/// What a function is declared to be, beyond the default.
fn declared(spec: &FunctionSpec) -> Vec<&'static str> {
    let volatility = match spec.volatility {
        Volatility::Volatile => None,
        Volatility::Stable => Some("volatility=stable"),
        Volatility::Immutable => Some("volatility=immutable"),
    };
    let strict = spec.strict.then_some("strict=true");
    volatility.into_iter().chain(strict).collect()
}

/// What of a later function of a fused call is not as by default.
fn own_properties(call: &UdfCall) -> Vec<String> {
    let declared = declared(&call.spec).into_iter().map(str::to_owned);
    let mut own: Vec<String> = declared.collect();
    if call.mode == CallMode::Batches && call.batch_format != BatchFormat::Numpy {
        own.push(format!("batch_format={}", call.batch_format));
    }
    if !call.handling.zero_copy_batch {
        own.push("zero_copy_batch=false".to_owned());
    }
    own.extend(retry_text(&call.handling));
    own
}

fn retry_text(handling: &Handling) -> Option<String> {
    let (exceptions, most) = handling.retry()?;
    let exceptions = exceptions.join(" | ");
    Some(format!("retry={exceptions} up to {most} times"))
}

/// What is not as by default.
fn write_handling(f: &mut fmt::Formatter<'_>, handling: &Handling, separator: &str) -> fmt::Result {
    if !handling.zero_copy_batch {
        write!(f, "{separator}zero_copy_batch=false")?;
    }
    if let Some(ordered) = handling.preserve_order {
        write!(f, "{separator}preserve_order={ordered}")?;
    }
    if let Some(timeout) = handling.timeout {
        write!(f, "{separator}timeout={timeout:?}")?;
    }
    if let Some(timeout) = handling.init_timeout {
        write!(f, "{separator}init_timeout={timeout:?}")?;
    }
    if let Some(retry) = retry_text(handling) {
        write!(f, "{separator}{retry}")?;
    }
    if let Some(rate) = handling.overlap.rate_limit {
        write!(f, "{separator}rate_limit={rate}")?;
    }
    if let Some(keyed) = handling.keyed.filter(|keyed| keyed.snapshot_every > 0) {
        write!(f, "{separator}snapshot_every={}", keyed.snapshot_every)?;
    }
    for (option, value) in handling.demand.options() {
        write!(f, "{separator}{option}={value}")?;
    }
    Ok(())
}
