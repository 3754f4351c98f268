//! Answers against DuckDB's over the same files.
//!
//! The answers are written as Arrow IPC files; `check_answers.py` reads them,
//! asks DuckDB and says what differs. Python, because DuckDB comes to it as a
//! package, and so that the client tests share its idea of equal.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use arrow::array::RecordBatch;
use arrow::ipc::writer::FileWriter;
use datafusion::error::DataFusionError;
use mobula_flight_server::tpch_data::TpchData;
use tempfile::TempDir;

use crate::error::BenchmarkError;
use crate::tpch::{Query, queries_dir};

/// Answers gathered to be checked.
pub struct Checker {
    python: PathBuf,
    data: PathBuf,
    answers: TempDir,
}

impl Checker {
    pub fn new(python: &Path, data: &TpchData) -> Result<Self, BenchmarkError> {
        let answers = tempfile::tempdir().map_err(BenchmarkError::file(
            "make a directory in",
            std::env::temp_dir(),
        ))?;
        Ok(Self {
            python: python.to_path_buf(),
            data: data.out.clone(),
            answers,
        })
    }

    /// Keeps an answer. One without a block has no schema either and counts as
    /// zero rows.
    pub fn add(&mut self, query: &Query, answer: &[RecordBatch]) -> Result<(), BenchmarkError> {
        let Some(first) = answer.first() else {
            return Ok(());
        };
        let path = self.answers.path().join(format!("q{}.arrow", query.number));
        let file = File::create(&path).map_err(BenchmarkError::file("write", &path))?;
        let arrow = |e| DataFusionError::from(e);
        let mut writer = FileWriter::try_new(file, first.schema_ref()).map_err(arrow)?;
        for block in answer {
            writer.write(block).map_err(arrow)?;
        }
        writer.finish().map_err(arrow)?;
        Ok(())
    }

    /// Asks DuckDB.
    ///
    /// # Errors
    /// [`BenchmarkError::Answers`], with the differences printed, and
    /// [`BenchmarkError::Check`] when Python or DuckDB cannot run.
    pub fn finish(self) -> Result<(), BenchmarkError> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/check_answers.py");
        let failed = |reason: String| BenchmarkError::Check {
            python: self.python.clone(),
            reason,
        };
        let output = Command::new(&self.python)
            .arg(script)
            .arg(&self.data)
            .arg(queries_dir())
            .arg(self.answers.path())
            .output()
            .map_err(|e| failed(e.to_string()))?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        match output.status.code() {
            Some(0) => Ok(()),
            Some(1) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Err(BenchmarkError::Answers {
                    queries: text.trim().to_owned(),
                })
            }
            _ => {
                let text = String::from_utf8_lossy(&output.stderr);
                let last = text.lines().last().unwrap_or("it was killed");
                Err(failed(format!(
                    "{last}. It needs the packages duckdb and pyarrow"
                )))
            }
        }
    }
}
