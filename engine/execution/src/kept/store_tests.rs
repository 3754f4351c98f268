//! Kept blocks: where they lie, what is counted, when they go.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, StringViewArray};
use arrow::datatypes::Int64Type;
use datafusion::execution::disk_manager::DiskManagerBuilder;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use futures::TryStreamExt;

use super::*;

const ROWS: i64 = 1000;

fn block(number: i64) -> RecordBatch {
    let n = Int64Array::from_iter_values(number * ROWS..(number + 1) * ROWS);
    let s = StringArray::from_iter_values(n.values().iter().map(|n| format!("row {n}")));
    let v = StringViewArray::from_iter_values(s.iter().flatten().map(|s| s.repeat(3)));
    let columns: [(&str, ArrayRef); 3] =
        [("v", Arc::new(v)), ("n", Arc::new(n)), ("s", Arc::new(s))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn store(memory_max: usize, disk_max: u64) -> Arc<KeptStore> {
    let disk = DiskManagerBuilder::default().with_max_temp_directory_size(disk_max);
    let runtime = RuntimeEnvBuilder::new().with_disk_manager_builder(disk);
    let runtime = runtime.with_memory_pool(Arc::new(GreedyMemoryPool::new(1 << 30)));
    KeptStore::new("here", &runtime.build_arc().unwrap(), memory_max)
}

fn kept(store: &Arc<KeptStore>, id: &str, blocks: i64) -> KeptPart {
    let mut writer = Box::new(store.begin(id, &block(0).schema()));
    for number in 0..blocks {
        writer.write(block(number)).unwrap();
    }
    writer.finish().unwrap().unwrap()
}

async fn numbers(store: &KeptStore, id: &str, part: u64) -> Vec<i64> {
    let blocks = store.read(id, "t", part, &[1]).unwrap();
    assert_eq!(blocks.schema().fields().len(), 1);
    let blocks: Vec<RecordBatch> = blocks.try_collect().await.unwrap();
    let columns = blocks.iter().map(|block| block.column(0));
    columns
        .flat_map(|column| column.as_primitive::<Int64Type>().values().to_vec())
        .collect()
}

#[tokio::test]
async fn blocks_lie_in_memory_and_then_on_disk() {
    let one = block_bytes(&block(0));
    for room in [0, one, 3 * one, 100 * one] {
        let store = store(room, 1 << 30);
        let table = store.hold();
        let part = kept(&store, table.id(), 8);
        assert_eq!((part.rows, part.executor_id.as_str()), (8000, "here"));
        let in_memory = part.bytes - part.spilled_bytes;
        assert_eq!(store.memory.size() as u64, in_memory);
        assert!(in_memory <= room as u64 && (room < 8 * one || part.spilled_bytes == 0));
        let disk = &store.runtime.disk_manager;
        assert_eq!(disk.used_disk_space() > 0, part.spilled_bytes > 0);
        let all: Vec<_> = (0..8 * ROWS).collect();
        assert_eq!(numbers(&store, table.id(), part.part).await, all);
        // Who reads goes on.
        let reading = store.read(table.id(), "t", part.part, &[0, 1, 2]).unwrap();
        assert_eq!(store.ids(), [table.id()]);
        drop(table);
        assert!(store.ids().is_empty());
        let blocks: Vec<RecordBatch> = reading.try_collect().await.unwrap();
        assert_eq!(
            blocks.iter().map(RecordBatch::num_rows).sum::<usize>(),
            8000
        );
        drop(blocks);
        assert_eq!(store.memory.size(), 0);
    }
}

#[tokio::test]
async fn what_is_gone_is_told() {
    let store = store(1 << 20, 1 << 30);
    let table = store.hold();
    let part = kept(&store, table.id(), 1);
    assert_eq!(
        store.not_held(vec![table.id().to_owned(), "x".into()]),
        ["x"]
    );
    assert_eq!(store.free_all(), 1);
    let error = store.read(table.id(), "t", part.part, &[0]).err().unwrap();
    let text = error.to_string();
    assert!(text.contains("\"t\"") && text.contains("here"), "{text}");
}

#[tokio::test]
async fn a_part_that_is_given_up_leaves_nothing() {
    let one = block_bytes(&block(0));
    let store = store(one, 1 << 30);
    let mut writer = Box::new(store.begin("a", &block(0).schema()));
    (0..3).for_each(|number| writer.write(block(number)).unwrap());
    assert!(store.memory.size() > 0);
    drop(writer);
    assert_eq!(
        (
            store.memory.size(),
            store.runtime.disk_manager.used_disk_space()
        ),
        (0, 0)
    );
    assert!(store.ids().is_empty());
    // One without rows is none.
    let writer = Box::new(store.begin("a", &block(0).schema()));
    assert_eq!(writer.finish().unwrap(), None);
}

#[tokio::test]
async fn a_part_that_ends_after_its_table_is_not_kept() {
    let store = store(1 << 30, 0);
    let table = store.hold();
    let mut late = Box::new(store.begin(table.id(), &block(0).schema()));
    late.write(block(0)).unwrap();
    drop(table);
    late.finish().unwrap();
    assert!(store.ids().is_empty() && store.memory.size() == 0);
    // Of those of others, who made them knows.
    kept(&store, "theirs", 1);
    assert_eq!(store.ids(), ["theirs"]);
}

#[tokio::test]
async fn a_full_disk_is_told() {
    let store = store(0, 10_000);
    let mut writer = Box::new(store.begin("a", &block(0).schema()));
    let failed = (0..100).find_map(|number| writer.write(block(number)).err());
    let text = failed.unwrap();
    assert!(
        matches!(text, DataFusionError::ResourcesExhausted(_)),
        "{text:?}"
    );
    assert!(
        text.to_string().contains("max_temp_directory_size"),
        "{text}"
    );
}

#[tokio::test]
async fn small_slices_do_not_keep_what_they_were_cut_from() {
    let store = store(1 << 30, 0);
    let large = block(0);
    let mut writer = Box::new(store.begin("a", &large.schema()));
    writer.write(large.slice(7, 2)).unwrap();
    let part = writer.finish().unwrap().unwrap();
    let blocks = store.read("a", "t", part.part, &[0, 1, 2]).unwrap();
    let blocks: Vec<RecordBatch> = blocks.try_collect().await.unwrap();
    assert_eq!(blocks, [large.slice(7, 2)]);
    assert!(blocks[0].column(0).get_array_memory_size() < 1000);
}
