//! Names that Tab completes.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use datafusion::common::utils::quote_identifier;
use futures::TryStreamExt;

use super::{Answer, Target, answer};
use crate::ServerError;

/// Most that are kept.
const MOST: usize = 50_000;
/// A server that takes longer gets no questions about names.
const PATIENCE: Duration = Duration::from_secs(2);

/// Those of tables, columns, schemas, functions, actors and settings, as a statement
/// writes them; few or none if they cannot be had in time.
pub async fn of(target: &mut Target) -> Vec<String> {
    let question = format!(
        "SELECT DISTINCT name FROM ( \
           SELECT column_name AS name FROM information_schema.columns \
             WHERE table_schema <> 'information_schema' \
           UNION ALL SELECT table_name FROM information_schema.tables \
             WHERE table_schema NOT IN ('information_schema', 'system') \
           UNION ALL SELECT table_schema || '.' || table_name FROM information_schema.tables \
           UNION ALL SELECT schema_name FROM information_schema.schemata \
           UNION ALL SELECT name FROM system.functions \
           UNION ALL SELECT name FROM system.actors \
           UNION ALL SELECT name FROM system.settings \
           UNION ALL SELECT routine_name FROM information_schema.routines \
         ) LIMIT {MOST}"
    );
    match tokio::time::timeout(PATIENCE, first_column(target, &question)).await {
        Ok(Ok(names)) => names.into_iter().map(written).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no names");
            vec![]
        }
        Err(_) => vec![],
    }
}

/// Whether names may be others after `statement`.
pub fn changes(statement: &str) -> bool {
    let mut words = statement.split_whitespace().map(str::to_uppercase);
    let changing = ["CREATE", "DROP", "ALTER", "USE", "SET", "RESET"];
    words.next().is_some_and(|word| changing.contains(&&*word))
}

async fn first_column(target: &mut Target, sql: &str) -> Result<Vec<String>, ServerError> {
    let Answer::Rows(rows) = answer(target, sql).await? else {
        return Ok(vec![]);
    };
    let blocks = rows.blocks.try_collect::<Vec<_>>().await?;
    let texts = blocks.iter().filter_map(|block| {
        let names = cast(block.columns().first()?, &DataType::Utf8).ok()?;
        let names = names.as_string::<i32>().iter().flatten();
        Some(names.map(str::to_owned).collect::<Vec<_>>())
    });
    Ok(texts.flatten().collect())
}

/// In quotes where it needs them; dots part the names of a path.
fn written(name: String) -> String {
    let parts = name.split('.').map(quote_identifier);
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_need_it() {
        for (name, text) in [
            ("l_tax", "l_tax"),
            ("system.actors", "system.actors"),
            ("Odd", "\"Odd\""),
            ("two words", "\"two words\""),
            ("1st", "\"1st\""),
        ] {
            assert_eq!(written(name.to_owned()), text);
        }
    }

    #[test]
    fn only_some_statements_change_names() {
        assert!(changes("create table t (x int)") && changes("  SET a = 1"));
        assert!(!changes("SELECT 1") && !changes("\n"));
    }
}
