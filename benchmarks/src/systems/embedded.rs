//! Mobula in this process: no socket between the query and its answer.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use futures::TryStreamExt;
use mobula_execution::{Engine, EngineSettings};
use mobula_flight_server::tpch_data::TpchData;
use mobula_flight_server::{Database, Outcome, ServerError, Session};
use mobula_plan::MobulaOptions;

use super::definitions;
use crate::error::BenchmarkError;
use crate::system::System;

/// A session of a database in memory.
pub struct Embedded(Arc<Session>);

impl Embedded {
    pub async fn start(
        data: &TpchData,
        settings: &[(String, String)],
    ) -> Result<Self, BenchmarkError> {
        let mut options = MobulaOptions::default();
        for (key, value) in settings {
            options.set_value(key, value).map_err(ServerError::from)?;
        }
        let engine = Engine::embedded(EngineSettings {
            options,
            python: PathBuf::from("python3"),
        })
        .map_err(ServerError::from)?;
        let session = Database::open(engine, None).await?.new_session()?;
        for sql in definitions(data) {
            session.sql(&sql).await?;
        }
        Ok(Self(session))
    }
}

#[async_trait]
impl System for Embedded {
    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, BenchmarkError> {
        match self.0.sql(sql).await? {
            Outcome::Rows(run) => Ok(run.stream.try_collect().await?),
            Outcome::Affected(_) => Ok(vec![]),
        }
    }
}
