//! States of keyed actors on their way between a task and the actor's process, in messages
//! that are not too long.

use arrow::buffer::Buffer;
use arrow_flight::FlightData;
use mobula_proto::actor::SnapshotPart;
use mobula_udfs::UdfCall;
use tonic::{Status, Streaming};

use super::pool::Way;
use super::wire::Problem;

/// What follows the message that opens an exchange: the state that its lane goes on from.
pub fn of(way: &Way, message_bytes: usize) -> Vec<FlightData> {
    let state = way.lane.as_ref().and_then(|lane| lane.snapshot.as_ref());
    let parts = state.map(|state| parts(state, message_bytes).map(|(_, data)| data));
    parts.into_iter().flatten().collect()
}

/// `state` in messages; at least one.
pub fn parts(
    state: &Buffer,
    message_bytes: usize,
) -> impl Iterator<Item = (SnapshotPart, FlightData)> {
    let (all, each) = (state.len(), message_bytes.max(1));
    let count = all.div_ceil(each).max(1);
    (0..count).map(move |at| {
        let start = at * each;
        let part = state.slice_with_length(start, each.min(all - start));
        let data = FlightData::new().with_data_body(part.to_vec());
        let more = at + 1 < count;
        (SnapshotPart { more }, data)
    })
}

/// Adds what `message` has of a state of `call` to `state`.
///
/// # Errors
/// When that is longer than it may be.
pub fn add(state: &mut Vec<u8>, message: &FlightData, call: &UdfCall) -> Result<(), Problem> {
    let limit = call
        .handling
        .keyed
        .map_or(0, |keyed| keyed.snapshot_max_bytes);
    let bytes = (state.len() + message.data_body.len()) as u64;
    if bytes > limit {
        return Err(format!(
            "it tells a state of {bytes} bytes, more than {limit}"
        ));
    }
    state.extend_from_slice(&message.data_body);
    Ok(())
}

/// The state of `bytes` that comes next.
///
/// # Errors
/// INVALID_ARGUMENT where it does not.
pub async fn read(
    blocks: &mut Streaming<FlightData>,
    bytes: u64,
    call: &UdfCall,
) -> Result<Buffer, Status> {
    let malformed = |problem: String| {
        Status::invalid_argument(format!("this is no state of an actor: {problem}"))
    };
    let mut state = vec![];
    while (state.len() as u64) < bytes {
        let message = blocks.message().await?;
        let message = message.ok_or_else(|| malformed("it is cut off".into()))?;
        if message.data_body.is_empty() || !message.data_header.is_empty() {
            return Err(malformed("a block comes within it".into()));
        }
        add(&mut state, &message, call).map_err(malformed)?;
    }
    match state.len() as u64 == bytes {
        true => Ok(Buffer::from_vec(state)),
        false => Err(malformed("it is longer than it said".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_goes_in_parts_and_comes_whole() {
        for (length, each, count) in [(1, 10, 1), (10, 10, 1), (11, 10, 2), (25, 10, 3)] {
            let bytes: Vec<u8> = (0..length).collect();
            let state = Buffer::from_vec(bytes.clone());
            let all: Vec<_> = parts(&state, each).collect();
            assert_eq!(all.len(), count);
            let more: Vec<_> = all.iter().map(|(part, _)| part.more).collect();
            assert_eq!(more.iter().filter(|more| !**more).count(), 1);
            assert_eq!(more.last(), Some(&false));
            let whole: Vec<u8> = all
                .iter()
                .flat_map(|(_, data)| data.data_body.to_vec())
                .collect();
            assert_eq!(whole, bytes);
        }
    }
}
