//! Plain DataFusion in this process, with its defaults.

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use mobula_flight_server::tpch_data::TpchData;

use super::register;
use crate::error::BenchmarkError;
use crate::system::System;

pub struct Plain(SessionContext);

impl Plain {
    pub async fn start(data: &TpchData) -> Result<Self, BenchmarkError> {
        let context = SessionContext::new();
        register(&context, data).await?;
        Ok(Self(context))
    }
}

#[async_trait]
impl System for Plain {
    async fn query(&mut self, sql: &str) -> Result<Vec<RecordBatch>, BenchmarkError> {
        Ok(self.0.sql(sql).await?.collect().await?)
    }
}
