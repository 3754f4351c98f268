//! Which executor runs which task of a stage, decided purely: values in, values out.
//!
//! All tasks of a stage read the same of each task below (an exchange is a shuffle, a
//! broadcast or a gather into one task), so that only the number of tasks on each executor
//! matters. An even division comes first: of two executors one has at most `1 + skew_max`
//! tasks more. Of the divisions that are even enough, that one is taken by which most bytes
//! stay where they are; of several such ones the most even; and then executors come first
//! that have fewer tasks of the query.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use url::Url;

/// An executor that takes tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub url: Url,
    /// Of this query, so far.
    pub tasks: usize,
}

/// A stage that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Those of its tasks, in their order.
    pub hosts: Vec<Url>,
    /// What comes out of all of them; `None`: nobody knows.
    pub bytes: Option<u64>,
}

/// How much of `inputs` each executor has. Where the size of one is not known, all tasks
/// below count the same.
pub fn input_bytes(inputs: &[Input]) -> BTreeMap<Url, u64> {
    let are_known = inputs.iter().all(|input| input.bytes.is_some());
    let mut bytes = BTreeMap::new();
    for input in inputs {
        let each = match input.bytes.filter(|_| are_known) {
            Some(all) => all / input.hosts.len().max(1) as u64,
            None => 1,
        };
        for host in &input.hosts {
            let sum: &mut u64 = bytes.entry(host.clone()).or_default();
            *sum = sum.saturating_add(each);
        }
    }
    bytes
}

/// An executor for each of `n_tasks` tasks that read `input` (bytes by executor). Empty
/// without `hosts`.
pub fn route(
    n_tasks: usize,
    input: &BTreeMap<Url, u64>,
    hosts: &[Host],
    skew_max: usize,
) -> Vec<Url> {
    let bytes = |host: &Host| input.get(&host.url).copied().unwrap_or(0);
    let mut hosts: Vec<_> = hosts.iter().map(|host| (bytes(host), host)).collect();
    // Stable: what is equal stays in the order given.
    hosts.sort_by_key(|(bytes, host)| (Reverse(*bytes), host.tasks));
    let bytes: Vec<_> = hosts.iter().map(|(bytes, _)| *bytes).collect();
    let mut counts = divide(n_tasks, &bytes, skew_max);
    let mut urls = Vec::with_capacity(n_tasks);
    // Neighbouring tasks to different executors.
    while counts.iter().any(|count| *count > 0) {
        for (count, (_, host)) in counts.iter_mut().zip(&hosts) {
            if *count > 0 {
                *count -= 1;
                urls.push(host.url.clone());
            }
        }
    }
    urls
}

/// How many of `n_tasks` each gets, of those that have `bytes`, the most first.
///
/// Each gets `least`, and those with the most bytes up to `1 + skew_max` more: for a given
/// `least` no other division keeps more bytes in place. All values of `least` are tried.
fn divide(n_tasks: usize, bytes: &[u64], skew_max: usize) -> Vec<usize> {
    let Some(most_even) = n_tasks.checked_div(bytes.len()) else {
        return vec![];
    };
    let mut best = (0, vec![]);
    for least in (0..=most_even).rev() {
        let rest = n_tasks - least * bytes.len();
        let Some(more) = deal(rest, bytes, skew_max.saturating_add(1)) else {
            break;
        };
        let counts: Vec<_> = more.iter().map(|more| least + more).collect();
        let kept = counts.iter().zip(bytes);
        let kept: u128 = kept.map(|(n, bytes)| *n as u128 * u128::from(*bytes)).sum();
        if best.1.is_empty() || kept > best.0 {
            best = (kept, counts);
        }
    }
    best.1
}

/// Deals `rest` out, at most `most` to each, to those with the most bytes first, and evenly
/// to those that have the same. `None`: it is too much.
fn deal(mut rest: usize, bytes: &[u64], most: usize) -> Option<Vec<usize>> {
    let mut dealt = Vec::with_capacity(bytes.len());
    for equals in bytes.chunk_by(|a, b| a == b) {
        let n = equals.len();
        let here = rest.min(n.saturating_mul(most));
        dealt.extend((0..n).map(|idx| here / n + usize::from(idx < here % n)));
        rest -= here;
    }
    (rest == 0).then_some(dealt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(idx: usize) -> Url {
        format!("http://host{idx}:1").parse().unwrap()
    }

    fn hosts(n: usize) -> Vec<Host> {
        let host = |idx| Host {
            url: url(idx),
            tasks: 0,
        };
        (0..n).map(host).collect()
    }

    fn having(bytes: &[u64]) -> BTreeMap<Url, u64> {
        let bytes = bytes.iter().enumerate();
        bytes.map(|(idx, bytes)| (url(idx), *bytes)).collect()
    }

    /// How many tasks each of `n_hosts` got.
    fn counts(urls: &[Url], n_hosts: usize) -> Vec<usize> {
        let of = |idx| urls.iter().filter(|found| **found == url(idx)).count();
        (0..n_hosts).map(of).collect()
    }

    fn routed(n_tasks: usize, bytes: &[u64], skew_max: usize) -> Vec<usize> {
        let urls = route(n_tasks, &having(bytes), &hosts(bytes.len()), skew_max);
        counts(&urls, bytes.len())
    }

    #[test]
    fn an_even_division_comes_first_and_then_the_bytes() {
        assert_eq!(routed(1, &[1, 5, 3], 0), [0, 1, 0]);
        assert_eq!(routed(2, &[1, 5, 3], 0), [0, 1, 1]);
        assert_eq!(routed(3, &[0, 9, 0], 0), [1, 1, 1]);
        assert_eq!(routed(4, &[0, 9, 0], 0), [1, 2, 1]);
        assert_eq!(routed(3, &[0, 9, 0], 1), [1, 2, 0]);
        assert_eq!(routed(3, &[0, 9, 0], 2), [0, 3, 0]);
        // Skew is used for bytes alone.
        assert_eq!(routed(3, &[0, 0, 0], 2), [1, 1, 1]);
        assert_eq!(routed(6, &[4, 4, 4], 5), [2, 2, 2]);
        // Two at the second are better than one more at the first.
        assert_eq!(routed(6, &[10, 9, 0], 2), [3, 3, 0]);
    }

    #[test]
    fn of_equals_those_with_fewer_tasks_come_first() {
        let mut three = hosts(3);
        three[0].tasks = 2;
        three[1].tasks = 1;
        let none = BTreeMap::new();
        assert_eq!(route(1, &none, &three, 0), [url(2)]);
        assert_eq!(route(2, &none, &three, 0), [url(2), url(1)]);
        assert_eq!(route(1, &having(&[1]), &three, 0), [url(0)]);
        assert_eq!(route(3, &none, &[], 0), []);
        assert_eq!(route(0, &none, &three, 0), []);
    }

    #[test]
    fn inputs_count_by_size_if_all_sizes_are_known() {
        let input = |hosts: &[usize], bytes| Input {
            hosts: hosts.iter().map(|idx| url(*idx)).collect(),
            bytes,
        };
        let known = [input(&[0, 1], Some(10)), input(&[1], Some(3))];
        assert_eq!(input_bytes(&known), having(&[5, 8]));
        let partly = [input(&[0, 1], Some(10)), input(&[1], None)];
        assert_eq!(input_bytes(&partly), having(&[1, 2]));
        assert_eq!(input_bytes(&[]), BTreeMap::new());
    }

    /// Numbers that look random and are the same in every run (xorshift, Marsaglia 2003).
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    /// The most bytes that a division even enough keeps in place.
    fn best_by_trying_all(n_tasks: usize, bytes: &[u64], skew_max: usize) -> u64 {
        fn all(n_tasks: usize, n_hosts: usize) -> Vec<Vec<usize>> {
            match n_hosts {
                1 => vec![vec![n_tasks]],
                _ => (0..=n_tasks)
                    .flat_map(|first| {
                        let rest = all(n_tasks - first, n_hosts - 1).into_iter();
                        rest.map(move |rest| [vec![first], rest].concat())
                    })
                    .collect(),
            }
        }
        let spread = |counts: &[usize]| counts.iter().max().unwrap() - counts.iter().min().unwrap();
        let divisions = all(n_tasks, bytes.len()).into_iter();
        let even = divisions.filter(|counts| spread(counts) <= 1 + skew_max);
        let kept = even.map(|counts| kept(&counts, bytes));
        kept.max().unwrap()
    }

    fn kept(counts: &[usize], bytes: &[u64]) -> u64 {
        let kept = counts.iter().zip(bytes);
        kept.map(|(n, bytes)| *n as u64 * bytes).sum()
    }

    #[test]
    fn no_division_that_is_even_enough_keeps_more() {
        let mut numbers = Numbers(20_261_126);
        for _ in 0..3_000 {
            let n_hosts = 1 + numbers.below(4) as usize;
            let n_tasks = numbers.below(9) as usize;
            let skew_max = numbers.below(4) as usize;
            let bytes: Vec<_> = (0..n_hosts).map(|_| numbers.below(6)).collect();
            let mut hosts = hosts(n_hosts);
            for host in &mut hosts {
                host.tasks = numbers.below(3) as usize;
            }
            let urls = route(n_tasks, &having(&bytes), &hosts, skew_max);
            let case = format!("{n_tasks} {bytes:?} {skew_max}: {urls:?}");
            assert_eq!(urls.len(), n_tasks, "{case}");
            let counts = counts(&urls, n_hosts);
            assert_eq!(counts.iter().sum::<usize>(), n_tasks, "{case}");
            let spread = counts.iter().max().unwrap() - counts.iter().min().unwrap();
            assert!(spread <= 1 + skew_max, "{case}");
            let best = best_by_trying_all(n_tasks, &bytes, skew_max);
            assert_eq!(kept(&counts, &bytes), best, "{case}");
            if skew_max == 0 || bytes.iter().all(|b| *b == bytes[0]) {
                assert!(spread <= 1, "{case}");
            }
            // The same again: nothing but the arguments matters.
            assert_eq!(urls, route(n_tasks, &having(&bytes), &hosts, skew_max));
        }
    }
}
