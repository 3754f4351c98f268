//! One question to another process of the cluster, and its one answer, by Flight `DoAction`.

use std::time::Duration;

use arrow_flight::Action;
use tonic::Status;
use url::Url;

use super::channels::ChannelPool;

/// Does one action at `url` within `limit`; the first message of the answer.
///
/// # Errors
/// What the other side says, or why it cannot.
pub async fn act(
    channels: &ChannelPool,
    url: &Url,
    action: &'static str,
    body: Vec<u8>,
    limit: Duration,
) -> Result<Vec<u8>, Status> {
    let answer = async {
        let flight = channels.flight(url);
        let mut client = flight.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut results = client
            .do_action(Action::new(action, body))
            .await?
            .into_inner();
        let first = results.message().await?;
        Ok(first.map(|result| result.body.to_vec()).unwrap_or_default())
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            let text = format!("no answer within {limit:?}");
            Err(Status::deadline_exceeded(text))
        }
    }
}
