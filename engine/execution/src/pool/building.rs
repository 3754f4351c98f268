//! Placed actors and pools: members are built where their seats are, unless nobody wants them
//! any more.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use mobula_proto::pool::{ACTION_ACTOR_START, StartActor};
use mobula_udfs::{ActorSpec, UdfError};
use prost::Message;
use tonic::Status;
use url::Url;

use super::placed_actor::{Hosts, Member, PlacedActor, remove};
use crate::actor_calls::link::remote_failure;
use crate::exchange::action::act;
use crate::wire_error;

/// What a host may take beyond the time for building an actor.
const START_SLACK: Duration = Duration::from_secs(15);

impl Hosts {
    /// Forgets members whose host is lost, and builds those that are missing.
    pub(super) async fn build_missing(&self, placed: &PlacedActor) -> Result<(), UdfError> {
        let failed = self.build_each_missing(placed).await.into_iter().next();
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// The same; those that could not be built.
    pub(super) async fn build_each_missing(&self, placed: &PlacedActor) -> Vec<(Member, UdfError)> {
        let name = &placed.spec.name;
        let new: Vec<_> = {
            let mut members = placed.members.lock();
            let mut seats = self.seats(placed);
            for lost in members.drop_lost(&mut seats) {
                self.directory.remove(&lost.listed(name));
            }
            let new = seats.into_iter().map(|seat| Member {
                number: self.next_member.fetch_add(1, Ordering::Relaxed),
                ..seat
            });
            let new: Vec<_> = new.collect();
            for member in &new {
                // Before it is there, so that nobody ends it as unknown.
                self.directory.set(&member.listed(name), vec![]);
            }
            members.starting.extend(new.iter().cloned());
            self.publish(placed, &members.there);
            new
        };
        let built = new.into_iter().map(|member| self.build_one(placed, member));
        join_all(built).await.into_iter().flatten().collect()
    }

    /// Builds `member`, which takes calls from then on; it, if it cannot be built. Once it is
    /// not wanted any more, it ends wherever it is in this.
    async fn build_one(&self, placed: &PlacedActor, member: Member) -> Option<(Member, UdfError)> {
        let name = &placed.spec.name;
        let built = tokio::select! {
            built = self.build_on(&member, &placed.spec) => built,
            () = placed.is_unwanted(&member) => Ok(()),
        };
        let is_wanted = {
            let mut members = placed.members.lock();
            let was_starting = remove(&mut members.starting, &member);
            if was_starting && built.is_ok() {
                members.there.push(member.clone());
                self.publish(placed, &members.there);
            }
            was_starting
        };
        match built {
            Ok(()) if is_wanted => None,
            Err(error) if is_wanted => {
                self.directory.remove(&member.listed(name));
                Some((member, error))
            }
            _ => {
                // Its host may have begun with it, or may just have built it.
                self.end_on(&member, name).await;
                None
            }
        }
    }

    async fn build_on(&self, member: &Member, spec: &ActorSpec) -> Result<(), UdfError> {
        let spec = spec.as_member(member.number);
        if member.executor_id == self.executor_id {
            let built = self.actors.build(Arc::new(spec)).await?;
            drop(self.actors.put(built));
            return Ok(());
        }
        let Some(starter) = &self.starter else {
            return Ok(());
        };
        let request = StartActor {
            spec: spec.encode()?,
        };
        let limit = spec.init_timeout.unwrap_or(self.init_timeout) + START_SLACK;
        let body = request.encode_to_vec();
        let told = act(
            &starter.channels,
            &member.url,
            ACTION_ACTOR_START,
            body,
            limit,
        )
        .await;
        told.map(drop)
            .map_err(|status| failed(&status, &spec.name, &member.url))
    }

    /// Whether `placed` is the one of its name.
    pub(super) fn is_known(&self, placed: &PlacedActor) -> bool {
        let known = self.placed.lock().get(&placed.spec.name).cloned();
        known.is_some_and(|known| std::ptr::eq(known.as_ref(), placed))
    }

    /// Ready once it is not.
    pub(super) async fn forgotten(&self, placed: &PlacedActor) {
        loop {
            let mut ended = pin!(placed.ended.notified());
            // From here on it is not missed.
            ended.as_mut().enable();
            if !self.is_known(placed) {
                return;
            }
            ended.await;
        }
    }
}

impl PlacedActor {
    /// Ready once `member`, which is being built, is not wanted any more.
    async fn is_unwanted(&self, member: &Member) {
        loop {
            let mut ended = pin!(self.ended.notified());
            // From here on it is not missed.
            ended.as_mut().enable();
            if !self.members.lock().is_starting(member) {
                return;
            }
            ended.await;
        }
    }
}

/// Why an actor could not be built at `url`.
fn failed(status: &Status, actor: &str, url: &Url) -> UdfError {
    match wire_error::told(status, url.as_str()) {
        Some(error) => UdfError::Remote(Box::new(remote_failure(error))),
        None => UdfError::ActorUnreachable {
            function: actor.to_owned(),
            actor: actor.to_owned(),
            place: url.to_string(),
            reason: status.message().to_owned(),
        },
    }
}
