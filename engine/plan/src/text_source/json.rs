//! Opens files of JSON, by lines or in arrays.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::json::ReaderBuilder;
use bytes::{Buf, Bytes};
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonDecoder;
use datafusion::datasource::listing::{FileRange, PartitionedFile};
use datafusion::datasource::physical_plan::{FileOpenFuture, FileOpener};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion_datasource::boundary_stream::AlignedBoundaryStream;
use datafusion_datasource::decoder::{DecoderDeserializer, deserialize_stream};
use datafusion_datasource_json::utils::JsonArrayToNdjsonReader;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;

use super::JsonLayout;

/// Blocks that are read ahead of whoever wants them, where a file is read by a thread of its own.
const BLOCKS_AHEAD: usize = 2;
/// Of a file, by which lines and arrays are told apart where it is cut.
const HEAD_BYTES: u64 = 4 << 10;

type Batches = BoxStream<'static, Result<RecordBatch>>;
type Chunks = BoxStream<'static, Result<Bytes>>;

/// Opens files of JSON.
#[derive(Debug, Clone)]
pub(super) struct JsonOpener {
    pub(super) store: Arc<dyn ObjectStore>,
    /// As values are read.
    pub(super) schema: SchemaRef,
    /// Places of the columns that are given out; with them no key may be missing in the schema.
    pub(super) columns: Option<Vec<usize>>,
    /// Rows.
    pub(super) batch_size: usize,
    pub(super) compression: FileCompressionType,
}

impl FileOpener for JsonOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let opener = self.clone();
        Ok(async move {
            let batches = match &file.range {
                Some(range) => opener.part(&file, range).await?,
                None => opener.whole(&file).await?,
            };
            Ok(match opener.columns {
                Some(columns) => batches
                    .map(move |batch| Ok(batch?.project(&columns)?))
                    .boxed(),
                None => batches,
            })
        }
        .boxed())
    }
}

impl JsonOpener {
    fn reader(&self) -> ReaderBuilder {
        ReaderBuilder::new(Arc::clone(&self.schema))
            .with_batch_size(self.batch_size)
            .with_coerce_primitive(true)
            .with_strict_mode(self.columns.is_some())
    }

    /// The rows that begin in `range`. An array among files of lines is cut as these are: its first
    /// part has all rows.
    async fn part(&self, file: &PartitionedFile, range: &FileRange) -> Result<Batches> {
        let place = |at: i64| {
            u64::try_from(at).map_err(|_| internal_datafusion_err!("a file is read from {at} on"))
        };
        let (start, end) = (place(range.start)?, place(range.end)?);
        let (path, size) = (&file.object_meta.location, file.object_meta.size);
        let is_all = start == 0 && end >= size;
        if is_all || self.begins_array(path, size).await? {
            return match start {
                0 => self.whole(file).await,
                _ => Ok(stream::empty().boxed()),
            };
        }
        let store = Arc::clone(&self.store);
        let chunks = AlignedBoundaryStream::new(store, path.clone(), start, end, size, b'\n');
        let chunks = chunks.await?.map_err(DataFusionError::from);
        self.lines(chunks.boxed())
    }

    async fn begins_array(&self, path: &Path, size: u64) -> Result<bool> {
        let head = self.store.get_range(path, 0..size.min(HEAD_BYTES)).await?;
        let first = head.trim_ascii_start().first();
        Ok(JsonLayout::beginning(first.copied()) == JsonLayout::Array)
    }

    /// All rows, in lines or in an array as the file has them.
    async fn whole(&self, file: &PartitionedFile) -> Result<Batches> {
        let got = self.store.get(&file.object_meta.location).await?;
        if let GetResultPayload::File(file, _) = got.payload {
            let mut text = BufReader::new(self.compression.convert_read(file)?);
            let layout = layout_of(&mut text)?;
            let rows = self.reader().build(rows(text, layout))?;
            return Ok(stream::iter(rows).map_err(DataFusionError::from).boxed());
        }
        let chunks = got.into_stream().map_err(DataFusionError::from).boxed();
        let mut chunks = self.compression.convert_stream(chunks)?;
        let mut head = vec![];
        let mut first = None;
        while first.is_none()
            && let Some(chunk) = chunks.try_next().await?
        {
            first = chunk
                .iter()
                .find(|byte| !byte.is_ascii_whitespace())
                .copied();
            head.push(Ok(chunk));
        }
        let chunks = stream::iter(head).chain(chunks).boxed();
        match JsonLayout::beginning(first) {
            JsonLayout::Lines => self.lines(chunks),
            JsonLayout::Array => Ok(self.array(chunks)),
        }
    }

    fn lines(&self, chunks: Chunks) -> Result<Batches> {
        let decoder = JsonDecoder::new(self.reader().build_decoder()?);
        let batches = deserialize_stream(chunks.fuse(), DecoderDeserializer::new(decoder));
        Ok(batches.map_err(DataFusionError::from).boxed())
    }

    /// Reads an array that comes in chunks, by a thread of its own.
    fn array(&self, chunks: Chunks) -> Batches {
        let (reader, schema) = (self.reader(), Arc::clone(&self.schema));
        let mut batches = RecordBatchReceiverStreamBuilder::new(schema, BLOCKS_AHEAD);
        let (sender, handle) = (batches.tx(), Handle::current());
        batches.spawn_blocking(move || {
            let text = ChunkRead {
                chunks,
                rest: Bytes::new(),
                handle,
            };
            for batch in reader.build(rows(text, JsonLayout::Array))? {
                let batch = batch.map_err(DataFusionError::from);
                if sender.blocking_send(batch).is_err() {
                    // Nobody wants more.
                    break;
                }
            }
            Ok(())
        });
        batches.build().boxed()
    }
}

/// How the rows of `text` follow each other. What stands before them is read.
fn layout_of(text: &mut impl BufRead) -> std::io::Result<JsonLayout> {
    loop {
        let read = text.fill_buf()?;
        if read.is_empty() {
            return Ok(JsonLayout::Lines);
        }
        let spaces = read.iter().take_while(|byte| byte.is_ascii_whitespace());
        let spaces = spaces.count();
        if let Some(first) = read.get(spaces) {
            return Ok(JsonLayout::beginning(Some(*first)));
        }
        text.consume(spaces);
    }
}

/// Rows a line, however they are written.
fn rows(text: impl Read + Send + 'static, layout: JsonLayout) -> Box<dyn BufRead + Send> {
    match layout {
        JsonLayout::Lines => Box::new(BufReader::new(text)),
        JsonLayout::Array => Box::new(ArrayRows(JsonArrayToNdjsonReader::new(text))),
    }
}

/// The rows of an array, which has to have an end.
struct ArrayRows<R: Read>(JsonArrayToNdjsonReader<R>);

impl<R: Read> BufRead for ArrayRows<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.0.fill_buf()?.is_empty() {
            self.0.validate_complete()?;
        }
        self.0.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.0.consume(bytes);
    }
}

impl<R: Read> Read for ArrayRows<R> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.fill_buf()?.read(to)?;
        self.consume(bytes);
        Ok(bytes)
    }
}

/// Chunks that arrive, for a thread that may wait.
struct ChunkRead {
    chunks: Chunks,
    rest: Bytes,
    handle: Handle,
}

impl Read for ChunkRead {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        while self.rest.is_empty() {
            match self.handle.block_on(self.chunks.next()) {
                Some(chunk) => self.rest = chunk.map_err(std::io::Error::other)?,
                None => return Ok(0),
            }
        }
        let bytes = self.rest.len().min(to.len());
        self.rest.copy_to_slice(&mut to[..bytes]);
        Ok(bytes)
    }
}
