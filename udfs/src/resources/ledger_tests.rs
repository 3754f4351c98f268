//! The ledger, with queries that come, wait, go and lose their workers.

use super::*;

const SOON: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(30);

fn ledger() -> Arc<Ledger> {
    Ledger::new(Capacity {
        cpus: Amount::whole(4),
        gpu_ids: vec!["a".into(), "b".into()],
        memory_bytes: 1000,
        custom: [("fpga".to_owned(), Amount::whole(3))].into(),
        labels: [].into(),
    })
}

fn gpus(milli: u64) -> Demand {
    Demand {
        gpus: Some(Amount::from_milli(milli)),
        ..Demand::default()
    }
}

fn cores(n: usize) -> Demand {
    Demand {
        cpus: Some(Amount::whole(n)),
        ..Demand::default()
    }
}

async fn claim(ledger: &Arc<Ledger>, query: &str, demands: &[Demand]) -> Claim {
    let claim = ledger.claim(query, demands.to_vec(), LATER).await;
    let (claim, waited) = claim.unwrap();
    assert!(!waited);
    claim
}

#[tokio::test]
async fn all_or_none() {
    let ledger = ledger();
    let first = claim(&ledger, "q1", &[gpus(1000)]).await;
    let wants_two = vec![gpus(1000), gpus(1000)];
    let refused = ledger.claim("q2", wants_two.clone(), SOON).await;
    let holders = vec!["q1".to_owned()];
    assert_eq!(refused.unwrap_err(), Refusal::TimedOut { holders });
    // It took nothing while it waited, and is gone from the line.
    assert_eq!(ledger.free().gpus_sum(), Amount::ONE);
    assert!(ledger.waiting().is_empty());
    let waiting = ledger.claim("q2", wants_two, LATER);
    let (second, ()) = tokio::join!(waiting, async { drop(first) });
    let (_second, waited) = second.unwrap();
    assert!(waited);
    assert_eq!(ledger.free().gpus_sum(), Amount::ZERO);
    let refused = ledger.claim("q3", vec![gpus(3000)], LATER).await;
    assert_eq!(refused.unwrap_err(), Refusal::Never);
}

#[tokio::test]
async fn a_dropped_waiter_takes_nothing() {
    let ledger = ledger();
    let first = claim(&ledger, "q1", &[gpus(2000)]).await;
    {
        let mut gone = pin!(ledger.claim("q2", vec![gpus(2000)], LATER));
        assert!(futures::poll!(gone.as_mut()).is_pending());
        let mut small = pin!(ledger.claim("q3", vec![gpus(500)], LATER));
        assert!(futures::poll!(small.as_mut()).is_pending());
        let line = ledger.waiting();
        let line: Vec<_> = line.iter().map(|w| (w.query.as_str(), w.ahead)).collect();
        assert_eq!(line, [("q2", 0), ("q3", 1)]);
        // It is granted while nobody looks, and dropped with what it got.
        drop(first);
        assert_eq!(ledger.free().gpus_sum(), Amount::ZERO);
    }
    assert_eq!(ledger.free().gpus_sum(), Amount::whole(2));
}

#[tokio::test]
async fn what_a_worker_had_stays_with_its_query() {
    let ledger = ledger();
    let claimed = claim(&ledger, "q1", &[gpus(1000), gpus(1000), cores(1)]).await;
    let call = Share::new("q1", &gpus(1000), 3);
    let worker = ledger.take(&call).unwrap();
    let other = ledger.take(&call).unwrap();
    assert_ne!(worker.gpu_ids(), other.gpu_ids());
    assert!(ledger.take(&call).is_none());
    assert!(ledger.take(&Share::new("q2", &cores(1), 1)).is_none());
    let mut waiting = pin!(ledger.claim("q2", vec![gpus(500)], LATER));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let had = worker.gpu_ids().to_vec();
    drop(worker);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    let again = ledger.obtain(&call).await;
    assert_eq!(again.gpu_ids(), had);
    // The query ends before its workers do.
    drop(claimed);
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    drop(again);
    let (_second, waited) = waiting.await.unwrap();
    assert!(waited);
    drop(other);
    assert_eq!(ledger.free().gpus_sum(), Amount::from_milli(1500));
}

#[tokio::test]
async fn a_call_that_grows_leaves_others_what_they_claimed() {
    let ledger = ledger();
    let _claimed = claim(&ledger, "q1", &[gpus(1000), gpus(1000)]).await;
    let [grows, comes_late] = [1, 1].map(|most| Share::new("q1", &gpus(1000), most));
    let first = ledger.take(&grows).unwrap();
    assert!(ledger.take(&grows).is_none());
    let mut more = pin!(ledger.obtain(&grows));
    assert!(futures::poll!(more.as_mut()).is_pending());
    let second = ledger.take(&comes_late).unwrap();
    // What it had comes back to it, while the other one's does not.
    drop(second);
    assert!(futures::poll!(more.as_mut()).is_pending());
    drop(first);
    assert!(futures::poll!(more.as_mut()).is_ready());
    assert!(ledger.take(&comes_late).is_some());
}

#[tokio::test]
async fn more_than_was_claimed_is_had_while_nobody_waits() {
    let ledger = ledger();
    let claimed = claim(&ledger, "q1", &[gpus(1000)]).await;
    let more = ledger.try_reserve(&gpus(1000)).unwrap();
    assert!(ledger.try_reserve(&gpus(100)).is_none());
    let half = Share::new("q1", &gpus(500), 1);
    let mut wants_more = pin!(ledger.obtain(&half));
    assert!(futures::poll!(wants_more.as_mut()).is_pending());
    let mut waiting = pin!(ledger.claim("q2", vec![gpus(2000)], LATER));
    assert!(futures::poll!(waiting.as_mut()).is_pending());
    // A whole device is free, but somebody waits for two.
    drop(more);
    assert!(futures::poll!(wants_more.as_mut()).is_pending());
    assert!(ledger.try_reserve(&cores(1)).is_some());
    drop(claimed);
    let (second, _) = waiting.await.unwrap();
    drop(second);
    assert_eq!(wants_more.await.gpu_ids(), ["a"]);
}

#[test]
fn dropping_gives_back_whatever_happens() {
    let ledger = ledger();
    let full = ledger.free();
    let mut random = 7_u64;
    let mut roll = |n: u64| {
        random = random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (random >> 33) % n
    };
    let mut held: Vec<Reservation> = vec![];
    for _ in 0..10_000 {
        if roll(2) == 0 && !held.is_empty() {
            let at = roll(held.len() as u64) as usize;
            held.swap_remove(at);
        } else {
            let demand = Demand {
                cpus: Some(Amount::from_milli(roll(2000))),
                gpus: [100, 250, 500, 1000, 2000]
                    .get(roll(6) as usize)
                    .map(|milli| Amount::from_milli(*milli)),
                memory_bytes: Some(roll(500)),
                custom: match roll(2) {
                    0 => [("fpga".to_owned(), Amount::from_milli(1 + roll(2000)))].into(),
                    _ => [].into(),
                },
                ..Demand::default()
            };
            held.extend(ledger.try_reserve(&demand));
        }
        let free = ledger.free();
        let demands = held.iter().filter_map(Reservation::demand);
        let (mut cpus, mut gpus, mut memory) = (free.cpus, free.gpus_sum(), free.memory_bytes);
        for demand in demands {
            cpus = cpus.plus(demand.cpus_taken());
            gpus = gpus.plus(demand.gpus_taken());
            memory += demand.memory_taken();
        }
        assert_eq!(
            (cpus, gpus, memory),
            (full.cpus, full.gpus_sum(), full.memory_bytes)
        );
        assert!(free.gpus.iter().all(|(_, left)| *left <= Amount::ONE));
    }
    held.clear();
    assert_eq!(ledger.free(), full);
}
