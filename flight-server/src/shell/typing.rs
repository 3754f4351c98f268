//! Help with typing: Tab completes words, names and paths, and Enter goes on with a statement
//! that has no end yet, which stays one text to edit.

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper};

use super::commands::{is_command, names_like};
use super::split::{is_blank, split};

/// Words that statements are made of.
const KEYWORDS: &str = "ACTOR ALL ALTER ANALYZE AND ANTI ARRAY AS ASC BETWEEN BIGINT BOOLEAN BY CASE CAST COPY \
    CREATE CROSS CURRENT_DATE DATE DELETE DESC DESCRIBE DISTINCT DOUBLE DROP ELSE END EXCEPT EXISTS EXPLAIN \
    EXTERNAL EXTRACT FALSE FILTER FLOAT FROM FULL FUNCTION GROUP HAVING ILIKE IMMUTABLE IN INNER INSERT INT \
    INTERSECT INTERVAL INTO IS JOIN LANGUAGE LATERAL LEFT LIKE LIMIT LOCATION NOT NULL NULLS OFFSET ON OPTIONS OR \
    ORDER OUTER OVER PARTITION POOL QUALIFY RECURSIVE REPLACE RESET RETURNS RIGHT ROWS SCHEMA SELECT SEMI SET SHOW SPLIT \
    STORED STRUCT TABLE TABLES THEN TIMESTAMP TO TRUE UNION UNNEST USING VALUES VARCHAR VIEW WHEN WHERE WINDOW WITH \
    filter flat_map generate_series map map_batches map_groups read_split repartition";

/// What the editor asks while a line is typed.
pub struct Typing {
    files: FilenameCompleter,
    /// Of tables, columns, functions and so on.
    names: Vec<String>,
}

impl Typing {
    pub fn new() -> Self {
        Self {
            files: FilenameCompleter::new(),
            names: vec![],
        }
    }

    pub fn know(&mut self, mut names: Vec<String>) {
        names.sort_unstable();
        names.dedup();
        self.names = names;
    }

    /// Where the word before the cursor begins, and what it may become.
    fn words(&self, before: &str) -> (usize, Vec<String>) {
        let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let start = before.trim_end_matches(is_part).len();
        let word = &before[start..];
        // A column after the name of its table: whichever table.
        let (start, word, is_column) = match word.rfind('.') {
            Some(dot) if !self.names.iter().any(|name| is_like(name, word)) => {
                (start + dot + 1, &word[dot + 1..], true)
            }
            _ => (start, word, false),
        };
        if word.is_empty() && !is_column {
            return (start, vec![]);
        }
        let names = self.names.iter().filter(|name| is_like(name, word));
        let mut found: Vec<_> = names.cloned().collect();
        if !is_column {
            let as_typed = |keyword: &str| match word.starts_with(char::is_lowercase) {
                true => keyword.to_lowercase(),
                false => keyword.to_owned(),
            };
            let keywords = KEYWORDS.split_whitespace();
            let keywords = keywords.filter(|keyword| is_like(keyword, word));
            found.extend(keywords.map(as_typed));
        }
        found.sort_unstable();
        found.dedup();
        (start, found)
    }
}

fn is_like(name: &str, word: &str) -> bool {
    let begin = name.get(..word.len());
    begin.is_some_and(|begin| begin.eq_ignore_ascii_case(word))
}

/// Whether `text` ends within quotes.
fn is_quoted(text: &str) -> bool {
    split(text).rest.matches('\'').count() % 2 == 1
}

impl Completer for Typing {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        if is_quoted(before) {
            return self.files.complete_path(line, at);
        }
        let (start, found) = match is_command(before) && !before.contains(' ') {
            true => (0, names_like(before)),
            false => self.words(before),
        };
        let pair = |name: String| Pair {
            display: name.clone(),
            replacement: name,
        };
        Ok((start, found.into_iter().map(pair).collect()))
    }
}

impl Validator for Typing {
    fn validate(&self, typed: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        let text = typed.input();
        let is_whole = is_command(text) || is_blank(split(text).rest);
        Ok(match is_whole {
            true => ValidationResult::Valid(None),
            false => ValidationResult::Incomplete,
        })
    }
}

impl Hinter for Typing {
    type Hint = String;
}

impl Highlighter for Typing {}

impl Helper for Typing {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_words_are_completed_as_they_are_typed() {
        let mut typing = Typing::new();
        let names = [
            "lineitem",
            "l_orderkey",
            "\"Odd\"",
            "system.actors",
            "l_orderkey",
        ];
        typing.know(names.map(str::to_owned).to_vec());
        for (before, start, found) in [
            ("SELECT l_o", 7, vec!["l_orderkey"]),
            ("sel", 0, vec!["select"]),
            ("SEL", 0, vec!["SELECT"]),
            ("SELECT lineitem.l_", 16, vec!["l_orderkey"]),
            ("FROM system.a", 5, vec!["system.actors"]),
            ("SELECT ", 7, vec![]),
            ("SELECT zz", 7, vec![]),
        ] {
            let found = found.into_iter().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(typing.words(before), (start, found), "{before}");
        }
    }

    #[test]
    fn paths_are_completed_within_quotes() {
        assert!(is_quoted("SELECT * FROM 'data/"));
        assert!(!is_quoted("SELECT 'a' FROM "));
        assert!(!is_quoted("SELECT 'it''s'; SELECT "));
    }
}
