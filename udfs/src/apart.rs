//! Actors of a host that no call finds: those that are being built, and those on their way out.
//!
//! They have a process as others do. So whoever lists the host's actors sees them, and
//! whoever ends one by its key ends it wherever it is in its life.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::actor::{ActorInfo, ActorState};
use crate::crew::Crew;

/// All of one host.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    all: Arc<Mutex<All>>,
}

#[derive(Debug, Default)]
struct All {
    next: u64,
    /// By a number of their own: two may have one key, where one replaces the other.
    actors: BTreeMap<u64, One>,
}

#[derive(Debug)]
struct One {
    crew: Arc<Crew>,
    state: ActorState,
    /// Tells whoever sees to it that it is to end now.
    tell: Arc<watch::Sender<bool>>,
}

/// Listed until this is dropped by whoever sees to it.
#[derive(Debug)]
pub(crate) struct Listed {
    all: Arc<Mutex<All>>,
    number: u64,
    told: watch::Receiver<bool>,
}

impl Apart {
    /// Lists the actor that `crew` is as being in `state`.
    pub(crate) fn enter(&self, crew: &Arc<Crew>, state: ActorState) -> Listed {
        let (tell, told) = watch::channel(false);
        let mut all = self.all.lock();
        let number = all.next;
        all.next += 1;
        let one = One {
            crew: Arc::clone(crew),
            state,
            tell: Arc::new(tell),
        };
        all.actors.insert(number, one);
        Listed {
            all: Arc::clone(&self.all),
            number,
            told,
        }
    }

    /// Has those called `key` end now.
    pub(crate) fn tell(&self, key: &str) {
        self.told(key);
    }

    /// The same, and waits until they have.
    pub(crate) async fn end(&self, key: &str) {
        for told in self.told(key) {
            told.closed().await;
        }
    }

    fn told(&self, key: &str) -> Vec<Arc<watch::Sender<bool>>> {
        let all = self.all.lock();
        let found = all.actors.values().filter(|one| one.key() == key);
        let tells = found.map(|one| {
            one.tell.send_replace(true);
            Arc::clone(&one.tell)
        });
        tells.collect()
    }

    /// The keys of those that are being built.
    pub(crate) fn starting(&self) -> Vec<String> {
        let all = self.all.lock();
        let starting = all.actors.values();
        let starting = starting.filter(|one| one.state == ActorState::Starting);
        starting.map(One::key).collect()
    }

    /// The keys of all that are placed.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = self.all.lock();
        let placed = all.actors.values().filter(|one| one.is_placed());
        placed.map(One::key).collect()
    }

    /// Those that are placed: of the others there is one for each name, which is listed.
    pub(crate) fn list(&self) -> Vec<ActorInfo> {
        let all = self.all.lock();
        let placed = all.actors.values().filter(|one| one.is_placed());
        let infos = placed.filter_map(|one| {
            let hosted = one.crew.hosted.as_ref()?;
            let info = hosted.info();
            Some(ActorInfo {
                state: one.state,
                pid: info.pid.or_else(|| hosted.building_pid()),
                ..info
            })
        });
        infos.collect()
    }

    /// Whoever sees to them may go on; nothing is built again.
    pub(crate) fn close(&self) {
        let all = self.all.lock();
        all.actors.values().for_each(|one| one.crew.close());
    }
}

impl One {
    fn key(&self) -> String {
        let hosted = self.crew.hosted.as_ref();
        hosted.map(|hosted| hosted.spec.key()).unwrap_or_default()
    }

    fn is_placed(&self) -> bool {
        let hosted = self.crew.hosted.as_ref();
        hosted.is_some_and(|hosted| hosted.spec.member != 0)
    }
}

impl Listed {
    /// Ready once it is to end.
    pub(crate) async fn is_to_end(&mut self) {
        // Who could tell goes no sooner than this.
        let _ = self.told.wait_for(|told| *told).await;
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        // Its crew may have workers to end: not under the lock.
        let one = self.all.lock().actors.remove(&self.number);
        drop(one);
    }
}
