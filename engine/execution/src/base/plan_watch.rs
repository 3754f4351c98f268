//! Notices when the call ends that brought a task's plan.
//!
//! The coordinator keeps the call open until its query ends. The base frees the task then,
//! but tells nobody, and what it frees may lie about for a while. Here the body of the
//! call, which the base holds until then, carries a guard that ends the task in the list.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::task_header;
use crate::executor::tasks::{CloseOnDrop, TaskRuns};

/// The base's service, watched.
#[derive(Debug, Clone)]
pub struct PlanWatch<S> {
    inner: S,
    runs: Arc<TaskRuns>,
}

impl<S> PlanWatch<S> {
    pub fn new(inner: S, runs: Arc<TaskRuns>) -> Self {
        Self { inner, runs }
    }
}

impl<S: NamedService> NamedService for PlanWatch<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for PlanWatch<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(header) = task_header::read(request.headers()) else {
            return self.inner.call(request);
        };
        let close = self.runs.close_on_drop(task_header::named(&header));
        self.inner.call(request.map(|inner| {
            Body::new(WatchedBody {
                inner,
                _close: close,
            })
        }))
    }
}

struct WatchedBody {
    inner: Body,
    _close: CloseOnDrop,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
