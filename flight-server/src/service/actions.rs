//! The actions: prepared statements, cancelling, session options, log out.
//!
//! [`ACTIONS`] is the closed list that ListActions shows. Flight SQL's own
//! actions wrap their messages in `Any`; Flight's (cancelling and sessions)
//! carry them bare. What is not on the list is UNIMPLEMENTED, by name.

use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, Any, ProstMessageExt, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightInfo,
};
use bytes::Bytes;
use prost::Message;
use tonic::{Code, Request, Status};

use super::flight::{FlightFront, refuse_transaction, unsupported};
use super::session_options as options;
use super::sessions::Identity;
use crate::status::{malformed, refuse};

/// What executors ask of their coordinator begins so; the cluster listener
/// answers it.
const CLUSTER_ACTIONS: &str = "mobula.";

/// One action of ListActions.
pub struct NamedAction {
    pub name: &'static str,
    pub description: &'static str,
}

/// All actions, in the order they are listed.
pub const ACTIONS: &[NamedAction] = &[
    NamedAction {
        name: "CreatePreparedStatement",
        description: "Plans a statement and keeps it. ActionCreatePreparedStatementRequest -> ActionCreatePreparedStatementResult",
    },
    NamedAction {
        name: "ClosePreparedStatement",
        description: "Forgets a prepared statement. ActionClosePreparedStatementRequest -> nothing",
    },
    NamedAction {
        name: "CancelFlightInfo",
        description: "Cancels a query. CancelFlightInfoRequest -> CancelFlightInfoResult",
    },
    NamedAction {
        name: "CancelQuery",
        description: "Cancels a query, as older drivers ask for it. ActionCancelQueryRequest -> ActionCancelQueryResult",
    },
    NamedAction {
        name: "SetSessionOptions",
        description: "Changes settings of the session. SetSessionOptionsRequest -> SetSessionOptionsResult",
    },
    NamedAction {
        name: "GetSessionOptions",
        description: "Lists settings of the session. GetSessionOptionsRequest -> GetSessionOptionsResult",
    },
    NamedAction {
        name: "CloseSession",
        description: "Ends the session. CloseSessionRequest -> CloseSessionResult",
    },
];

/// The name of the answer to Prepare inside `Any`.
const PREPARED_RESULT: &str =
    "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult";
/// The name of the answer to CancelQuery inside `Any`.
const CANCEL_RESULT: &str = "type.googleapis.com/arrow.flight.protocol.sql.ActionCancelQueryResult";

impl FlightFront {
    /// Runs one action and gives the body of its answer, if it has one.
    pub(super) async fn act(
        &self,
        request: Request<Action>,
    ) -> Result<std::option::IntoIter<Vec<u8>>, Status> {
        let body = request.get_ref().body.clone();
        let answer = match request.get_ref().r#type.as_str() {
            "CreatePreparedStatement" => Some(self.create(&request, &body).await?),
            "ClosePreparedStatement" => {
                let asked: ActionClosePreparedStatementRequest = wrapped(&body)?;
                let lease = self.lease(&request)?;
                lease.prepared.close(&asked.prepared_statement_handle);
                None
            }
            "CancelFlightInfo" => Some(self.cancel_info(&body)?),
            "CancelQuery" => Some(self.cancel_query(&body)?),
            "SetSessionOptions" => {
                let asked: options::SetSessionOptionsRequest = bare(&body)?;
                let lease = self.lease(&request)?;
                Some(options::set(&lease.session, asked).encode_to_vec())
            }
            "GetSessionOptions" => Some(self.options(&request)?),
            "CloseSession" => Some(self.close(&request)?),
            other if other.starts_with(CLUSTER_ACTIONS) => {
                return Err(refuse(
                    Code::FailedPrecondition,
                    "this address is for clients. Executors connect to the one after \"mobula: executors on\"",
                ));
            }
            other => {
                return Err(unsupported(format!(
                    "the action \"{other}\" is not supported"
                )));
            }
        };
        Ok(answer.into_iter())
    }

    async fn create(&self, request: &Request<Action>, body: &Bytes) -> Result<Vec<u8>, Status> {
        let asked: ActionCreatePreparedStatementRequest = wrapped(body)?;
        refuse_transaction(asked.transaction_id.as_ref())?;
        let lease = self.lease(request)?;
        let made = self.create_prepared(&lease, &asked.query).await?;
        Ok(wrap(PREPARED_RESULT, &made))
    }

    fn cancel_info(&self, body: &Bytes) -> Result<Vec<u8>, Status> {
        let asked: CancelFlightInfoRequest = bare(body)?;
        let info = asked
            .info
            .ok_or_else(|| malformed("CancelFlightInfo names no query"))?;
        self.cancel(&info)?;
        Ok(CancelFlightInfoResult::new(CancelStatus::Cancelled).encode_to_vec())
    }

    fn cancel_query(&self, body: &Bytes) -> Result<Vec<u8>, Status> {
        let asked: ActionCancelQueryRequest = wrapped(body)?;
        let info: FlightInfo = bare(&asked.info)?;
        self.cancel(&info)?;
        // Both results have one field, the status, with the same numbers.
        let done = CancelFlightInfoResult::new(CancelStatus::Cancelled);
        Ok(wrap(CANCEL_RESULT, &done))
    }

    /// Cancels the queries behind the tickets of `info`.
    fn cancel(&self, info: &FlightInfo) -> Result<(), Status> {
        let mut known = false;
        for endpoint in &info.endpoint {
            let Some(ticket) = &endpoint.ticket else {
                continue;
            };
            let named: TicketStatementQuery = wrapped(&ticket.ticket)?;
            known |= self.tickets.cancel(&named.statement_handle);
        }
        if known {
            Ok(())
        } else {
            Err(refuse(
                Code::NotFound,
                "the query is unknown: it has ended, was cancelled, or never returned rows",
            ))
        }
    }

    /// Never makes a session: tools that probe for one must not fill the list.
    fn options(&self, request: &Request<Action>) -> Result<Vec<u8>, Status> {
        let identity = Identity::of(request.metadata(), request.extensions())?;
        let found = match self.sessions.existing(&identity)? {
            Some(lease) => options::get(&lease.session),
            None => options::GetSessionOptionsResult::default(),
        };
        Ok(found.encode_to_vec())
    }

    fn close(&self, request: &Request<Action>) -> Result<Vec<u8>, Status> {
        let identity = Identity::of(request.metadata(), request.extensions())?;
        // An unknown token is an error; a connection without a session is closed.
        drop(self.sessions.existing(&identity)?);
        self.sessions.close(&identity);
        let closed = options::CloseSessionResult {
            status: options::CLOSED,
        };
        Ok(closed.encode_to_vec())
    }
}

fn wrapped<M: ProstMessageExt>(body: &Bytes) -> Result<M, Status> {
    let any: Any = bare(body)?;
    any.unpack().map_err(malformed)?.ok_or_else(|| {
        malformed(format!(
            "expected {} and got {}",
            M::type_url(),
            any.type_url
        ))
    })
}

fn bare<M: Message + Default>(body: &Bytes) -> Result<M, Status> {
    M::decode(body.as_ref()).map_err(|error| malformed(format!("cannot read the request: {error}")))
}

fn wrap(type_url: &str, message: &impl Message) -> Vec<u8> {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec().into(),
    }
    .encode_to_vec()
}
