//! Options of `read_csv` and `read_json`: their words, their values, and those that `CREATE
//! EXTERNAL TABLE` has for them.

use datafusion::catalog::Session;
use datafusion::common::{Result, plan_err};
use datafusion::datasource::listing::ListingTableUrl;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArgExpr, Value};
use futures::TryStreamExt;

/// One option of a format.
pub struct FileOption {
    word: &'static str,
    /// As `CREATE EXTERNAL TABLE` has it.
    key: &'static str,
    kind: Kind,
}

enum Kind {
    Truth,
    /// One character of one byte, and no line break: those end rows.
    Character,
    Count,
    Compression,
}

pub const CSV: &[FileOption] = &[
    FileOption::new("header", "format.has_header", Kind::Truth),
    FileOption::new("delimiter", "format.delimiter", Kind::Character),
    FileOption::new("quote", "format.quote", Kind::Character),
    FileOption::new("escape", "format.escape", Kind::Character),
    FileOption::new("comment", "format.comment", Kind::Character),
    FileOption::new(
        "newlines_in_values",
        "format.newlines_in_values",
        Kind::Truth,
    ),
    FileOption::new("compression", COMPRESSION, Kind::Compression),
    FileOption::new("infer_rows", "format.schema_infer_max_rec", Kind::Count),
];
pub const JSON: &[FileOption] = &[
    FileOption::new("compression", COMPRESSION, Kind::Compression),
    FileOption::new("infer_rows", "format.schema_infer_max_rec", Kind::Count),
];

pub const COMPRESSION: &str = "format.compression";
/// Kinds of compression, and the endings of files that have them.
const COMPRESSIONS: [(&str, &str); 4] = [
    ("gzip", ".gz"),
    ("bzip2", ".bz2"),
    ("xz", ".xz"),
    ("zstd", ".zst"),
];
const UNCOMPRESSED: &str = "uncompressed";

impl FileOption {
    const fn new(word: &'static str, key: &'static str, kind: Kind) -> Self {
        Self { word, key, kind }
    }

    /// Key and value for `CREATE EXTERNAL TABLE` of what `reader` is told by `word => value`.
    ///
    /// # Errors
    /// No such option of `known`, or no value that it takes.
    pub fn given(
        known: &[Self],
        reader: &str,
        word: &str,
        value: &FunctionArgExpr,
    ) -> Result<(String, String)> {
        let Some(option) = known.iter().find(|option| option.word == word) else {
            let words: Vec<_> = known.iter().map(|option| option.word).collect();
            return match words.is_empty() {
                true => plan_err!("{reader} has no option {word}: it takes paths alone"),
                false => plan_err!(
                    "{reader} has no option {word}. There are schema, {}",
                    words.join(", ")
                ),
            };
        };
        let text = plain(reader, word, value)?;
        match option.kind.takes(&text, value) {
            Ok(value) => Ok((option.key.to_owned(), value)),
            Err(expected) => plan_err!("{reader}: {word} is {value}. It takes {expected}"),
        }
    }
}

impl Kind {
    /// The value that `text` means, or what is expected in its place.
    fn takes(&self, text: &str, value: &FunctionArgExpr) -> std::result::Result<String, String> {
        let is_text = matches!(value, FunctionArgExpr::Expr(Expr::Value(v))
            if !matches!(v.value, Value::Number(..) | Value::Boolean(_)));
        match self {
            Self::Truth if matches!(text, "true" | "false") => Ok(text.to_owned()),
            Self::Truth => Err("true or false".to_owned()),
            Self::Character => match text.as_bytes() {
                // By its number: a digit would be taken for one.
                [byte] if is_text && byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => {
                    Ok(byte.to_string())
                }
                _ => Err("one character of ASCII, such as ';', and no line break".to_owned()),
            },
            Self::Count if text.parse::<u32>().is_ok() => Ok(text.to_owned()),
            Self::Count => Err("a number of rows".to_owned()),
            Self::Compression => {
                let kinds = COMPRESSIONS.map(|(kind, _)| kind);
                match text == UNCOMPRESSED || kinds.contains(&text) {
                    true => Ok(text.to_owned()),
                    false => Err(format!("'{}' or '{UNCOMPRESSED}'", kinds.join("', '"))),
                }
            }
        }
    }
}

/// The text of a plain value.
///
/// # Errors
/// An expression, NULL or a parameter.
pub fn plain(reader: &str, word: &str, value: &FunctionArgExpr) -> Result<String> {
    let text = match value {
        FunctionArgExpr::Expr(Expr::Value(value)) => match &value.value {
            Value::Boolean(truth) => Some(truth.to_string()),
            Value::Number(number, _) => Some(number.clone()),
            other => other.clone().into_string(),
        },
        _ => None,
    };
    match text {
        Some(text) => Ok(text),
        None => plan_err!(
            "{reader}: {word} => {value} is no plain value. Options are known when a statement is planned: no expressions, no parameters"
        ),
    }
}

/// The kind of compression of the files at `locations`, by their endings.
///
/// # Errors
/// Files of several kinds.
pub async fn compression(
    state: &dyn Session,
    reader: &str,
    locations: &[String],
) -> Result<Option<&'static str>> {
    let ending = format!(".{}", reader.trim_start_matches("read_"));
    let mut seen: Option<(&str, String)> = None;
    for location in locations {
        let url = ListingTableUrl::parse(location)?;
        for name in names(state, &url).await? {
            let end = COMPRESSIONS.iter().find(|(_, end)| name.ends_with(end));
            let (kind, end) = end.copied().unwrap_or((UNCOMPRESSED, ""));
            // Of a folder, files of other formats are none of the table's.
            let is_read = !url.is_folder() || name.ends_with(&format!("{ending}{end}"));
            match &seen {
                _ if !is_read => {}
                Some((other, first)) if *other != kind => {
                    return plan_err!(
                        "{reader} has files of several compressions: {first} is {other}, {name} is {kind}. \
                         Read each kind by itself, and put them together by UNION ALL BY NAME"
                    );
                }
                Some(_) => {}
                None => seen = Some((kind, name)),
            }
        }
    }
    Ok(seen
        .map(|(kind, _)| kind)
        .filter(|kind| *kind != UNCOMPRESSED))
}

/// Files at `url`: that itself, or what is in a folder or matches a pattern.
async fn names(state: &dyn Session, url: &ListingTableUrl) -> Result<Vec<String>> {
    if !url.is_collection() && url.get_glob().is_none() {
        return Ok(vec![url.get_url().path().to_owned()]);
    }
    let store = state.runtime_env().object_store(url)?;
    let files = url.list_all_files(state, store.as_ref(), "").await?;
    let names = files.map_ok(|file| format!("/{}", file.location));
    names.try_collect().await
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::ast::{Expr, FunctionArgExpr, Value};

    use super::*;

    fn given(known: &[FileOption], word: &str, value: Value) -> Result<(String, String)> {
        let value = FunctionArgExpr::Expr(Expr::Value(value.into()));
        FileOption::given(known, "read_csv", word, &value)
    }

    fn text(value: &str) -> Value {
        Value::SingleQuotedString(value.to_owned())
    }

    #[test]
    fn values_are_those_of_their_option() {
        let (key, value) = given(CSV, "delimiter", text("1")).unwrap();
        assert_eq!((key.as_str(), value.as_str()), ("format.delimiter", "49"));
        for (word, value) in [
            ("delimiter", text("\n")),
            ("delimiter", text(";;")),
            ("quote", text("")),
            ("escape", text("é")),
            ("comment", Value::Number("1".to_owned(), false)),
            ("header", text("no")),
            ("compression", text("zip")),
            ("infer_rows", text("many")),
        ] {
            let error = given(CSV, word, value).unwrap_err().to_string();
            assert!(error.contains(&format!("read_csv: {word} is ")), "{error}");
        }
        assert!(given(CSV, "header", Value::Null).is_err());
        assert!(given(JSON, "header", Value::Boolean(true)).is_err());
        assert!(given(CSV, "header", Value::Boolean(true)).is_ok());
    }
}
