//! Whether quoted values of CSV have line breaks.
//!
//! A value is quoted where its first byte is a quote; elsewhere a quote is a byte as others are.
//! So has it the reader (the crate `csv-core`). Where the dialect has more rules, any quote counts.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::common::runtime::SpawnedTask;
use datafusion::common::{DataFusionError, Result};
use datafusion::config::CsvOptions;
use futures::{StreamExt, TryStreamExt, stream};
use memchr::{memchr, memchr2};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

/// Bytes of a file that are looked at together.
const PIECE_BYTES: u64 = 4 << 20;
/// Files that are remembered.
const REMEMBERED: usize = 10_000;
/// What some programs begin a file of text with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What tells rows and values apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Dialect {
    quote: u8,
    delimiter: u8,
    /// Ends rows; else all line breaks do, and files are cut at `\n`.
    terminator: Option<u8>,
    /// Whether there are rules besides: comments, escapes.
    has_more_rules: bool,
}

impl Dialect {
    pub(crate) fn of(options: &CsvOptions) -> Self {
        let doubles = options.double_quote.unwrap_or(true);
        Self {
            quote: options.quote,
            delimiter: options.delimiter,
            terminator: options.terminator,
            has_more_rules: options.comment.is_some() || options.escape.is_some() || !doubles,
        }
    }

    /// Where files are cut.
    fn cut_at(self) -> u8 {
        self.terminator.unwrap_or(b'\n')
    }

    /// Whether a value begins after `byte`.
    fn ends_value(self, byte: u8) -> bool {
        let ends_row = match self.terminator {
            Some(terminator) => byte == terminator,
            None => matches!(byte, b'\n' | b'\r'),
        };
        ends_row || byte == self.delimiter
    }
}

/// A file, as long as it is not written anew.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Version {
    path: Path,
    bytes: u64,
    /// Nanoseconds since 1970.
    written_at: Option<i64>,
    dialect: Dialect,
}

impl Version {
    pub(crate) fn of(file: &ObjectMeta, dialect: Dialect) -> Self {
        Self {
            path: file.location.clone(),
            bytes: file.size,
            written_at: file.last_modified.timestamp_nanos_opt(),
            dialect,
        }
    }
}

/// What was found out of files, by their versions.
#[derive(Debug)]
pub(crate) struct FileMemory<K, V>(Mutex<HashMap<K, V>>);

impl<K, V> Default for FileMemory<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash, V: Clone> FileMemory<K, V> {
    pub(crate) fn get(&self, file: &K) -> Option<V> {
        self.0.lock().get(file).cloned()
    }

    /// Forgets all others where there are too many.
    pub(crate) fn keep(&self, file: K, found: V) {
        let mut all = self.0.lock();
        if all.len() >= REMEMBERED {
            all.clear();
        }
        all.insert(file, found);
    }
}

/// Files that were looked through, and whether they have line breaks in values.
#[derive(Debug, Default)]
pub(crate) struct Looked(FileMemory<Version, bool>);

impl Looked {
    /// Whether any of `files` has.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub(crate) async fn have_breaks(
        self: &Arc<Self>,
        store: &Arc<dyn ObjectStore>,
        files: Vec<ObjectMeta>,
        dialect: Dialect,
    ) -> Result<bool> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let each = files.into_iter().map(|file| {
            let (looked, store) = (Arc::clone(self), Arc::clone(store));
            async move {
                let look = async move { looked.has_breaks(&store, &file, dialect).await };
                let has = SpawnedTask::spawn(look).await;
                has.map_err(|error| DataFusionError::External(Box::new(error)))?
            }
        });
        let each = stream::iter(each).buffer_unordered(cores);
        each.try_any(|has| async move { has }).await
    }

    async fn has_breaks(
        &self,
        store: &Arc<dyn ObjectStore>,
        file: &ObjectMeta,
        dialect: Dialect,
    ) -> Result<bool> {
        let version = Version::of(file, dialect);
        if let Some(has) = self.0.get(&version) {
            return Ok(has);
        }
        let has = look_through(store, file, dialect).await?;
        self.0.keep(version, has);
        Ok(has)
    }
}

/// Reads a file up to the first line break in a value.
async fn look_through(
    store: &Arc<dyn ObjectStore>,
    file: &ObjectMeta,
    dialect: Dialect,
) -> Result<bool> {
    let mut place = Place::RowStart;
    let mut at = 0;
    while at < file.size {
        let end = file.size.min(at + PIECE_BYTES);
        let piece = store.get_range(&file.location, at..end).await?;
        let marked = (at == 0).then(|| piece.strip_prefix(BYTE_ORDER_MARK));
        let text = marked.flatten().unwrap_or(&piece);
        match place.after(text, dialect) {
            Some(next) => place = next,
            None => return Ok(true),
        }
        at = end;
    }
    Ok(false)
}

/// Where a piece of a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    RowStart,
    /// Outside of quotes, after this byte.
    After(u8),
    InQuotes,
    /// After a quote in quotes: the last one, or the first of two that mean one.
    AfterQuote,
}

impl Place {
    /// Where `text` from here on ends; `None`: it has a line break in a value.
    fn after(mut self, text: &[u8], dialect: Dialect) -> Option<Self> {
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            (self, at) = match self {
                Self::RowStart | Self::After(_) => match memchr(dialect.quote, rest) {
                    Some(_) if dialect.has_more_rules => return None,
                    None => (Self::After(text[text.len() - 1]), text.len()),
                    Some(0) if self.begins_value(dialect) => (Self::InQuotes, at + 1),
                    Some(0) => (Self::After(dialect.quote), at + 1),
                    Some(before) => (Self::After(rest[before - 1]), at + before),
                },
                Self::InQuotes => match memchr2(dialect.quote, dialect.cut_at(), rest) {
                    None => (Self::InQuotes, text.len()),
                    Some(found) if rest[found] == dialect.quote => {
                        (Self::AfterQuote, at + found + 1)
                    }
                    Some(_) => return None,
                },
                Self::AfterQuote if rest[0] == dialect.quote => (Self::InQuotes, at + 1),
                Self::AfterQuote => (Self::After(rest[0]), at + 1),
            };
        }
        Some(self)
    }

    fn begins_value(self, dialect: Dialect) -> bool {
        match self {
            Self::RowStart => true,
            Self::After(byte) => dialect.ends_value(byte),
            Self::InQuotes | Self::AfterQuote => false,
        }
    }
}

#[cfg(test)]
#[path = "csv_rows_tests.rs"]
mod tests;
