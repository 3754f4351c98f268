//! The user's own line in what Python says of a process that died or hangs.
//!
//! Exceptions name it themselves; here it is read from faulthandler's list of frames,
//! the most recent first.

use crate::spec::FunctionSpec;

/// ` (line 4: while True: pass)` of the innermost frame in the body of `spec`; empty
/// if `stack` has none.
pub(crate) fn user_line(stack: &str, spec: &FunctionSpec) -> String {
    // Of several threads, the one that was running.
    let current = stack.rfind("Current thread").unwrap_or(0);
    let stack = stack.get(current..).unwrap_or(stack);
    let frame = format!("File \"<function {}>\", line ", spec.name);
    let number = stack.split_once(&frame).map(|(_, rest)| {
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        rest.get(..digits.unwrap_or(rest.len())).unwrap_or("")
    });
    let Some(number) = number.and_then(|number| number.parse::<usize>().ok()) else {
        return String::new();
    };
    let line = spec.body.lines().nth(number.saturating_sub(1));
    match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!(" (line {number}: {line})"),
        None => format!(" (line {number})"),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;

    use super::*;
    use crate::spec::{CallDefaults, Language, ObjectKind, Returns, Volatility};

    #[test]
    fn the_innermost_line_of_the_thread_that_ran() {
        let spec = FunctionSpec {
            name: "f".into(),
            language: Language::Python,
            params: vec![],
            returns: Returns::Scalar(DataType::Int64),
            object: ObjectKind::Function,
            volatility: Volatility::Volatile,
            strict: false,
            body: "\ndef f(x):\n    g(x)\n\ndef g(x):\n    return  kill()\n".into(),
            defaults: CallDefaults::default(),
        };
        let stack = "Thread 0x1 (most recent call first):\n  File \"<function f>\", line 3 in f\n\n\
                     Current thread 0x2 (most recent call first):\n  File \"/lib/os.py\", line 9 in kill\n  \
                     File \"<function f>\", line 6 in g\n  File \"<function f>\", line 3 in f\n";
        assert_eq!(user_line(stack, &spec), " (line 6: return  kill())");
        assert_eq!(
            user_line("File \"<function f>\", line 3 in f", &spec),
            " (line 3: g(x))"
        );
        assert_eq!(
            user_line("File \"<function f>\", line 99 in f", &spec),
            " (line 99)"
        );
        for stack in [
            "",
            "File \"<function g>\", line 3",
            "File \"<function f>\", line x",
        ] {
            assert_eq!(user_line(stack, &spec), "");
        }
    }
}
