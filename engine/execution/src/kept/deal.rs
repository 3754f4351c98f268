//! Which task, and which of its streams, reads which kept part: pure.
//!
//! Parts stay with their process as far as there are tasks for it: processes with more bytes
//! have more tasks. Within a process, and among the streams of a task, the largest part goes
//! first, each to who has the least so far.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use mobula_plan::PlacedPart;

/// `parts` over `n` groups, as evenly as can be by bytes.
pub fn evenly(mut parts: Vec<PlacedPart>, n: usize) -> Vec<Vec<PlacedPart>> {
    parts.sort_by_key(|part| Reverse(part.kept.bytes));
    let mut groups = vec![(0, vec![]); n.max(1)];
    for part in parts {
        // Of equals the first; there is one.
        if let Some((bytes, group)) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += part.kept.bytes.max(1);
            group.push(part);
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// `parts` over `n` tasks, each with those of one process if there are as many tasks as
/// processes.
pub fn by_process(parts: Vec<PlacedPart>, n: usize) -> Vec<Vec<PlacedPart>> {
    let n = n.max(1);
    let mut processes = BTreeMap::<String, Vec<PlacedPart>>::new();
    for part in parts {
        processes.entry(part.url.clone()).or_default().push(part);
    }
    let bytes = |parts: &[PlacedPart]| parts.iter().map(|part| part.kept.bytes).sum::<u64>();
    let mut processes: Vec<_> = processes.into_values().collect();
    processes.sort_by_key(|parts| Reverse(bytes(parts)));
    if processes.len() > n {
        let mut tasks = vec![vec![]; n];
        for parts in processes {
            if let Some(task) = tasks.iter_mut().min_by_key(|task| bytes(task)) {
                task.extend(parts);
            }
        }
        return tasks;
    }
    let mut counts = vec![1; processes.len()];
    for _ in processes.len()..n {
        // One more to who has most for each of its tasks, and parts for it.
        let each = |at: &usize| bytes(&processes[*at]) / counts[*at] as u64;
        let can_take = (0..counts.len()).filter(|at| processes[*at].len() > counts[*at]);
        match can_take.max_by_key(|at| (each(at), Reverse(*at))) {
            Some(at) => counts[at] += 1,
            None => break,
        }
    }
    let tasks = processes.into_iter().zip(counts);
    let mut tasks: Vec<_> = tasks.flat_map(|(parts, n)| evenly(parts, n)).collect();
    tasks.resize_with(n, Vec::new);
    tasks
}

/// The address that has most of `parts`' bytes.
pub fn most_at<'a>(parts: impl Iterator<Item = &'a PlacedPart>) -> Option<&'a str> {
    let mut bytes = BTreeMap::new();
    for part in parts {
        *bytes.entry(part.url.as_str()).or_insert(0) += part.kept.bytes.max(1);
    }
    let most = bytes
        .into_iter()
        .max_by_key(|(url, bytes)| (*bytes, Reverse(*url)));
    most.map(|(url, _)| url)
}

#[cfg(test)]
mod tests {
    use mobula_plan::KeptPart;

    use super::*;

    /// Parts of `bytes`, the process of each first.
    fn parts(parts: &[(&str, u64)]) -> Vec<PlacedPart> {
        let parts = parts
            .iter()
            .enumerate()
            .map(|(number, (url, bytes))| PlacedPart {
                kept: KeptPart {
                    executor_id: (*url).to_owned(),
                    part: number as u64,
                    rows: 1,
                    bytes: *bytes,
                    spilled_bytes: 0,
                },
                url: (*url).to_owned(),
            });
        parts.collect()
    }

    /// Process and bytes of each.
    fn sizes(groups: &[Vec<PlacedPart>]) -> Vec<Vec<(&str, u64)>> {
        fn of(group: &[PlacedPart]) -> Vec<(&str, u64)> {
            let sizes = group
                .iter()
                .map(|part| (part.url.as_str(), part.kept.bytes));
            sizes.collect()
        }
        groups.iter().map(|group| of(group)).collect()
    }

    #[test]
    fn each_task_has_the_parts_of_one_process() {
        let three = parts(&[("a", 5), ("b", 9), ("a", 1), ("c", 2), ("b", 9)]);
        let tasks = by_process(three.clone(), 3);
        assert_eq!(
            sizes(&tasks),
            [
                vec![("b", 9), ("b", 9)],
                vec![("a", 5), ("a", 1)],
                vec![("c", 2)]
            ]
        );
        let tasks = by_process(three.clone(), 4);
        assert_eq!(sizes(&tasks)[..2], [vec![("b", 9)], vec![("b", 9)]]);
        // Fewer tasks than processes share them; more have nothing to do.
        assert_eq!(by_process(three.clone(), 2).len(), 2);
        assert_eq!(
            by_process(three.clone(), 9)
                .iter()
                .filter(|task| task.is_empty())
                .count(),
            4
        );
        assert_eq!(by_process(vec![], 2), [vec![], vec![]]);
        assert_eq!(most_at(three.iter()), Some("b"));
        assert_eq!(most_at([].iter()), None);
    }

    #[test]
    fn streams_have_about_as_much() {
        let four = parts(&[("a", 4), ("a", 3), ("a", 2), ("a", 1)]);
        let streams = evenly(four.clone(), 2);
        assert_eq!(
            sizes(&streams),
            [vec![("a", 4), ("a", 1)], vec![("a", 3), ("a", 2)]]
        );
        assert_eq!(evenly(four, 0).len(), 1);
        assert_eq!(evenly(vec![], 2), [vec![], vec![]]);
    }

    #[test]
    fn no_part_is_lost_or_doubled() {
        for n in 1..8 {
            for bytes in 0..20_u64 {
                let urls = ["a", "b", "c"];
                let some = (0..bytes).map(|i| (urls[(i * bytes % 3) as usize], i * 7 % 11));
                let some = parts(&some.collect::<Vec<_>>());
                for dealt in [by_process(some.clone(), n), evenly(some.clone(), n)] {
                    assert_eq!(dealt.len(), n);
                    let mut numbers: Vec<_> =
                        dealt.iter().flatten().map(|part| part.kept.part).collect();
                    numbers.sort_unstable();
                    assert_eq!(numbers, (0..bytes).collect::<Vec<_>>());
                }
            }
        }
    }
}
