//! Blocks to one Parquet file in a folder, within the room that there is.
//!
//! Row groups are small, so that several tasks can share one file. What is not yet on disk is
//! at most a row group.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::properties::WriterProperties;

use super::{Folder, LoadedTables};
use crate::ServerError;

/// Most rows of a row group.
const GROUP_ROWS: usize = 1 << 17;
/// Most bytes of a row group, encoded, that wait in memory.
const GROUP_BYTES: usize = 32 << 20;

/// A file being written. It is of no use before [`Self::finish`].
pub(crate) struct RowsWriter {
    folder: Arc<Folder>,
    path: PathBuf,
    file: ArrowWriter<File>,
    n_groups: usize,
    n_rows: u64,
}

impl RowsWriter {
    /// A file for blocks of `schema` in `folder`.
    ///
    /// # Errors
    /// Parquet has no such types, or the file cannot be made.
    pub fn create(folder: &Arc<Folder>, schema: &SchemaRef) -> Result<Self, ServerError> {
        let path = folder.path().join("rows.parquet");
        let file = File::create_new(&path).map_err(|source| ServerError::File {
            deed: "make the file",
            path: path.clone(),
            source,
        })?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::LZ4_RAW)
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .build();
        let file = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties));
        Ok(Self {
            folder: Arc::clone(folder),
            path,
            file: file.map_err(unwritable)?,
            n_groups: 0,
            n_rows: 0,
        })
    }

    pub fn folder(&self) -> &Arc<Folder> {
        &self.folder
    }

    /// Writes `block`, which waits for the disk.
    ///
    /// # Errors
    /// The disk, or `loaded_bytes_max`, is full.
    pub fn write(&mut self, block: &RecordBatch, loaded: &LoadedTables) -> Result<(), ServerError> {
        // A block may be as long as a message; what waits must not be.
        for start in (0..block.num_rows()).step_by(GROUP_ROWS) {
            let n = GROUP_ROWS.min(block.num_rows() - start);
            self.file
                .write(&block.slice(start, n))
                .map_err(unwritable)?;
            if self.file.in_progress_size() >= GROUP_BYTES {
                self.file.flush().map_err(unwritable)?;
            }
        }
        self.n_rows += block.num_rows() as u64;
        if self.file.flushed_row_groups().len() > self.n_groups {
            self.n_groups = self.file.flushed_row_groups().len();
            loaded.check_room()?;
        }
        Ok(())
    }

    /// Completes the file on disk, and gives its path and its rows.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn finish(mut self, loaded: &LoadedTables) -> Result<(PathBuf, u64), ServerError> {
        self.file.finish().map_err(unwritable)?;
        let synced = self.file.inner_mut().sync_all();
        synced.map_err(|source| ServerError::File {
            deed: "write",
            path: self.path.clone(),
            source,
        })?;
        loaded.check_room()?;
        Ok((self.path, self.n_rows))
    }
}

fn unwritable(source: ParquetError) -> ServerError {
    ServerError::Unwritable { source }
}
