//! The gate in front of every cluster listener.
//!
//! It answers before any service sees the call: without the cluster token
//! nothing is accepted, not even on loopback, and the base's own block RPC is
//! refused, because blocks travel by Flight `DoGet` only (there they are
//! counted, bounded and carry our error class).

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::token::ClusterToken;

/// Path of the RPC that moves blocks in the base's own protocol.
const BASE_BLOCK_RPC: &str = "/ExecuteTask";

/// Wraps the services of a listener with the gate.
#[derive(Debug, Clone)]
pub struct GuardLayer {
    token: ClusterToken,
}

impl GuardLayer {
    pub fn new(token: ClusterToken) -> Self {
        Self { token }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Guard {
            inner,
            token: self.token.clone(),
        }
    }
}

/// A service behind the gate.
#[derive(Debug, Clone)]
pub struct Guard<S> {
    inner: S,
    token: ClusterToken,
}

impl<S> Guard<S> {
    fn refusal(&self, request: &Request<Body>) -> Option<Status> {
        let admitted = request
            .headers()
            .get(http::header::AUTHORIZATION)
            .is_some_and(|value| self.token.admits(value.as_bytes()));
        if !admitted {
            return Some(Status::unauthenticated(
                "the cluster token is missing or wrong. Give the coordinator's file with --cluster-token-file",
            ));
        }
        request.uri().path().ends_with(BASE_BLOCK_RPC).then(|| {
            Status::unimplemented("blocks are served by Arrow Flight DoGet, not by ExecuteTask")
        })
    }
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.refusal(&request) {
            Some(status) => Either::Left(ready(Ok(status.into_http()))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}
