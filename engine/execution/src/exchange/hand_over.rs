//! Has calls from other processes answered on the threads that run queries.
//!
//! Connections live on threads of their own (`threads`), which must be free at any time. So a
//! call is a task of the main runtime, and what it answers comes back over a channel, a frame
//! at a time. Signs of life are answered at once: they take no longer than that would.
//!
//! Memory: one frame waits in the channel, one for room in it.
//! Cancel: a caller that goes away drops the answer, and with it the task.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::{Request, Response};
use http_body::{Body as _, Frame};
use mobula_proto::cluster::{ACTION_HEARTBEAT, ACTION_LEAVE, ACTION_REGISTER};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::action::ACTION_HEADER;
use crate::spawn::{OwnedTask, spawn_on};

/// Frames that wait to be sent.
const FRAMES: usize = 1;
/// Actions by which an executor says that it lives.
const SIGNS_OF_LIFE: [&str; 3] = [ACTION_REGISTER, ACTION_HEARTBEAT, ACTION_LEAVE];

/// Wraps the services of a listener; see the head of this file.
#[derive(Debug, Clone)]
pub struct HandOverLayer {
    to: Handle,
}

impl HandOverLayer {
    /// Hands calls over `to` the runtime of queries.
    pub fn new(to: Handle) -> Self {
        Self { to }
    }
}

impl<S> Layer<S> for HandOverLayer {
    type Service = HandOver<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HandOver {
            inner,
            to: self.to.clone(),
        }
    }
}

/// A service whose calls run elsewhere.
#[derive(Debug, Clone)]
pub struct HandOver<S> {
    inner: S,
    to: Handle,
}

impl<S> Service<Request<Body>> for HandOver<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_sign_of_life(&request) {
            return Either::Left(self.inner.call(request));
        }
        // The one that was found ready is the one to call.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (tell, told) = oneshot::channel();
        let (frames, answer) = mpsc::channel(FRAMES);
        let task = spawn_on(&self.to, "exchange-call", async move {
            match inner.call(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let has_body = !body.is_end_stream();
                    if tell.send(Ok((head, has_body))).is_ok() && has_body {
                        give_out(body, frames).await;
                    }
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        });
        let answered = async move {
            match told.await {
                Ok(Ok((head, true))) => {
                    let body = HandedOver {
                        answer,
                        _task: task,
                    };
                    Ok(Response::from_parts(head, Body::new(body)))
                }
                Ok(Ok((head, false))) => Ok(Response::from_parts(head, Body::empty())),
                Ok(Err(error)) => Err(error),
                // It panicked, or its runtime stops.
                Err(_) => Ok(Status::unavailable("the call was broken off").into_http()),
            }
        };
        Either::Right(answered.boxed())
    }
}

fn is_sign_of_life(request: &Request<Body>) -> bool {
    let action = request.headers().get(ACTION_HEADER);
    action.is_some_and(|action| SIGNS_OF_LIFE.iter().any(|sign| action == sign))
}

async fn give_out(body: Body, frames: mpsc::Sender<Result<Frame<Bytes>, Status>>) {
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        if frames.send(frame).await.is_err() {
            return;
        }
    }
}

/// What a call answers, which another runtime makes.
struct HandedOver {
    answer: mpsc::Receiver<Result<Frame<Bytes>, Status>>,
    _task: OwnedTask<()>,
}

impl http_body::Body for HandedOver {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.answer.poll_recv(cx)
    }
}
