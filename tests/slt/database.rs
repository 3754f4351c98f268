//! A session under test: of this process, or of a server.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::error::ArrowError;
use async_trait::async_trait;
use futures::TryStreamExt;
use mobula_flight_server::service::client::{RemoteOutcome, RemoteSession};
use mobula_flight_server::{Outcome, ServerError, Session};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};

use crate::answer::rows;

/// What a statement fails with: the text that users read, in both modes.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    #[error(transparent)]
    Refused(#[from] ServerError),
    #[error("the answer cannot be shown: {0}")]
    Unreadable(#[from] ArrowError),
}

/// Where statements run.
pub enum Target {
    Embedded(Arc<Session>),
    Server(Box<RemoteSession>),
}

/// The directories that SQL files name.
#[derive(Clone)]
pub struct Places {
    pub data: PathBuf,
    pub files: PathBuf,
    pub scratch: PathBuf,
}

impl Places {
    fn fill_in(&self, sql: &str) -> String {
        let places = [
            ("$DATA", &self.data),
            ("$FILES", &self.files),
            ("$SCRATCH", &self.scratch),
        ];
        places.iter().fold(sql.to_owned(), |sql, (name, path)| {
            sql.replace(name, &path.to_string_lossy())
        })
    }
}

/// One connection of a SQL file.
pub struct TestDatabase {
    pub target: Target,
    pub places: Places,
}

#[async_trait]
impl AsyncDB for TestDatabase {
    type Error = StatementError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, StatementError> {
        let sql = self.places.fill_in(sql);
        match &mut self.target {
            Target::Embedded(session) => match session.sql(&sql).await? {
                Outcome::Affected(n) => Ok(DBOutput::StatementComplete(n.unwrap_or(0))),
                Outcome::Rows(run) => {
                    let schema = run.stream.schema();
                    let blocks: Vec<_> =
                        run.stream.try_collect().await.map_err(ServerError::from)?;
                    Ok(rows(&schema, &blocks)?)
                }
            },
            Target::Server(session) => match session.execute(&sql).await? {
                RemoteOutcome::Affected(n) => Ok(DBOutput::StatementComplete(n.unwrap_or(0))),
                RemoteOutcome::Rows { schema, stream } => {
                    let blocks: Vec<_> = stream.try_collect().await?;
                    Ok(rows(&schema, &blocks)?)
                }
            },
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        match self.target {
            Target::Embedded(_) => "embedded",
            Target::Server(_) => "cluster",
        }
    }
}
