//! The user's own line in what Python says of a process that died or hangs.
//!
//! Exceptions name it themselves; here it is read from faulthandler's list of frames,
//! the most recent first.

use crate::spec::FunctionSpec;

/// Methods that are called for the state of a keyed actor, not for a block.
const STATE_METHODS: [&str; 2] = ["snapshot", "restore"];

/// ` (line 4: while True: pass)` of the innermost frame in the body of one of
/// `specs`, and which; `None` if `stack` has none. Where it is called for the actor's state, that
/// is said: ` (in snapshot(), line 4: …)`.
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
    let within = match state_method(stack, spec) {
        Some(method) => format!("in {method}(), "),
        None => String::new(),
    };
    let text = match line.map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => format!(" ({within}line {number}: {line})"),
        None => format!(" ({within}line {number})"),
    };
    Some((spec, text))
}

/// Which of [`STATE_METHODS`] the outermost frame in the body of `spec` is, of the first thread
/// in `stack`.
fn state_method(stack: &str, spec: &FunctionSpec) -> Option<&'static str> {
    let thread = stack.split("\n\n").next()?;
    let frame = format!("File \"<function {}>\", line ", spec.source_name());
    let (_, outermost) = thread.rsplit_once(&frame)?;
    let (_, name) = outermost.lines().next()?.split_once(" in ")?;
    let name = name.trim();
    STATE_METHODS.into_iter().find(|method| *method == name)
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
        let state = "File \"<function f>\", line 6 in g\n  File \"<function f>\", line 3 in restore\n\n\
                     Thread 0x1 (most recent call first):\n  File \"<function f>\", line 3 in f\n";
        let expected = found("f (in restore(), line 6: return  kill())");
        assert_eq!(line_of(state), expected);
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
