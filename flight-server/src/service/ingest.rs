//! Bulk ingestion: the rows of a DoPut become a table.
//!
//! The rows are written as they come. At the end of the stream, and not before, the table
//! gets them, in a task of its own: a client that goes away while it sends leaves nothing, and
//! one that goes away later a whole table.

use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementIngest, TableExistsOption, TableNotExistOption};
use datafusion::common::TableReference;
use futures::{StreamExt, TryStreamExt};
use tonic::{Code, Status, Streaming};

use super::flight::{FlightFront, not_cancelled, refuse_transaction, unsupported};
use super::sessions::Lease;
use super::statement::record_count;
use crate::session::{IfThere, Load, LoadTarget};
use crate::status::{malformed, refuse, status};

impl FlightFront {
    /// Loads what comes with `first` and after it, and gives the number of rows.
    pub(super) async fn ingest(
        &self,
        lease: Lease,
        asked: CommandStatementIngest,
        first: FlightData,
        rest: Streaming<FlightData>,
    ) -> Result<i64, Status> {
        refuse_transaction(asked.transaction_id.as_ref())?;
        if let Some(option) = asked.options.keys().next() {
            return Err(unsupported(format!("ingestion has no option \"{option}\"")));
        }
        let target = target(asked)?;
        let what = format!("load {}", target.table);
        let loaded = lease.session.database().loaded();
        let _permit = loaded.permit().map_err(|error| status(&error))?;
        let load = self.receive(&lease, target, first, rest).await?;
        not_cancelled().await;
        let rows = self.updates.run(lease, what, |session, _left| async move {
            session.finish_load(load).await
        });
        Ok(record_count(rows.await?))
    }

    async fn receive(
        &self,
        lease: &Lease,
        target: LoadTarget,
        first: FlightData,
        rest: Streaming<FlightData>,
    ) -> Result<Load, Status> {
        let messages = futures::stream::iter([Ok(first)]).chain(rest);
        let messages = messages.map_err(|status| FlightError::Tonic(Box::new(status)));
        // The descriptor may come without data.
        let messages =
            messages.try_filter(|data| futures::future::ready(!data.data_header.is_empty()));
        let mut blocks = FlightRecordBatchStream::new_from_flight_data(messages);
        let mut next = blocks.next().await;
        let Some(schema) = blocks.schema().cloned() else {
            return Err(match next {
                Some(Err(error)) => self.unreadable(error),
                _ => malformed("the rows to load came without a schema"),
            });
        };
        let load = lease.session.begin_load(target, &schema).await;
        let mut load = load.map_err(|error| status(&error))?;
        while let Some(block) = next {
            let block = block.map_err(|error| self.unreadable(error))?;
            let written = load.with(block, lease.session.database()).await;
            load = written.map_err(|error| status(&error))?;
            next = blocks.next().await;
        }
        Ok(load)
    }

    fn unreadable(&self, error: FlightError) -> Status {
        match error {
            FlightError::Tonic(status) if status.code() == Code::OutOfRange => refuse(
                Code::ResourceExhausted,
                format!(
                    "a message has more than {} bytes. Send record batches of fewer rows, or raise mobula.load_message_bytes",
                    self.settings.received_bytes_max()
                ),
            ),
            FlightError::Tonic(status) => *status,
            other => malformed(format!("cannot read the rows to load: {other}")),
        }
    }
}

/// What a client wants, in our words.
fn target(asked: CommandStatementIngest) -> Result<LoadTarget, Status> {
    let unsaid = || malformed("ingestion does not say what to do about the table's definition");
    let options = asked.table_definition_options.ok_or_else(unsaid)?;
    let is_made = match options.if_not_exist() {
        TableNotExistOption::Create => true,
        TableNotExistOption::Fail => false,
        TableNotExistOption::Unspecified => return Err(unsaid()),
    };
    let if_there = match options.if_exists() {
        TableExistsOption::Fail => IfThere::Fail,
        TableExistsOption::Append => IfThere::Append,
        TableExistsOption::Replace => IfThere::Replace,
        TableExistsOption::Unspecified => return Err(unsaid()),
    };
    let given = |name: Option<String>| name.filter(|name| !name.is_empty());
    let table = match (given(asked.catalog), given(asked.schema)) {
        (Some(catalog), Some(schema)) => TableReference::full(catalog, schema, asked.table),
        (None, Some(schema)) => TableReference::partial(schema, asked.table),
        (None, None) => TableReference::bare(asked.table),
        (Some(catalog), None) => {
            let text = format!("catalog \"{catalog}\" was given without a schema. Give both");
            return Err(malformed(text));
        }
    };
    Ok(LoadTarget {
        table,
        is_temporary: asked.temporary,
        if_there,
        is_made,
    })
}
