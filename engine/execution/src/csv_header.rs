//! Headers of CSV files, held against the columns that are read.
//!
//! DataFusion takes columns of CSV by their places and skips headers. Where a header has the names
//! of the table in another order, values would come under wrong names, and nobody would be told.

use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::{DataFusionError, Result, plan_datafusion_err};
use datafusion::datasource::file_format::csv::CsvFormat;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::csv_columns;
use crate::csv_rows::{Dialect, FileMemory, Version};

/// Headers of files, as long as those are not written anew.
#[derive(Debug, Default)]
pub(crate) struct Headers {
    /// By version and character of comments.
    found: FileMemory<(Version, Option<u8>), Names>,
}

type Names = Arc<[String]>;

impl Headers {
    /// Fails where two of `files` have different headers.
    pub(crate) async fn check_alike(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
        csv: &CsvFormat,
    ) -> Result<()> {
        let mut first: Option<(&Path, Names)> = None;
        let mut all = self.all(state, store, files, csv);
        while let Some((file, names)) = all.try_next().await? {
            match &first {
                Some((other, columns)) if columns != &names => {
                    return Err(unlike(file, &names, other, columns));
                }
                Some(_) => {}
                None => first = Some((file, names)),
            }
        }
        Ok(())
    }

    /// Fails where the header of one of `files` has a name of `columns` at another place.
    pub(crate) async fn check_places(
        &self,
        state: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        files: &[ObjectMeta],
        csv: &CsvFormat,
        columns: &[&str],
    ) -> Result<()> {
        let mut all = self.all(state, store, files, csv);
        while let Some((file, names)) = all.try_next().await? {
            if let Some((column, place)) = misplaced(&names, columns) {
                return Err(elsewhere(file, &names, columns[column], column, place));
            }
        }
        Ok(())
    }

    /// Files that have one, and their headers.
    fn all<'a>(
        &'a self,
        state: &'a dyn Session,
        store: &'a Arc<dyn ObjectStore>,
        files: &'a [ObjectMeta],
        csv: &'a CsvFormat,
    ) -> stream::BoxStream<'a, Result<(&'a Path, Names)>> {
        let at_once = state.config_options().execution.meta_fetch_concurrency;
        let each = files.iter().map(move |file| async move {
            let names = self.of(store, file, csv).await?;
            Ok((&file.location, names))
        });
        let each = stream::iter(each).buffered(at_once.get());
        each.try_filter(|(_, names)| std::future::ready(!names.is_empty()))
            .boxed()
    }

    async fn of(
        &self,
        store: &Arc<dyn ObjectStore>,
        file: &ObjectMeta,
        csv: &CsvFormat,
    ) -> Result<Names> {
        let options = csv.options();
        let key = (Version::of(file, Dialect::of(options)), options.comment);
        if let Some(names) = self.found.get(&key) {
            return Ok(names);
        }
        let names: Names = csv_columns::header(store, file, options).await?.into();
        self.found.keep(key, Arc::clone(&names));
        Ok(names)
    }
}

/// A column that has another name at its place in the header, and its own elsewhere: both places.
fn misplaced(header: &[String], columns: &[&str]) -> Option<(usize, usize)> {
    columns.iter().enumerate().find_map(|(at, column)| {
        let is_it = |name: &String| name.eq_ignore_ascii_case(column);
        match header.get(at).is_some_and(is_it) {
            true => None,
            false => header.iter().position(is_it).map(|place| (at, place)),
        }
    })
}

fn unlike(file: &Path, names: &[String], other: &Path, columns: &[String]) -> DataFusionError {
    plan_datafusion_err!(
        "the header of the CSV file /{file} is \"{}\", and that of /{other} is \"{}\": columns of a table go by their places. \
         Read them one by one, SELECT … FROM '/{file}' UNION ALL BY NAME SELECT … FROM '/{other}'",
        names.join(","),
        columns.join(",")
    )
}

fn elsewhere(
    file: &Path,
    names: &[String],
    column: &str,
    at: usize,
    place: usize,
) -> DataFusionError {
    plan_datafusion_err!(
        "the table has the column \"{column}\" at place {}, and the header of the CSV file /{file}, \"{}\", has it at place {}: \
         columns go by their places. Declare them in the order of the files",
        at + 1,
        names.join(","),
        place + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_at_their_places_or_nowhere() {
        let header = ["a", "B", "c"].map(str::to_owned);
        assert_eq!(misplaced(&header, &["a", "b", "c"]), None);
        assert_eq!(misplaced(&header, &["x", "y", "z"]), None);
        assert_eq!(misplaced(&header, &["a", "c"]), Some((1, 2)));
        assert_eq!(misplaced(&header, &["b", "a", "c"]), Some((0, 1)));
        assert_eq!(misplaced(&["a", "a"].map(str::to_owned), &["a", "a"]), None);
    }
}
