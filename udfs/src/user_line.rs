//! The user's own line in what Python says of a process that died or hangs.
//!
//! Exceptions name it themselves; here it is read from faulthandler's list of frames,
//! the most recent first.

use crate::spec::FunctionSpec;

/// ` (line 4: while True: pass)` of the innermost frame in the body of one of
/// `specs`, and which; `None` if `stack` has none.
pub(crate) fn user_line<'a>(
    stack: &str,
    specs: impl Iterator<Item = &'a FunctionSpec>,
) -> Option<(&'a FunctionSpec, String)> {
    // Of several threads, the one that was running.
    let current = stack.rfind("Current thread").unwrap_or(0);
    let stack = stack.get(current..).unwrap_or(stack);
    let found = specs.filter_map(|spec| {
        let frame = format!("File \"<function {}>\", line ", spec.source_name());
        let place = stack.find(&frame)?;
        let rest = stack.get(place + frame.len()..)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let number = rest.get(..digits.unwrap_or(rest.len()))?;
        Some((place, number.parse::<usize>().ok()?, spec))
    });
    let (_, number, spec) = found.min_by_key(|(place, ..)| *place)?;
    let line = spec.body.lines().nth(number.saturating_sub(1));
    let text = match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!(" (line {number}: {line})"),
        None => format!(" (line {number})"),
    };
    Some((spec, text))
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
            actor: None,
        };
        let stack = "Thread 0x1 (most recent call first):\n  File \"<function f>\", line 3 in f\n\n\
                     Current thread 0x2 (most recent call first):\n  File \"/lib/os.py\", line 9 in kill\n  \
                     File \"<function f>\", line 6 in g\n  File \"<function f>\", line 3 in f\n";
        let other = FunctionSpec {
            name: "other".into(),
            ..spec.clone()
        };
        let line_of = |stack: &str| {
            let found = user_line(stack, [&other, &spec].into_iter());
            found.map(|(spec, line)| format!("{}{line}", spec.name))
        };
        let found = |text: &str| Some(text.to_owned());
        assert_eq!(line_of(stack), found("f (line 6: return  kill())"));
        let frame = "File \"<function f>\", line 3 in f";
        assert_eq!(line_of(frame), found("f (line 3: g(x))"));
        let frame = "File \"<function f>\", line 99 in f";
        assert_eq!(line_of(frame), found("f (line 99)"));
        let below = format!("File \"<function other>\", line 2\n{frame}");
        assert_eq!(line_of(&below), found("other (line 2: def f(x):)"));
        for stack in [
            "",
            "File \"<function g>\", line 3",
            "File \"<function f>\", line x",
        ] {
            assert_eq!(line_of(stack), None);
        }
    }
}
