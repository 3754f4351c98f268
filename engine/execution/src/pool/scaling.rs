//! Named pools follow their load: it is looked at, `autoscale` decides, and that is done.
//!
//! A look asks the hosts of all pools what their actors do, by the same report that
//! `system.actors` reads, and the directory how many blocks tasks could not send. Actors that
//! come are claimed in the coordinator's book and built, each taking calls as soon as it is
//! there; those that go are not named any more, finish what they are at, and only then is
//! what they had free. Blocks in their line are sent to others by their tasks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mobula_plan::MobulaOptions;
use mobula_proto::report::{ActorReport, ReportRequest};
use mobula_udfs::{ActorInfo, ActorState, Demand, PoolBounds, member_key};

use super::autoscale::{Change, Limits, PoolLoad, State, Why, decide};
use super::placed_actor::{Hosts, Member, PlacedActor, directory_key};
use super::watch::{Figures, Seen, Watch};
use crate::coordinator::reports::ask_all;
use crate::spawn::spawn_named;

/// A host that has not answered for so long is looked at without.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// After one could not be built, a pool does not grow for so long.
const PAUSE: Duration = Duration::from_secs(10);
/// More actors than a pool may have.
pub(super) const MANY: usize = 1024;

/// How pools follow their load, as the process is set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scaling {
    pub(super) interval: Duration,
    target: Duration,
    debounce: Duration,
    pub(super) idle_ttl: Duration,
    pub(super) retire_limit: Duration,
}

/// What there is around a pool when it is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Around {
    /// Actors that do not take calls yet.
    pub(super) starting: usize,
    /// Blocks that wait elsewhere than in the lines of actors.
    pub(super) waiting: usize,
    /// How many more there is room for.
    pub(super) room: usize,
    /// Whether others wait for what its actors have.
    pub(super) is_wanted: bool,
}

/// How one pool does.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) bounds: PoolBounds,
    /// Actors that there are to be where this process is all there is; else the book says.
    pub(super) size_here: usize,
    state: State,
    watch: Watch,
    began: Instant,
    paused_until: Option<Instant>,
    /// Blocks that waited at the last look, and actors that did not take calls yet.
    pub(super) waiting: usize,
    pub(super) starting: usize,
    /// Actors that had ended then and could not be built.
    pub(super) not_built: usize,
    /// Whether those were all.
    is_down: bool,
    /// What it last did, and why.
    pub(super) last_change: Option<(SystemTime, String)>,
}

/// Actors that a pool would have if there were room.
#[derive(Debug, Clone)]
pub struct Short {
    /// As its claim is called.
    pub claim: String,
    pub demand: Demand,
    pub actors: usize,
    pub since: Instant,
}

impl Scaling {
    pub(super) fn of(options: &MobulaOptions) -> Self {
        Self {
            interval: options.pool_interval(),
            target: options.pool_wait_target(),
            debounce: options.pool_debounce(),
            idle_ttl: options.pool_idle_ttl(),
            retire_limit: options.pool_retire_limit(),
        }
    }

    pub(super) fn limits(&self, bounds: &PoolBounds) -> Limits {
        Limits {
            min: bounds.min,
            max: bounds.max,
            idle_ttl: bounds.idle_ttl.unwrap_or(self.idle_ttl),
            target: self.target,
            debounce: self.debounce,
        }
    }
}

impl Following {
    pub(super) fn new(bounds: PoolBounds) -> Self {
        let now = Instant::now();
        Self {
            bounds,
            size_here: bounds.min,
            state: State::default(),
            watch: Watch::new(now),
            began: now,
            paused_until: None,
            waiting: 0,
            starting: 0,
            not_built: 0,
            is_down: false,
            last_change: None,
        }
    }

    /// Looks at its `actors`, by their numbers (`None`: their host did not answer), and says
    /// what becomes of it.
    pub(super) fn look(
        &mut self,
        actors: &[(u64, Option<Figures>)],
        around: Around,
        limits: &Limits,
    ) -> (Change, Seen) {
        let now = Instant::now();
        let seen = self.watch.look(now, actors);
        let load = PoolLoad {
            actors: actors.len(),
            starting: around.starting,
            waiting: seen.queue + around.waiting,
            busy: seen.busy,
            busy_share: seen.busy_share,
            mean: seen.mean,
            idle: seen.idle.iter().map(|(_, time)| *time).collect(),
            room: match self.paused_until.is_some_and(|until| now < until) {
                true => 0,
                false => around.room,
            },
            is_wanted: around.is_wanted,
        };
        (self.waiting, self.starting) = (load.waiting, load.starting);
        self.see_not_built(actors);
        let time = now.saturating_duration_since(self.began);
        let (change, state) = decide(&load, limits, &self.state, time);
        self.state = state;
        if change != Change::Stay {
            self.last_change = Some((SystemTime::now(), change.to_string()));
        }
        (change, seen)
    }

    /// Says when none of its `actors` is there any more, and when one is again.
    fn see_not_built(&mut self, actors: &[(u64, Option<Figures>)]) {
        let figures = actors.iter().filter_map(|(_, figures)| figures.as_ref());
        let failed = figures.filter(|figures| figures.has_failed).count();
        let is_down = failed > 0 && failed == actors.len();
        match (self.is_down, is_down) {
            (false, true) => self.note(format!(
                "none of {failed} actors is there: they ended and could not be built, which is tried again. system.actors says why"
            )),
            (true, false) => self.note("it is there".to_owned()),
            _ => {}
        }
        (self.not_built, self.is_down) = (failed, is_down);
    }

    /// Something has become of it.
    pub(super) fn note(&mut self, text: String) {
        self.last_change = Some((SystemTime::now(), text));
    }

    /// One more could not be built.
    pub(super) fn failed(&mut self, error: &dyn fmt::Display) {
        self.paused_until = Some(Instant::now() + PAUSE);
        self.note(format!("could not grow: {error}"));
    }

    /// What it would have more if there were room: `claim` says whose it is.
    pub(super) fn short(&self, claim: &str, demand: &Demand) -> Option<Short> {
        let since = self.state.short_since?;
        Some(Short {
            claim: claim.to_owned(),
            demand: demand.clone(),
            actors: self.state.short,
            since: self.began + since,
        })
    }
}

impl PlacedActor {
    /// What it would have more if there were room.
    pub(super) fn short(&self) -> Option<Short> {
        if let Some(lacking) = self.lacking() {
            return Some(lacking);
        }
        let following = self.following.lock();
        let pool = following.as_ref()?;
        pool.short(&self.claim_name, &self.spec.demand)
    }
}

impl Hosts {
    /// Looks at all pools from now on, again and again.
    pub(super) fn follow_load(self: &Arc<Self>) {
        let mut looker = self.looker.lock();
        if looker.is_some() {
            return;
        }
        let (hosts, interval) = (Arc::downgrade(self), self.scaling.interval);
        let poke = Arc::clone(&self.poke);
        *looker = Some(spawn_named("pools-look", async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(interval) => {}
                    () = poke.notified() => {}
                }
                let Some(hosts) = hosts.upgrade() else { return };
                hosts.look().await;
            }
        }));
    }

    async fn look(self: &Arc<Self>) {
        let all: Vec<_> = self.placed.lock().values().cloned().collect();
        let pools = all.into_iter().filter(|p| p.spec.pool.is_some());
        let pools: Vec<_> = pools.filter(|p| p.members.lock().is_filled).collect();
        if pools.is_empty() {
            return;
        }
        let figures = self.figures(&pools).await;
        for pool in &pools {
            self.look_at(pool, &figures);
        }
    }

    /// What the actors of `pools` have done, by their keys.
    async fn figures(&self, pools: &[Arc<PlacedActor>]) -> HashMap<String, Figures> {
        let here = self.actors.list().into_iter().map(of_info);
        let mut all: HashMap<_, _> = here.collect();
        let Some(starter) = &self.starter else {
            return all;
        };
        let mut hosts: HashMap<String, _> = HashMap::new();
        for pool in pools {
            let members = pool.members.lock();
            let there = members.there.iter();
            let away = there.filter(|member| member.executor_id != self.executor_id);
            hosts.extend(away.map(|m| (m.executor_id.clone(), m.url.clone())));
        }
        let request = ReportRequest {
            operators: false,
            workers: false,
            actors: true,
            tasks: false,
        };
        let hosts = hosts.into_iter().collect();
        let (told, _) = ask_all(&starter.channels, hosts, request, ASK_TIMEOUT).await;
        let told = told.into_iter().flat_map(|told| told.report.actors);
        all.extend(told.map(of_report));
        all
    }

    /// Decides about one pool, and does that.
    fn look_at(self: &Arc<Self>, pool: &Arc<PlacedActor>, figures: &HashMap<String, Figures>) {
        let (there, starting) = {
            let members = pool.members.lock();
            let seats = self.seats(pool).len();
            // Those that are tried again among them.
            let starting = seats.saturating_sub(members.there.len() + members.leaving.len());
            (members.there.clone(), starting)
        };
        let name = &pool.spec.name;
        let actors = there.iter().map(|member| {
            let known = figures.get(&member_key(name, member.number));
            (member.number, known.copied())
        });
        let actors: Vec<_> = actors.collect();
        let lost = self.lost_of(pool);
        let (room, is_wanted) = self.room_of(pool);
        let around = Around {
            starting: starting + lost,
            waiting: self.directory.waiting(&directory_key(name), 0),
            room,
            is_wanted,
        };
        let (change, seen) = {
            let mut following = pool.following.lock();
            let Some(following) = following.as_mut() else {
                return;
            };
            let limits = self.scaling.limits(&following.bounds);
            following.look(&actors, around, &limits)
        };
        match change {
            Change::Stay => return,
            Change::Grow { by, .. } => self.grow(pool, by),
            Change::Shrink { by, why } => self.shrink(pool, by, why, &seen),
        }
        tracing::info!(pool = name, %change, "a pool follows its load");
    }

    /// Lost actors that are to be placed anew: no more than make up the `min`. Those beyond
    /// it come again where they have something to do.
    fn lost_of(&self, pool: &PlacedActor) -> usize {
        let (Some(starter), Some(min)) = (&self.starter, pool.least_of_pool()) else {
            return 0;
        };
        starter.line.forget_lost(&pool.claim_name, 0, min)
    }

    /// How many more there is room for, and whether others wait for what they have.
    fn room_of(&self, pool: &PlacedActor) -> (usize, bool) {
        let Some(starter) = &self.starter else {
            let demand = &pool.spec.demand;
            if self.actors.is_waited_for(demand) {
                return (0, true);
            }
            let mut free = self.actors.free();
            let fitting = (0..MANY).take_while(|_| free.try_take(demand).is_some());
            return (fitting.count(), false);
        };
        let (line, claim) = (&starter.line, &pool.claim_name);
        (line.room_of(claim, 0, MANY), line.is_waited_for(claim, 0))
    }

    fn grow(self: &Arc<Self>, pool: &Arc<PlacedActor>, by: usize) {
        match &self.starter {
            // As many as there is still room for.
            Some(starter) => {
                starter.line.grow(&pool.claim_name, 0, by);
            }
            None => pool.resize_here(|size| size + by),
        }
        let (hosts, pool) = (Arc::clone(self), Arc::clone(pool));
        self.own(spawn_named("pool-grow", async move {
            for (member, error) in hosts.build_each_missing(&pool).await {
                let (name, url) = (&pool.spec.name, &member.url);
                tracing::warn!(pool = name, %url, %error, "a pool could not grow");
                hosts.give_back(&pool, &member);
                if let Some(following) = pool.following.lock().as_mut() {
                    following.failed(&error);
                }
            }
        }));
    }

    /// Has those go that have had nothing to do for longest, the youngest of them first.
    fn shrink(self: &Arc<Self>, pool: &Arc<PlacedActor>, by: usize, why: Why, seen: &Seen) {
        let idle: HashMap<_, _> = seen.idle.iter().copied().collect();
        let idle_for = |member: &Member| idle.get(&member.number).copied();
        let going: Vec<_> = {
            let mut members = pool.members.lock();
            let mut order: Vec<_> = members.there.clone();
            if why != Why::AboveMax {
                order.retain(|member| idle_for(member).is_some());
            }
            order.sort_by_key(|m| std::cmp::Reverse((idle_for(m), m.number)));
            order.truncate(by);
            let goes = |member: &Member| order.iter().any(|m| m.number == member.number);
            members.there.retain(|member| !goes(member));
            members.leaving.extend(order.iter().cloned());
            // From here on no task is told of them.
            self.publish(pool, &members.there);
            order
        };
        for member in going {
            let (hosts, pool) = (Arc::clone(self), Arc::clone(pool));
            self.own(spawn_named("pool-shrink", async move {
                hosts.retire(&pool, &member).await;
            }));
        }
    }
}

fn of_info(info: ActorInfo) -> (String, Figures) {
    let figures = Figures {
        queue: info.queue,
        calls: info.calls,
        busy: info.age.mul_f64(info.busy_share.clamp(0.0, 1.0)),
        is_at_work: info.state == ActorState::Busy,
        has_failed: info.state == ActorState::Failed,
    };
    (member_key(&info.name, info.member), figures)
}

fn of_report(report: ActorReport) -> (String, Figures) {
    let age = Duration::from_millis(report.age_ms);
    let figures = Figures {
        queue: usize::try_from(report.queue).unwrap_or(usize::MAX),
        calls: report.calls,
        busy: age.mul_f64(report.busy_share.clamp(0.0, 1.0)),
        is_at_work: report.state == ActorState::Busy.to_string(),
        has_failed: report.state == ActorState::Failed.to_string(),
    };
    (member_key(&report.name, report.member), figures)
}
