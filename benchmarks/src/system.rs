//! What can be measured: Mobula in its shapes, and the peers.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use mobula_flight_server::tpch_data::TpchData;

use crate::error::BenchmarkError;
use crate::peers::distributed::Distributed;
use crate::peers::plain::Plain;
use crate::systems::embedded::Embedded;
use crate::systems::server::Server;

/// A system that answers queries over the TPC-H tables.
#[async_trait]
pub trait System: Send {
    /// Runs one query and reads its whole answer.
    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, BenchmarkError>;
}

/// Which system, as the command line names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Mobula in this process.
    Embedded,
    /// `mobula serve` as a process of its own, with `executors` more of them
    /// (none: it runs queries itself), read over Flight SQL.
    Server {
        executors: usize,
        mobula: Option<PathBuf>,
    },
    /// Plain DataFusion in this process.
    DataFusion,
    /// Plain datafusion-distributed: coordinator here, workers as processes.
    Distributed { workers: usize },
}

impl Mode {
    /// Processes that run tasks beside the one asked; 0: that one alone.
    pub fn executors(&self) -> usize {
        match self {
            Self::Embedded | Self::DataFusion => 0,
            Self::Server { executors, .. } => *executors,
            Self::Distributed { workers } => *workers,
        }
    }

    /// Starts the system with the tables of `data`.
    ///
    /// # Errors
    /// What starting or reading a table fails with.
    pub async fn start(
        &self,
        data: &TpchData,
        settings: &[(String, String)],
    ) -> Result<Box<dyn System>, BenchmarkError> {
        Ok(match self {
            Self::Embedded => Box::new(Embedded::start(data, settings).await?),
            Self::Server { executors, mobula } => {
                Box::new(Server::start(data, settings, *executors, mobula.clone()).await?)
            }
            Self::DataFusion => Box::new(Plain::start(data).await?),
            Self::Distributed { workers } => Box::new(Distributed::start(data, *workers).await?),
        })
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (system, mobula) = match text.split_once('@') {
            Some((system, path)) => (system, Some(PathBuf::from(path))),
            None => (text, None),
        };
        let (name, count) = match system.split_once(':') {
            Some((name, n)) => (name, n.parse::<usize>().ok().filter(|n| *n > 0)),
            None => (system, Some(0)),
        };
        match (name, count, mobula) {
            ("embedded", Some(0), None) => Ok(Self::Embedded),
            ("serve", Some(0), mobula) => Ok(Self::Server {
                executors: 0,
                mobula,
            }),
            ("executors", Some(executors @ 1..), mobula) => Ok(Self::Server { executors, mobula }),
            ("datafusion", Some(0), None) => Ok(Self::DataFusion),
            ("distributed", Some(workers @ 1..), None) => Ok(Self::Distributed { workers }),
            _ => Err(
                "expected embedded, serve, executors:N, datafusion or distributed:N; \
                serve and executors:N may end in @PATH of a mobula binary"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => write!(f, "embedded"),
            Self::Server { executors, mobula } => {
                match executors {
                    0 => write!(f, "serve")?,
                    n => write!(f, "executors:{n}")?,
                }
                match mobula {
                    Some(path) => write!(f, "@{}", path.display()),
                    None => Ok(()),
                }
            }
            Self::DataFusion => write!(f, "datafusion"),
            Self::Distributed { workers } => write!(f, "distributed:{workers}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_they_print_and_others_are_refused() {
        for text in [
            "embedded",
            "serve",
            "serve@/old/mobula",
            "executors:3",
            "executors:3@/old/mobula",
            "datafusion",
            "distributed:2",
        ] {
            assert_eq!(text.parse::<Mode>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "executors",
            "executors:0",
            "executors:x",
            "embedded:2",
            "duckdb",
            "datafusion@/x",
        ] {
            assert!(text.parse::<Mode>().unwrap_err().starts_with("expected"));
        }
    }
}
