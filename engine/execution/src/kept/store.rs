//! The blocks that this process has kept, by table and part: in memory as far as there is room
//! for them, then on disk.
//!
//! A part is there from its end on, and until its table is freed; who reads it then reads on.
//! Memory is counted in `memory_limit` and by `kept_memory_max`, disk as that of operators that
//! spill.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::StreamWriter;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, SpillWriter};
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use futures::{StreamExt, stream};
use mobula_block::size::block_bytes;
use mobula_plan::{KeptPart, KeptWriter};
use parking_lot::Mutex;

use crate::error::ExecutionError;
use crate::exchange::compact::compact_block;

/// Blocks from disk that wait for their reader.
const BLOCKS_WAITING: usize = 2;

/// The blocks of one process.
pub struct KeptStore {
    executor_id: String,
    runtime: Arc<RuntimeEnv>,
    memory_max: usize,
    /// Of all parts, those that are being made included.
    memory: MemoryReservation,
    next_part: AtomicU64,
    /// Begins the ids of tables that this process has had made.
    mark: String,
    tables: Mutex<HashMap<String, HashMap<u64, Arc<Part>>>>,
    /// The tables that this process has had made, wherever their parts are.
    alive: Mutex<HashSet<String>>,
}

/// A part that is complete.
struct Part {
    blocks: Vec<RecordBatch>,
    /// What comes after those.
    spilled: Option<Arc<dyn SpillFile>>,
    _memory: Memory,
}

/// What a part has of its store's memory.
struct Memory {
    store: Arc<KeptStore>,
    bytes: usize,
}

impl std::fmt::Debug for KeptStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tables = self.tables.lock().len();
        f.debug_struct("KeptStore")
            .field("tables", &tables)
            .finish_non_exhaustive()
    }
}

impl KeptStore {
    pub fn new(executor_id: &str, runtime: &Arc<RuntimeEnv>, memory_max: usize) -> Arc<Self> {
        let memory = MemoryConsumer::new("temporary tables").register(&runtime.memory_pool);
        Arc::new(Self {
            executor_id: executor_id.to_owned(),
            runtime: Arc::clone(runtime),
            memory_max,
            memory,
            next_part: AtomicU64::new(0),
            mark: uuid::Uuid::new_v4().simple().to_string(),
            tables: Mutex::default(),
            alive: Mutex::default(),
        })
    }

    pub fn executor_id(&self) -> &str {
        &self.executor_id
    }

    /// A new part of table `id`.
    pub fn begin(self: &Arc<Self>, id: &str, schema: &SchemaRef) -> PartWriter {
        PartWriter {
            id: id.to_owned(),
            schema: Arc::clone(schema),
            blocks: vec![],
            spill: None,
            rows: 0,
            bytes: 0,
            spilled_bytes: 0,
            memory: Memory {
                store: Arc::clone(self),
                bytes: 0,
            },
        }
    }

    /// The blocks of a part of ours, with the columns of `projection`.
    ///
    /// # Errors
    /// There is no such part.
    pub fn read(
        &self,
        id: &str,
        name: &str,
        number: u64,
        projection: &[usize],
    ) -> Result<SendableRecordBatchStream> {
        let part = self
            .tables
            .lock()
            .get(id)
            .and_then(|parts| parts.get(&number).cloned());
        let part = part.ok_or_else(|| lost(name, &self.executor_id))?;
        part.read(projection.to_vec())
    }

    /// Lets go of the parts of table `id`.
    pub fn free(&self, id: &str) {
        // Dropped outside of the lock: files are removed.
        let freed = self.tables.lock().remove(id);
        drop(freed);
    }

    /// Lets go of all parts; of how many tables.
    pub fn free_all(&self) -> usize {
        let freed = std::mem::take(&mut *self.tables.lock());
        freed.len()
    }

    /// The tables that have parts here.
    pub fn ids(&self) -> Vec<String> {
        self.tables.lock().keys().cloned().collect()
    }

    /// A new table, whose parts stay until what is returned is dropped: those of other
    /// processes until their next heartbeat, whose answer tells them.
    pub fn hold(self: &Arc<Self>) -> Arc<HeldTable> {
        let id = format!("{}-{}", self.mark, uuid::Uuid::new_v4().simple());
        self.alive.lock().insert(id.clone());
        Arc::new(HeldTable {
            store: Arc::clone(self),
            id,
        })
    }

    /// Of these tables, those that nobody holds any more.
    pub fn not_held(&self, mut ids: Vec<String>) -> Vec<String> {
        let alive = self.alive.lock();
        ids.retain(|id| !alive.contains(id));
        ids
    }

    /// Lists a part, unless its table is one of ours that nobody holds any more: a query that was
    /// given up may come to the end of a part after that. On executors the next heartbeat tells.
    fn add(&self, id: String, number: u64, part: Arc<Part>) {
        let mut tables = self.tables.lock();
        // Whoever lets go says so first, and frees then.
        if !id.starts_with(&self.mark) || self.alive.lock().contains(&id) {
            tables.entry(id).or_default().insert(number, part);
        }
    }

    /// So many more bytes in memory, if there is room.
    fn takes(&self, bytes: usize) -> bool {
        self.memory.size().saturating_add(bytes) <= self.memory_max
            && self.memory.try_grow(bytes).is_ok()
    }
}

/// A table as long as somebody wants it.
#[derive(Debug)]
pub struct HeldTable {
    store: Arc<KeptStore>,
    id: String,
}

impl HeldTable {
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for HeldTable {
    fn drop(&mut self) {
        self.store.alive.lock().remove(&self.id);
        self.store.free(&self.id);
    }
}

/// Tells that blocks of table `name` are gone with `executor`.
pub fn lost(name: &str, executor: &str) -> DataFusionError {
    DataFusionError::External(Box::new(ExecutionError::KeptLost {
        table: name.to_owned(),
        executor: executor.to_owned(),
    }))
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.store.memory.shrink(self.bytes);
    }
}

impl Part {
    fn read(self: &Arc<Self>, projection: Vec<usize>) -> Result<SendableRecordBatchStream> {
        let spilled = self.spilled.as_ref();
        let spilled = spilled.map(|file| spilled_blocks(file, projection.clone()));
        let (part, columns) = (Arc::clone(self), projection.clone());
        let schema = match (self.blocks.first(), &spilled) {
            (Some(block), _) => Arc::new(block.schema().project(&projection)?),
            (None, Some(Ok(blocks))) => blocks.schema(),
            _ => Arc::new(Schema::empty()),
        };
        let in_memory = stream::iter(0..self.blocks.len())
            .map(move |at| Ok(part.blocks[at].project(&columns)?));
        let blocks = match spilled.transpose()? {
            Some(spilled) => in_memory.chain(spilled).boxed(),
            None => in_memory.boxed(),
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, blocks)))
    }
}

/// Reads a file on a thread that may wait for the disk.
fn spilled_blocks(
    file: &Arc<dyn SpillFile>,
    projection: Vec<usize>,
) -> Result<SendableRecordBatchStream> {
    let file = Arc::clone(file);
    let open = |file: &Arc<dyn SpillFile>| -> Result<StreamReader<BufReader<File>>> {
        let path = file.path();
        let path = path.ok_or_else(|| internal_datafusion_err!("a file without a path"))?;
        let bytes = BufReader::new(File::open(path)?);
        Ok(StreamReader::try_new(bytes, None)?)
    };
    let reader = open(&file)?;
    let schema = Arc::new(reader.schema().project(&projection)?);
    let mut blocks = RecordBatchReceiverStreamBuilder::new(schema, BLOCKS_WAITING);
    let sender = blocks.tx();
    blocks.spawn_blocking(move || {
        // Removed when it is read to its end.
        let _file = file;
        for block in reader {
            // All of it is read anyway, and the reader's own projection (arrow 59) loses count of
            // the buffers of views.
            let block = block.and_then(|block| block.project(&projection));
            let block = block.map_err(DataFusionError::from);
            if sender.blocking_send(block).is_err() {
                break;
            }
        }
        Ok(())
    });
    Ok(blocks.build())
}

type Spill = StreamWriter<BufWriter<Box<dyn SpillWriter>>>;

/// A part that is being made.
pub struct PartWriter {
    id: String,
    schema: SchemaRef,
    blocks: Vec<RecordBatch>,
    /// In this order: dropped, the writer writes what it still has, and the file is uncounted.
    spill: Option<(Spill, Arc<dyn SpillFile>)>,
    rows: u64,
    bytes: u64,
    spilled_bytes: u64,
    memory: Memory,
}

impl PartWriter {
    fn spill(&mut self, block: &RecordBatch) -> Result<()> {
        let (writer, _) = match &mut self.spill {
            Some(spill) => spill,
            None => {
                let runtime = &self.memory.store.runtime;
                let file = runtime.disk_manager.create_tmp_file("temporary tables")?;
                let bytes = BufWriter::new(file.open_writer()?);
                let writer = StreamWriter::try_new(bytes, &self.schema)?;
                self.spill.insert((writer, file))
            }
        };
        writer.write(block).map_err(full)
    }
}

/// What the disk manager says of a full disk comes as an error of a file.
fn full(error: ArrowError) -> DataFusionError {
    match error {
        ArrowError::IoError(text, source) if source.kind() == std::io::ErrorKind::Other => {
            DataFusionError::ResourcesExhausted(text)
        }
        other => other.into(),
    }
}

impl KeptWriter for PartWriter {
    fn write(&mut self, block: RecordBatch) -> Result<()> {
        if block.num_rows() == 0 {
            return Ok(());
        }
        let block = compact_block(block)?;
        let bytes = block_bytes(&block);
        self.rows += block.num_rows() as u64;
        self.bytes += bytes as u64;
        // Once some is on disk the rest is too: blocks stay in their order.
        if self.spill.is_none() && self.memory.store.takes(bytes) {
            self.memory.bytes += bytes;
            self.blocks.push(whole(block)?);
            return Ok(());
        }
        self.spilled_bytes += bytes as u64;
        self.spill(&block)
    }

    fn finish(mut self: Box<Self>) -> Result<Option<KeptPart>> {
        if self.rows == 0 {
            return Ok(None);
        }
        let spilled = match self.spill.take() {
            Some((mut writer, file)) => {
                writer.finish().map_err(full)?;
                let bytes = writer.into_inner().map_err(full)?.into_inner();
                bytes.map_err(|error| full(error.into_error().into()))?;
                Some(file)
            }
            None => None,
        };
        let this = *self;
        let store = Arc::clone(&this.memory.store);
        let number = store.next_part.fetch_add(1, Ordering::Relaxed);
        let part = Arc::new(Part {
            blocks: this.blocks,
            spilled,
            _memory: this.memory,
        });
        store.add(this.id, number, part);
        Ok(Some(KeptPart {
            executor_id: store.executor_id.clone(),
            part: number,
            rows: this.rows,
            bytes: this.bytes,
            spilled_bytes: this.spilled_bytes,
        }))
    }
}

/// `block` alone, where it is a small part of larger buffers.
fn whole(block: RecordBatch) -> Result<RecordBatch> {
    let behind = block.get_array_memory_size();
    match behind > 2 * block_bytes(&block) + 4096 {
        true => {
            let all = arrow::array::UInt32Array::from_iter_values(0..block.num_rows() as u32);
            Ok(arrow::compute::take_record_batch(&block, &all)?)
        }
        false => Ok(block),
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
