//! "Did you mean": the known names closest to one that is not known.
//!
//! Called wherever an error says that a name is unknown: settings, functions,
//! options, columns. Pure.

/// At most this many names are suggested.
const MAX_SUGGESTIONS: usize = 3;

/// A sentence that names what `name` may have meant, or nothing.
///
/// Near means: at most a third of the letters differ, or one name contains the
/// other.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let near = nearest(name, known);
    match near.is_empty() {
        true => String::new(),
        false => format!(". Did you mean {}?", near.join(" or ")),
    }
}

/// The names of `known` near to `name`, nearest first, quoted.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let name = name.to_lowercase();
    let limit = name.chars().count() / 3;
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter_map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = distance(&name, &lower);
            let inside = name.len() > 2 && (lower.contains(&name) || name.contains(&lower));
            (distance <= limit || inside).then_some((distance, candidate))
        })
        .collect();
    found.sort_unstable();
    found.truncate(MAX_SUGGESTIONS);
    found
        .iter()
        .map(|(_, name)| format!("\"{name}\""))
        .collect()
}

/// Edits (insert, delete, replace) that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "", 2),
            ("", "xyz", 3),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }

    #[test]
    fn a_typo_finds_its_name_and_noise_finds_none() {
        let known = ["batch_size", "concurrency", "batch_format"];
        assert_eq!(hint("batchsize", known), ". Did you mean \"batch_size\"?");
        assert_eq!(hint("concurency", known), ". Did you mean \"concurrency\"?");
        assert_eq!(hint("qqqqqq", known), "");
        assert_eq!(hint("a", ["b", "A"]), ". Did you mean \"A\"?");
    }
}
