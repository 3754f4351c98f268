//! COPY and INSERT: a file that COPY names appears whole or not at all.
//!
//! The rows go into a file beside the target, which takes its name when all is
//! written. A write that fails, or is cancelled, leaves what was there before.
//! Directories and object stores are written in place: there a name is given
//! when a file is complete anyway, and others of the same COPY may be there.

use std::path::{Path, PathBuf};

use arrow::array::AsArray;
use arrow::datatypes::UInt64Type;
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::dml::CopyTo;
use futures::TryStreamExt;

use super::{Outcome, Session, files, while_awaited};
use crate::ServerError;

impl Session {
    /// Writes and returns the rows written. A COPY is given up when `left` ends.
    pub(super) async fn write(
        &self,
        plan: &LogicalPlan,
        sql: &str,
        left: impl Future<Output = ()>,
    ) -> Result<Outcome, ServerError> {
        files::make_parent(plan)?;
        let LogicalPlan::Copy(copy) = plan else {
            return self.write_rows(plan, sql).await;
        };
        let Some(target) = one_local_file(copy) else {
            return while_awaited(self.write_rows(plan, sql), left).await;
        };
        let unfinished = Unfinished::beside(&target);
        let aside = LogicalPlan::Copy(CopyTo {
            output_url: unfinished.0.to_string_lossy().into_owned(),
            ..copy.clone()
        });
        let written = while_awaited(self.write_rows(&aside, sql), left).await?;
        unfinished.finish(&target)?;
        Ok(written)
    }

    async fn write_rows(&self, plan: &LogicalPlan, sql: &str) -> Result<Outcome, ServerError> {
        let run = self.run(plan, false, sql).await?;
        let blocks: Vec<_> = run.stream.try_collect().await?;
        let counts = blocks.iter().filter_map(|block| {
            let column = block.column_by_name("count")?;
            column.as_primitive_opt::<UInt64Type>()
        });
        let rows = counts.flat_map(|c| c.values().iter().copied()).sum();
        Ok(Outcome::Affected(Some(rows)))
    }
}

/// The target of a COPY that writes one file here: a name with an ending, which
/// DataFusion tells from a directory's in the same way.
fn one_local_file(copy: &CopyTo) -> Option<PathBuf> {
    let target = copy.output_url.trim_start_matches("file://");
    let path = Path::new(target);
    let is_file = !target.contains("://")
        && !target.ends_with('/')
        && path.extension().is_some()
        && copy.partition_by.is_empty()
        && !path.is_dir();
    is_file.then(|| path.to_path_buf())
}

/// A file being written; removed when dropped before it is finished.
struct Unfinished(PathBuf);

impl Unfinished {
    fn beside(target: &Path) -> Self {
        // Any ending says "one file"; this one matches no pattern of readers.
        let name = format!(".{}.unfinished", uuid::Uuid::new_v4().simple());
        Self(target.with_file_name(name))
    }

    fn finish(self, target: &Path) -> Result<(), ServerError> {
        // Of no rows, some formats write no file.
        let moved = match self.0.exists() {
            true => std::fs::rename(&self.0, target),
            false => std::fs::write(target, []),
        };
        moved.map_err(|source| ServerError::File {
            deed: "write",
            path: target.to_path_buf(),
            source,
        })
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = std::fs::remove_file(&self.0);
    }
}
