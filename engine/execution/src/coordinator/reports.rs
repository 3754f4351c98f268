//! Asks all processes of the cluster what they do, when a table is read that says so.
//!
//! All executors are asked at once. One that has not answered within
//! `heartbeat_timeout` is left out, and a warning names it: a table with the rows of
//! the others helps more than an error, or than a table that waits for a lost
//! machine. It counts as lost after the same time anyhow.

use std::time::Duration;

use arrow_flight::Action;
use futures::future::join_all;
use mobula_proto::report::{ACTION_REPORT, ActorReport, Report, ReportRequest};
use mobula_udfs::ActorState;
use prost::Message;
use tonic::Status;
use url::Url;

use crate::engine::Engine;
use crate::exchange::channels::ChannelPool;
use crate::executor::report::actor_report;

/// What one process tells of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorReport {
    pub executor_id: String,
    pub report: Report,
}

/// The reports of this process and of all executors alive, by id.
pub async fn reports(engine: &Engine, request: ReportRequest) -> Vec<ExecutorReport> {
    let process = engine.process();
    let members = engine.cluster().map(|cluster| cluster.control.members());
    let members = members.unwrap_or_default().into_iter();
    let asked = members.map(|member| (member.executor_id, member.url));
    let limit = engine.options().heartbeat_timeout();
    let theirs = ask_all(process.channels(), asked.collect(), request, limit);
    let (theirs, silent) = theirs.await;
    if !silent.is_empty() {
        let executors = silent.join("; ");
        tracing::warn!(executors, "no report: system tables are read without them");
    }
    let mut all = vec![ExecutorReport {
        executor_id: process.executor_id().to_owned(),
        report: process.reporter().report(request),
    }];
    all.extend(theirs);
    if request.actors {
        let absent = engine.actors().absent().into_iter();
        add_absent(&mut all, absent.map(actor_report).collect());
    }
    all
}

/// Adds the `absent` actors, which have no place, to what processes tell. One that is built
/// just now is in the row of its host, as one that has failed if that is why it is absent.
fn add_absent(all: &mut Vec<ExecutorReport>, absent: Vec<ActorReport>) {
    let [starting, failed] = [ActorState::Starting, ActorState::Failed].map(|s| s.to_string());
    let mut nowhere = vec![];
    for absent in absent {
        let told = all.iter_mut().flat_map(|told| &mut told.report.actors);
        let of_it = told.filter(|actor| actor.name == absent.name && actor.state == starting);
        let mut is_somewhere = false;
        for actor in of_it {
            is_somewhere = true;
            if absent.state == failed {
                actor.state.clone_from(&failed);
                actor.last_error.clone_from(&absent.last_error);
            }
        }
        if !is_somewhere {
            nowhere.push(absent);
        }
    }
    all.push(ExecutorReport {
        executor_id: String::new(),
        report: Report {
            actors: nowhere,
            ..Report::default()
        },
    });
}

/// Asks those with these ids at these addresses, each for at most `limit`; those
/// that answered, and the others with the reason.
pub(crate) async fn ask_all(
    channels: &ChannelPool,
    executors: Vec<(String, Url)>,
    request: ReportRequest,
    limit: Duration,
) -> (Vec<ExecutorReport>, Vec<String>) {
    let asked = executors.into_iter().map(|(executor_id, url)| async move {
        let answer = tokio::time::timeout(limit, ask(channels, &url, request)).await;
        match answer {
            Ok(Ok(report)) => Ok(ExecutorReport {
                executor_id,
                report,
            }),
            Ok(Err(status)) => Err(format!("{executor_id}: {}", status.message())),
            Err(_) => Err(format!("{executor_id}: no answer within {limit:?}")),
        }
    });
    let (mut told, mut silent) = (vec![], vec![]);
    for answer in join_all(asked).await {
        match answer {
            Ok(report) => told.push(report),
            Err(reason) => silent.push(reason),
        }
    }
    (told, silent)
}

async fn ask(channels: &ChannelPool, url: &Url, request: ReportRequest) -> Result<Report, Status> {
    let flight = channels.flight(url);
    let mut client = flight.map_err(|e| Status::invalid_argument(e.to_string()))?;
    let action = Action::new(ACTION_REPORT, request.encode_to_vec());
    let mut parts = client.do_action(action).await?.into_inner();
    let mut report = Report::default();
    while let Some(part) = parts.message().await? {
        let part = Report::decode(part.body)
            .map_err(|e| Status::internal(format!("malformed report: {e}")))?;
        report.operators.extend(part.operators);
        report.workers.extend(part.workers);
        report.actors.extend(part.actors);
        report.tasks.extend(part.tasks);
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exchange::channels::{TransportLimits, parse_address};
    use crate::token::ClusterToken;

    #[test]
    fn an_actor_that_is_built_just_now_has_one_row() {
        let actor = |name: &str, state: &str, error: &str| ActorReport {
            name: name.into(),
            state: state.into(),
            last_error: error.into(),
            ..ActorReport::default()
        };
        let told = [("a", "starting"), ("b", "starting"), ("c", "retiring")];
        let told = told.map(|(name, state)| actor(name, state, ""));
        let mut all = vec![ExecutorReport {
            executor_id: "e".into(),
            report: Report {
                actors: told.into(),
                ..Report::default()
            },
        }];
        let absent = [("a", "failed"), ("b", "starting"), ("c", "failed")];
        let absent = absent.map(|(name, state)| actor(name, state, "why"));
        add_absent(&mut all, absent.into());
        let rows: Vec<_> = all
            .iter()
            .flat_map(|told| told.report.actors.iter().map(move |a| (told, a)))
            .map(|(told, a)| {
                format!(
                    "{} {} {} {}",
                    told.executor_id, a.name, a.state, a.last_error
                )
            })
            .collect();
        let expected = [
            "e a failed why",
            "e b starting ",
            "e c retiring ",
            " c failed why",
        ];
        assert_eq!(rows, expected);
    }

    #[tokio::test]
    async fn who_does_not_answer_is_named_and_not_waited_for_beyond_the_limit() {
        let limits = TransportLimits {
            stream_window_bytes: 1 << 16,
            message_bytes: 1 << 20,
            threads: 1,
        };
        let channels = ChannelPool::try_new(&ClusterToken::generate(), limits).unwrap();
        // Takes the connection and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = |listener: &std::net::TcpListener| {
            parse_address(&listener.local_addr().unwrap().to_string()).unwrap()
        };
        let asked = vec![("mute".into(), url(&mute)), ("gone".into(), url(&gone))];
        drop(gone);
        let request = ReportRequest {
            operators: true,
            workers: true,
            actors: true,
            tasks: true,
        };
        let limit = Duration::from_millis(200);
        let asking = ask_all(&channels, asked, request, limit);
        let answer = tokio::time::timeout(Duration::from_secs(20), asking).await;
        let (told, silent) = answer.unwrap();
        assert_eq!(told, []);
        assert_eq!(silent[0], "mute: no answer within 200ms");
        assert!(silent[1].starts_with("gone: "), "{silent:?}");
    }
}
