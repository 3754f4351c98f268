//! Cuts text into statements at semicolons that end one.
//!
//! Semicolons inside quotes, comments and `$tag$` bodies do not count. What
//! follows the last semicolon is unfinished; the prompt waits for more.

/// Statements of a text, and what is left after the last one.
#[derive(Debug, PartialEq, Eq)]
pub struct Split<'a> {
    /// Without the semicolon; never blank.
    pub statements: Vec<&'a str>,
    /// Blank when the text ended with a semicolon.
    pub rest: &'a str,
}

/// Splits `text`.
pub fn split(text: &str) -> Split<'_> {
    let mut statements = Vec::new();
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with(';') {
            push(&mut statements, &text[start..at]);
            at += 1;
            start = at;
        } else {
            at += token_len(here);
        }
    }
    Split {
        statements,
        rest: &text[start..],
    }
}

/// True when `text` holds nothing but blanks and comments.
pub fn is_blank(text: &str) -> bool {
    let mut at = 0;
    while at < text.len() {
        let here = &text[at..];
        let len = token_len(here);
        let comment = here.starts_with("--") || here.starts_with("/*");
        if !comment && !here[..len].trim().is_empty() {
            return false;
        }
        at += len;
    }
    true
}

fn push<'a>(statements: &mut Vec<&'a str>, text: &'a str) {
    if !is_blank(text) {
        statements.push(text.trim());
    }
}

/// Length of the token at the start: a quoted text, a comment, a `$tag$` body,
/// or one character. An unclosed one takes the rest.
fn token_len(here: &str) -> usize {
    if here.starts_with("--") {
        return here.find('\n').map_or(here.len(), |end| end + 1);
    }
    if here.starts_with("/*") {
        return here.find("*/").map_or(here.len(), |end| end + 2);
    }
    let first = here.chars().next().unwrap_or_default();
    match first {
        '\'' | '"' => here[1..].find(first).map_or(here.len(), |end| end + 2),
        '$' => match dollar_tag(here) {
            Some(tag) => here[tag.len()..]
                .find(tag)
                .map_or(here.len(), |end| end + 2 * tag.len()),
            None => 1,
        },
        other => other.len_utf8(),
    }
}

/// `$$` or `$tag$` at the start.
fn dollar_tag(here: &str) -> Option<&str> {
    let end = here[1..].find('$')? + 2;
    let name = &here[1..end - 1];
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    is_name.then(|| &here[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(text: &str) -> Vec<&str> {
        split(text).statements
    }

    #[test]
    fn semicolons_in_quotes_comments_and_bodies_do_not_count() {
        assert_eq!(
            statements("select ';', \"a;b\"; -- c;\nselect 2 /* ; */; "),
            ["select ';', \"a;b\"", "-- c;\nselect 2 /* ; */"]
        );
        let function = "create function f() as $$ a; b $$ with (x = 1)";
        assert_eq!(
            statements(&format!("{function};select 1;")),
            [function, "select 1"]
        );
        assert_eq!(statements("select $q$;$$;$q$;"), ["select $q$;$$;$q$"]);
        assert_eq!(statements("select 'it''s;';"), ["select 'it''s;'"]);
        assert_eq!(statements("select $1;"), ["select $1"]);
    }

    #[test]
    fn the_rest_waits_for_more() {
        assert_eq!(split("select 1; select 'a;").rest, " select 'a;");
        assert_eq!(split("é; ü").rest, " ü");
        assert!(statements(" ; -- only\n ;").is_empty());
        assert!(is_blank("-- x\n /* y */ ") && !is_blank("x"));
    }
}
