//! The eight TPC-H tables as Parquet files, made once and reused.
//!
//! A directory is complete when its manifest `tpch.json` is there and every file
//! has the size (with `verify`, the checksum) noted in it. Files are written
//! under another name and renamed, the manifest last, so that an interrupted run
//! never looks complete. The generator is the `tpchgen` crate: the same rows as
//! the official one.

use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::RecordBatch;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::basic::Compression;
use datafusion::parquet::file::properties::WriterProperties;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator,
    PartSuppGenerator, RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow,
    RecordBatchIterator, RegionArrow, SupplierArrow,
};

use crate::ServerError;

/// The tables, largest first, so that threads end at about the same time.
pub const TABLES: [&str; 8] = [
    "lineitem", "orders", "partsupp", "part", "customer", "supplier", "nation", "region",
];

/// Rows at scale factor 1, for the progress bar.
const ROWS_AT_SF1: [u64; 8] = [
    6_001_215, 1_500_000, 800_000, 200_000, 150_000, 10_000, 25, 5,
];
const MANIFEST: &str = "tpch.json";
/// Raised when the same arguments give other files.
const GENERATOR: &str = "tpchgen 3, parquet snappy";

/// What to make, and where.
#[derive(Debug, Clone)]
pub struct TpchData {
    pub scale_factor: f64,
    /// Files a table; nation and region always have one.
    pub parts: u32,
    pub out: PathBuf,
}

#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Manifest {
    generator: String,
    scale_factor: f64,
    parts: u32,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct ManifestFile {
    path: String,
    bytes: u64,
    blake3: String,
}

/// One file to make.
struct Job {
    table: usize,
    part: u32,
    path: String,
}

impl TpchData {
    /// Makes what is missing. With `verify`, files made earlier are read again
    /// and compared with their checksums.
    ///
    /// # Errors
    /// [`ServerError::TpchData`]: no space, no permission, or a damaged file.
    pub fn make(&self, verify: bool) -> Result<(), ServerError> {
        if self.is_complete(verify)? {
            println!("mobula: TPC-H data is in {}", self.out.display());
            return Ok(());
        }
        fs::create_dir_all(&self.out).map_err(|e| self.failed(e))?;
        let jobs = self.jobs();
        let rows: f64 = ROWS_AT_SF1.iter().map(|rows| *rows as f64).sum();
        let bar = progress_bar((rows * self.scale_factor) as u64);
        let (next, done) = (
            AtomicUsize::new(0),
            Mutex::new(Vec::with_capacity(jobs.len())),
        );
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| {
            let work = || -> Result<(), ServerError> {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = self.make_file(job, &bar)?;
                    done.lock().push(file);
                }
                Ok(())
            };
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(self.failed("a thread panicked")))
            })
        })?;
        bar.finish_and_clear();
        self.write_manifest(done.into_inner())?;
        println!("mobula: TPC-H data is in {}", self.out.display());
        Ok(())
    }

    /// Where the files of `table` are, as a table's location.
    pub fn location(&self, table: &str) -> PathBuf {
        match self.parts {
            1 => self.out.join(format!("{table}.parquet")),
            _ => self.out.join(table),
        }
    }

    fn jobs(&self) -> Vec<Job> {
        let mut jobs = Vec::new();
        for (table, name) in TABLES.iter().enumerate() {
            let tiny = matches!(*name, "nation" | "region");
            for part in 1..=if tiny { 1 } else { self.parts } {
                let path = match self.parts {
                    1 => format!("{name}.parquet"),
                    _ => format!("{name}/part-{part:04}.parquet"),
                };
                jobs.push(Job { table, part, path });
            }
        }
        jobs
    }

    fn blocks(&self, job: &Job) -> Box<dyn RecordBatchIterator> {
        let (sf, part, parts) = (self.scale_factor, job.part as i32, self.parts as i32);
        match job.table {
            0 => Box::new(LineItemArrow::new(LineItemGenerator::new(sf, part, parts))),
            1 => Box::new(OrderArrow::new(OrderGenerator::new(sf, part, parts))),
            2 => Box::new(PartSuppArrow::new(PartSuppGenerator::new(sf, part, parts))),
            3 => Box::new(PartArrow::new(PartGenerator::new(sf, part, parts))),
            4 => Box::new(CustomerArrow::new(CustomerGenerator::new(sf, part, parts))),
            5 => Box::new(SupplierArrow::new(SupplierGenerator::new(sf, part, parts))),
            6 => Box::new(NationArrow::new(NationGenerator::new(sf, 1, 1))),
            _ => Box::new(RegionArrow::new(RegionGenerator::new(sf, 1, 1))),
        }
    }

    fn make_file(&self, job: &Job, bar: &ProgressBar) -> Result<ManifestFile, ServerError> {
        let path = self.out.join(&job.path);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(|e| self.failed(e))?;
        }
        let unfinished = path.with_extension("unfinished");
        let written = write_parquet(&unfinished, self.blocks(job), |block| {
            bar.inc(block.num_rows() as u64);
        });
        written.map_err(|e| self.failed(e))?;
        fs::rename(&unfinished, &path).map_err(|e| self.failed(e))?;
        let bytes = fs::metadata(&path).map_err(|e| self.failed(e))?.len();
        Ok(ManifestFile {
            path: job.path.clone(),
            bytes,
            blake3: checksum(&path).map_err(|e| self.failed(e))?,
        })
    }

    fn is_complete(&self, verify: bool) -> Result<bool, ServerError> {
        let Ok(text) = fs::read_to_string(self.out.join(MANIFEST)) else {
            return Ok(false);
        };
        let Ok(manifest) = serde_json::from_str::<Manifest>(&text) else {
            return Ok(false);
        };
        let same = manifest.generator == GENERATOR
            && manifest.scale_factor == self.scale_factor
            && manifest.parts == self.parts;
        if !same {
            return Err(self.failed(format!(
                "it holds other data (scale factor {}, {} parts, {}). Choose another directory, or remove that one",
                manifest.scale_factor, manifest.parts, manifest.generator
            )));
        }
        for file in &manifest.files {
            let path = self.out.join(&file.path);
            let intact = fs::metadata(&path).is_ok_and(|found| found.len() == file.bytes);
            if !intact {
                return Ok(false);
            }
            if verify && checksum(&path).map_err(|e| self.failed(e))? != file.blake3 {
                return Err(self.failed(format!(
                    "\"{}\" is damaged: its checksum differs. Remove it and run again",
                    file.path
                )));
            }
        }
        Ok(true)
    }

    fn write_manifest(&self, mut files: Vec<ManifestFile>) -> Result<(), ServerError> {
        files.sort();
        let manifest = Manifest {
            generator: GENERATOR.to_owned(),
            scale_factor: self.scale_factor,
            parts: self.parts,
            files,
        };
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| self.failed(e))?;
        fs::write(self.out.join(MANIFEST), text).map_err(|e| self.failed(e))
    }

    fn failed(&self, reason: impl ToString) -> ServerError {
        ServerError::TpchData {
            path: self.out.clone(),
            reason: reason.to_string(),
        }
    }
}

fn write_parquet(
    path: &Path,
    blocks: Box<dyn RecordBatchIterator>,
    progress: impl Fn(&RecordBatch),
) -> Result<(), String> {
    let file = File::create(path).map_err(|e| e.to_string())?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .build();
    // Without the Arrow schema: readers that know no view types can read it.
    let options = ArrowWriterOptions::new()
        .with_properties(properties)
        .with_skip_arrow_metadata(true);
    let schema = Arc::clone(blocks.schema());
    let mut writer =
        ArrowWriter::try_new_with_options(file, schema, options).map_err(|e| e.to_string())?;
    for block in blocks {
        writer.write(&block).map_err(|e| e.to_string())?;
        progress(&block);
    }
    writer.close().map_err(|e| e.to_string())?;
    Ok(())
}

fn checksum(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            n => hasher.update(&buffer[..n]),
        };
    }
}

fn progress_bar(rows: u64) -> ProgressBar {
    let bar = ProgressBar::new(rows);
    if !std::io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = "making TPC-H data {bar:40} {percent}% of {human_len} rows, {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(out: &Path, parts: u32) -> TpchData {
        TpchData {
            scale_factor: 0.001,
            parts,
            out: out.to_path_buf(),
        }
    }

    #[test]
    fn made_once_checked_and_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let data = tiny(dir.path(), 2);
        data.make(false).unwrap();
        assert!(data.is_complete(true).unwrap());
        assert!(dir.path().join("lineitem/part-0002.parquet").exists());
        assert!(!dir.path().join("region/part-0002.parquet").exists());

        let orders = dir.path().join("orders/part-0001.parquet");
        let mut bytes = fs::read(&orders).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&orders, &bytes).unwrap();
        assert!(data.is_complete(false).unwrap());
        assert!(
            data.is_complete(true)
                .unwrap_err()
                .to_string()
                .contains("orders")
        );
        fs::remove_file(&orders).unwrap();
        data.make(false).unwrap();
        assert!(data.is_complete(true).unwrap());
    }

    #[test]
    fn other_data_in_the_directory_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        tiny(dir.path(), 1).make(false).unwrap();
        let text = tiny(dir.path(), 3).make(false).unwrap_err().to_string();
        assert!(text.contains("other data"), "{text}");
    }
}
