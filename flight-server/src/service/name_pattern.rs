//! Patterns over names in metadata commands: `%` any text, `_` one character,
//! `\` takes the next character as it is. Case counts, as in SQL's LIKE.

/// A parsed pattern. Without one every name matches.
pub struct NamePattern(Option<Vec<Part>>);

#[derive(Clone, Copy, PartialEq)]
enum Part {
    AnyText,
    AnyOne,
    One(char),
}

impl NamePattern {
    pub fn new(pattern: Option<&str>) -> Self {
        let Some(pattern) = pattern else {
            return Self(None);
        };
        let mut parts = Vec::new();
        let mut letters = pattern.chars();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '%' => Part::AnyText,
                '_' => Part::AnyOne,
                // At the end it stands for itself.
                '\\' => Part::One(letters.next().unwrap_or('\\')),
                other => Part::One(other),
            });
        }
        Self(Some(parts))
    }

    /// Goes back only to the last `%`: linear in the name for each part.
    pub fn matches(&self, name: &str) -> bool {
        let Some(parts) = &self.0 else {
            return true;
        };
        let name: Vec<char> = name.chars().collect();
        let (mut at, mut part) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            match parts.get(part) {
                Some(Part::AnyText) => {
                    retry = Some((at, part));
                    part += 1;
                }
                Some(Part::AnyOne) => (at, part) = (at + 1, part + 1),
                Some(Part::One(letter)) if *letter == name[at] => (at, part) = (at + 1, part + 1),
                _ => {
                    let Some((from, star)) = retry else {
                        return false;
                    };
                    retry = Some((from + 1, star));
                    (at, part) = (from + 1, star + 1);
                }
            }
        }
        parts[part..].iter().all(|rest| *rest == Part::AnyText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_sql() {
        let cases = [
            (None, "anything", true),
            (Some("%"), "", true),
            (Some(""), "", true),
            (Some(""), "a", false),
            (Some("li%"), "lineitem", true),
            (Some("%item"), "lineitem", true),
            (Some("l_neitem"), "lineitem", true),
            (Some("l_"), "lineitem", false),
            (Some("%a%b"), "xaxbxb", true),
            (Some("%a%b"), "xaxbx", false),
            (Some("my\\_table"), "my_table", true),
            (Some("my\\_table"), "myxtable", false),
            (Some("LINEITEM"), "lineitem", false),
            (Some("é_"), "éa", true),
            (Some("SELECT * FROM t WHERE x LIKE '%'"), "t", false),
        ];
        for (pattern, name, expected) in cases {
            let found = NamePattern::new(pattern).matches(name);
            assert_eq!(found, expected, "{pattern:?} on {name:?}");
        }
    }
}
