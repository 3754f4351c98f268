//! Which actor of a named pool is free, for a call that somebody waits for.
//!
//! A task knows of the lines of other processes what the answers to its own blocks told,
//! and a question has had none. So it asks the hosts, all at once, before it chooses: one
//! way there and back, and a word of an actor that is free is enough. An actor of this
//! process that is free needs no asking.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use mobula_proto::pool::{ACTION_ACTORS_LOAD, AskLoads, ToldLoads};
use mobula_udfs::member_key;
use prost::Message;
use url::Url;

use super::{End, Ends, State};
use crate::exchange::action::act;
use crate::pool::loads::NOT_HERE;

/// A host that has not answered by then is as busy as if it took so long.
const LIMIT: Duration = Duration::from_millis(50);

/// The actors of one host that are asked about, by their places among the ends.
struct Asked {
    url: Url,
    members: Vec<(usize, String)>,
}

impl Ends {
    /// Asks how busy the actors are, where a question is to be sent and that is not known.
    pub(super) async fn ask_loads(&self) {
        if !self.is_named() || !self.call.priority.is_interactive {
            return;
        }
        let hosts = self.state.lock().whom_to_ask(&self.named);
        let mut answers: FuturesUnordered<_> =
            hosts.iter().map(|host| self.ask_host(host)).collect();
        while let Some((host, told)) = answers.next().await {
            let is_free = self.state.lock().hear_loads(host, told.as_deref());
            if is_free {
                return;
            }
        }
    }

    async fn ask_host<'a>(&self, host: &'a Asked) -> (&'a Asked, Option<Vec<u64>>) {
        let members = host.members.iter().map(|(_, member)| member.clone());
        let request = AskLoads {
            members: members.collect(),
            query_id: self.call.query.clone(),
            is_interactive: self.call.priority.is_interactive,
            is_priority_said: self.call.priority.is_said,
        };
        let (channels, body) = (&self.line.channels, request.encode_to_vec());
        let told = act(channels, &host.url, ACTION_ACTORS_LOAD, body, LIMIT).await;
        let told = told
            .ok()
            .and_then(|body| ToldLoads::decode(body.as_slice()).ok());
        (host, told.map(|told| told.waits_us))
    }
}

impl State {
    /// The hosts to be asked; none where there is nothing to choose, or one here is free.
    fn whom_to_ask(&mut self, named: &str) -> Vec<Asked> {
        let usable = |end: &&End| end.is_there() && end.in_flight < end.credits;
        let is_free = |end: &End| end.in_flight == 0 && end.pool.wait_expected().is_zero();
        let mut here = self.ends.iter().filter(|end| end.is_local).filter(usable);
        if self.ends.iter().filter(usable).count() < 2 || here.any(is_free) {
            return vec![];
        }
        let mut hosts: Vec<Asked> = vec![];
        let away = self.ends.iter_mut().enumerate();
        for (at, end) in away.filter(|(_, end)| !end.is_local && end.is_there()) {
            let Ok(url) = Url::parse(&end.host.url) else {
                continue;
            };
            // Until it is heard of.
            end.told = Some((LIMIT, Instant::now()));
            let member = (at, member_key(named, end.host.part));
            match hosts.iter_mut().find(|host| host.url == url) {
                Some(host) => host.members.push(member),
                None => hosts.push(Asked {
                    url,
                    members: vec![member],
                }),
            }
        }
        hosts
    }

    /// Takes in what a host has `told`; whether one of its actors is free.
    fn hear_loads(&mut self, host: &Asked, told: Option<&[u64]>) -> bool {
        let now = Instant::now();
        let mut is_free = false;
        for ((at, _), wait_us) in host.members.iter().zip(told.unwrap_or_default()) {
            let Some(end) = self.ends.get_mut(*at).filter(|_| *wait_us != NOT_HERE) else {
                continue;
            };
            end.told = Some((Duration::from_micros(*wait_us), now));
            is_free |= *wait_us == 0 && end.blocks_of_others() == 0;
        }
        is_free
    }
}
