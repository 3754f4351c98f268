//! One question to another process of the cluster, and its one answer, by Flight `DoAction`.

use std::time::Duration;

use arrow_flight::Action;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};
use url::Url;

use super::channels::ChannelPool;

/// Says with the head of a call which action it does.
pub const ACTION_HEADER: &str = "mobula-action";

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
        let mut request = Request::new(Action::new(action, body));
        let name = MetadataValue::from_static(action);
        request.metadata_mut().insert(ACTION_HEADER, name);
        let mut results = client.do_action(request).await?.into_inner();
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
