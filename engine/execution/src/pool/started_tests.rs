//! What was started of what is claimed: fixed calls in groups, those that follow their load
//! one by one.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use mobula_plan::operator::map_batches::CallDemand;
use mobula_udfs::{
    Amount, BatchFormat, CallMode, Capacity, Demand, ErrorPolicy, FunctionSpec, Handling, Priority,
    UdfCall,
};

use super::super::line::{ActorHostNow, ClusterLine};
use super::super::placement::Group;
use super::*;

const SOON: Duration = Duration::from_millis(50);

fn host(id: &str, epoch: u64, gpus: usize) -> ActorHostNow {
    ActorHostNow {
        executor_id: id.to_owned(),
        url: Url::parse(&format!("http://{id}:1")).unwrap(),
        epoch,
        capacity: Capacity {
            gpu_ids: (0..gpus).map(|gpu| gpu.to_string()).collect(),
            ..Capacity::default()
        },
    }
}

fn gpu() -> Demand {
    Demand {
        gpus: Some(Amount::ONE),
        ..Demand::default()
    }
}

/// A call of `workers`, and up to `most`.
fn call(call_id: u64, workers: usize, most: usize) -> DemandingCall {
    let spec = FunctionSpec::native_scalar("f", [("x", DataType::Int64)], DataType::Int64);
    DemandingCall {
        demand: CallDemand {
            function: "f".to_owned(),
            demand: gpu(),
            workers,
            most: Some(most),
            call_id,
            follows: most > workers,
        },
        call: Arc::new(UdfCall {
            spec: Arc::new(spec),
            mode: CallMode::Batches,
            args: vec![],
            batch_size: None,
            batch_format: BatchFormat::Numpy,
            errors: ErrorPolicy::default(),
            handling: Handling::default(),
            input: Arc::new(Schema::empty()),
            output: Arc::new(Schema::empty()),
            timeout: None,
            max_errors: None,
            query: String::new(),
            priority: Priority::default(),
            steps: vec![],
        }),
    }
}

/// What each of `pools` is: its call, host, actors, and numbers.
fn told(pools: &[StartedPool]) -> Vec<(usize, &str, usize, Vec<u64>)> {
    let pools = pools.iter();
    let told = pools.map(|p| (p.call, p.executor_id.as_str(), p.actors, p.slots.clone()));
    told.collect()
}

fn groups(calls: &[DemandingCall]) -> Vec<Group> {
    let groups = calls.iter().map(|call| Group {
        demand: gpu(),
        least: call.demand.workers,
        most: call.demand.most,
        grows: call.demand.follows,
    });
    groups.collect()
}

#[tokio::test]
async fn a_pool_that_may_leave_one_by_one_is_started_one_by_one() {
    let line = Arc::new(ClusterLine::default());
    line.set_hosts(vec![host("a", 1, 4), host("b", 2, 4)]);
    let calls = [call(7, 3, 3), call(8, 1, 4)];
    let claimed = line.claim("q", groups(&calls), SOON).await;
    let (claim, _) = claimed.unwrap();
    let mut started = Started::of(7);
    let first = started.missing(&line.seats("q"), &calls);
    // The fixed ones of a host share a part; the others begin with what they need.
    assert_eq!(
        told(&first),
        [
            (0, "a", 2, vec![0, 2]),
            (0, "b", 1, vec![1]),
            (1, "b", 1, vec![0]),
        ]
    );
    assert_eq!(first[0].part, first[1].part);
    assert_eq!(first[0].part / PARTS_MAX, 7);
    assert_ne!(first[0].part, first[2].part);
    started.pools = first;
    assert_eq!(line.grow("q", 1, 3), 3);
    let more = started.missing(&line.seats("q"), &calls);
    assert!(more.iter().all(|pool| pool.call == 1 && pool.actors == 1));
    let parts: BTreeSet<_> = more.iter().map(|pool| pool.part).collect();
    assert_eq!(parts.len(), 3);
    // What is being built is not missing, and no task is told of it.
    started.starting = more;
    assert!(started.missing(&line.seats("q"), &calls).is_empty());
    assert_eq!(started.placed(&calls)[1].actors(), 1);
    assert!(started.placed(&calls)[1].follows && !started.placed(&calls)[0].follows);
    let built = std::mem::take(&mut started.starting);
    started.pools.extend(built);
    assert_eq!(started.placed(&calls)[1].actors(), 4);
    // What a lost host had is missing, as far as there is room.
    line.set_hosts(vec![host("a", 1, 4)]);
    let seats = line.seats("q");
    started.forget_lost(&seats);
    assert!(started.all().all(|pool| pool.executor_id == "a"));
    let missing = started.missing(&seats, &calls);
    let of_all = |pools: &[StartedPool]| pools.iter().map(|p| p.actors).sum::<usize>();
    assert_eq!(of_all(&started.pools) + of_all(&missing), 4);
    drop(claim);
}

#[test]
fn those_longest_idle_leave_the_youngest_of_them_first_and_some_stay() {
    let pool = |part| StartedPool {
        call: 1,
        executor_id: "a".to_owned(),
        epoch: 1,
        url: Url::parse("http://a:1").unwrap(),
        actors: 1,
        least: 1,
        part,
        slots: vec![part],
    };
    let mut started = Started {
        pools: (0..5).map(pool).collect(),
        ..Started::default()
    };
    let seconds = Duration::from_secs;
    let idle = HashMap::from([
        (0, seconds(9)),
        (2, seconds(5)),
        (3, seconds(9)),
        (9, seconds(99)),
    ]);
    let parts = |pools: &[StartedPool]| pools.iter().map(|p| p.part).collect::<Vec<_>>();
    assert!(started.retire(0, [5, 0], &idle).is_empty());
    assert_eq!(parts(&started.retire(1, [2, 1], &idle)), [3, 0]);
    assert_eq!(
        (parts(&started.pools), parts(&started.leaving)),
        (vec![1, 2, 4], vec![3, 0])
    );
    // Never below what it needs, and never one that is at work.
    assert!(started.retire(1, [5, 3], &idle).is_empty());
    assert_eq!(parts(&started.retire(1, [5, 0], &idle)), [2]);
    assert_eq!(take(&mut started.leaving, 3).map(|pool| pool.part), Some(3));
    assert!(take(&mut started.leaving, 3).is_none());
    assert_eq!(started.all().count(), 4);
}
