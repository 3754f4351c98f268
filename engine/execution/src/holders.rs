//! Who keeps what a query waited for in vain, and what to do about it, as errors say it.
//!
//! Names of claims come in: a query's id, `actor a (7)` and `actor pool p (8)` of a cluster,
//! `actor a` and `actor pool p#2` of this process.

use std::collections::BTreeSet;

/// How the claim of a named actor, or of a pool of them, is called.
pub(crate) fn actor_claim(name: &str, is_pool: bool) -> String {
    match is_pool {
        true => format!("actor pool {name}"),
        false => format!("actor {name}"),
    }
}

/// Who has the claims called `holders`, and the way out.
pub(crate) fn kept_by(holders: &[String]) -> (String, String) {
    let (mut queries, mut actors, mut pools) = (vec![], BTreeSet::new(), BTreeSet::new());
    for holder in holders {
        let Some(actor) = holder.strip_prefix("actor ") else {
            queries.push(holder.as_str());
            continue;
        };
        match actor.strip_prefix("pool ") {
            Some(pool) => pools.insert(name_in(pool)),
            None => actors.insert(name_in(actor)),
        };
    }
    let mut who = vec![];
    match queries.as_slice() {
        [] => {}
        [one] => who.push(format!("query {one}")),
        several => who.push(format!("queries {}", several.join(", "))),
    }
    who.extend(actors.iter().map(|name| format!("actor \"{name}\"")));
    who.extend(pools.iter().map(|name| format!("actor pool \"{name}\"")));
    let mut ways = vec![];
    if !queries.is_empty() || who.is_empty() {
        ways.push("close cursors that are no longer read, for queries keep it meanwhile");
    }
    if !pools.is_empty() {
        ways.push("let the pool have fewer by ALTER ACTOR POOL or none by DROP ACTOR POOL");
    }
    if !actors.is_empty() {
        ways.push("drop the actor by DROP ACTOR");
    }
    let who = match who.is_empty() {
        true => "nobody".to_owned(),
        false => who.join(" and "),
    };
    (who, ways.join(", or "))
}

/// The name in what is behind `actor `.
fn name_in(claim: &str) -> &str {
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
    if let Some((name, number)) = claim.rsplit_once(" (")
        && number.strip_suffix(')').is_some_and(is_number)
    {
        return name;
    }
    match claim.rsplit_once('#') {
        Some((name, number)) if is_number(number) => name,
        _ => claim,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(holders: &[&str]) -> (String, String) {
        let holders: Vec<_> = holders.iter().map(|name| (*name).to_owned()).collect();
        kept_by(&holders)
    }

    #[test]
    fn who_keeps_it_and_what_gives_it_back() {
        let (who, way) = kept(&["actor pool p (7)", "actor pool q#1", "actor pool q#2"]);
        assert_eq!(who, "actor pool \"p\" and actor pool \"q\"");
        assert!(
            way.contains("ALTER ACTOR POOL") && !way.contains("cursors"),
            "{way}"
        );
        let (who, way) = kept(&["q7", "q8", "actor a b (2)"]);
        assert_eq!(who, "queries q7, q8 and actor \"a b\"");
        assert!(
            way.contains("cursors") && way.contains("DROP ACTOR"),
            "{way}"
        );
        assert!(!way.contains("POOL"), "{way}");
        assert_eq!(kept(&["q7"]).0, "query q7");
        assert_eq!(kept(&[]).0, "nobody");
        assert_eq!(kept(&["actor c (x)"]).0, "actor \"c (x)\"");
    }
}
