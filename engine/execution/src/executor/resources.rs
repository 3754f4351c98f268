//! What a process shares out, by its settings, and how executors tell of it.

use std::collections::BTreeMap;

use mobula_plan::MobulaOptions;
use mobula_plan::config::bytes;
use mobula_proto::cluster::{FreeResources, GpuFree, KeyValue, NamedAmount, Resources};
use mobula_udfs::resources::{Free, Gpus, amounts_of, detect, labels_of};
use mobula_udfs::{Amount, Capacity};

/// Most GPUs, and most other resources and labels, that an executor may tell of.
const MAX_GPUS: usize = 256;
const MAX_NAMES: usize = 64;
/// Longest name of one, in bytes.
const MAX_NAME_LEN: usize = 64;

/// What a process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// Tasks of queries.
    pub tasks: bool,
    /// Actors of others.
    pub actors: bool,
}

impl Roles {
    /// By the setting `roles`.
    pub fn of(options: &MobulaOptions) -> Self {
        let has = |role| options.roles().split(',').any(|named| named == role);
        Self {
            tasks: has("tasks"),
            actors: has("actors"),
        }
    }
}

/// The ids of the GPUs of a process with `options`.
pub fn gpu_ids(options: &MobulaOptions) -> Vec<String> {
    let gpus = options.gpus().parse().unwrap_or(Gpus::Auto);
    match gpus {
        // Nothing to look for.
        Gpus::Ids(_) | Gpus::Count(0) => gpus.ids(&[]),
        Gpus::Auto | Gpus::Count(_) => gpus.ids(&detect().gpu_ids),
    }
}

/// What a process with `options` has. Settings are checked when they are set, so what
/// cannot be read here is `auto`.
pub fn capacity(options: &MobulaOptions) -> Capacity {
    let cpus = options.cpus().parse().ok();
    Capacity {
        cpus: cpus.unwrap_or_else(|| detect().cpus),
        gpu_ids: gpu_ids(options),
        memory_bytes: bytes(options.memory()).unwrap_or_else(|| detect().memory_bytes),
        custom: amounts_of(options.resource()).unwrap_or_default(),
        labels: labels_of(options.label()).unwrap_or_default(),
    }
}

/// As an executor registers it.
pub fn to_wire(capacity: &Capacity) -> Resources {
    let labels = capacity.labels.iter().map(|(key, value)| KeyValue {
        key: key.clone(),
        value: value.clone(),
    });
    Resources {
        cpus_milli: capacity.cpus.milli(),
        gpu_ids: capacity.gpu_ids.clone(),
        memory_bytes: capacity.memory_bytes,
        custom: named(&capacity.custom),
        labels: labels.collect(),
    }
}

/// What an executor registered; `None` if it is more than it may tell of.
pub fn from_wire(told: Resources) -> Option<Capacity> {
    is_bounded(&told).then(|| Capacity {
        cpus: Amount::from_milli(told.cpus_milli),
        gpu_ids: told.gpu_ids,
        memory_bytes: told.memory_bytes,
        custom: amounts(told.custom),
        labels: told.labels.into_iter().map(|l| (l.key, l.value)).collect(),
    })
}

fn is_bounded(told: &Resources) -> bool {
    let names = told.custom.iter().map(|custom| &custom.name);
    let words = told.labels.iter().flat_map(|l| [&l.key, &l.value]);
    let mut names = told.gpu_ids.iter().chain(names).chain(words);
    told.gpu_ids.len() <= MAX_GPUS
        && told.custom.len() <= MAX_NAMES
        && told.labels.len() <= MAX_NAMES
        && names.all(|name| (1..=MAX_NAME_LEN).contains(&name.len()))
}

/// As heartbeats tell it.
pub fn free_to_wire(free: &Free) -> FreeResources {
    let gpus = free.gpus.iter().map(|(id, left)| GpuFree {
        id: id.clone(),
        milli: left.milli(),
    });
    FreeResources {
        cpus_milli: free.cpus.milli(),
        gpus: gpus.collect(),
        memory_bytes: free.memory_bytes,
        custom: named(&free.custom),
    }
}

/// What a heartbeat told; nothing of what it was not asked for.
pub fn free_from_wire(told: &FreeResources) -> Free {
    let gpus = told.gpus.iter();
    Free {
        cpus: Amount::from_milli(told.cpus_milli),
        gpus: gpus
            .map(|gpu| (gpu.id.clone(), Amount::from_milli(gpu.milli)))
            .collect(),
        memory_bytes: told.memory_bytes,
        custom: amounts(told.custom.clone()),
    }
}

fn named(amounts: &BTreeMap<String, Amount>) -> Vec<NamedAmount> {
    let named = amounts.iter().map(|(name, amount)| NamedAmount {
        name: name.clone(),
        milli: amount.milli(),
    });
    named.collect()
}

fn amounts(named: Vec<NamedAmount>) -> BTreeMap<String, Amount> {
    let amounts = named.into_iter();
    amounts
        .map(|NamedAmount { name, milli }| (name, Amount::from_milli(milli)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(settings: &[(&str, &str)]) -> MobulaOptions {
        let mut options = MobulaOptions::default();
        for (key, value) in settings {
            options.set_value(key, value).unwrap();
        }
        options
    }

    #[test]
    fn settings_say_what_there_is() {
        let given = options(&[
            ("cpus", "1.5"),
            ("gpus", "GPU-7,GPU-9"),
            ("memory", "3GiB"),
            ("resource", "fpga=2"),
            ("label", "zone=a"),
        ]);
        let expected = Capacity {
            cpus: Amount::from_milli(1500),
            gpu_ids: vec!["GPU-7".into(), "GPU-9".into()],
            memory_bytes: 3 << 30,
            custom: [("fpga".to_owned(), Amount::whole(2))].into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
        };
        assert_eq!(capacity(&given), expected);
        assert_eq!(from_wire(to_wire(&expected)), Some(expected.clone()));
        let free = Free::all_of(&expected);
        assert_eq!(free_from_wire(&free_to_wire(&free)), free);
        let found = capacity(&options(&[]));
        assert!(found.cpus >= Amount::ONE && found.custom.is_empty());
        assert_eq!(gpu_ids(&options(&[("gpus", "1,")])), ["1"]);
    }

    #[test]
    fn what_an_executor_tells_is_bounded() {
        let told = |change: fn(&mut Resources)| {
            let mut told = Resources::default();
            change(&mut told);
            from_wire(told)
        };
        assert!(told(|_| {}).is_some());
        assert!(told(|told| told.gpu_ids = vec!["x".into(); 257]).is_none());
        assert!(told(|told| told.gpu_ids = vec!["x".repeat(65)]).is_none());
        assert!(told(|told| told.custom = vec![NamedAmount::default(); 1]).is_none());
        assert!(told(|told| told.labels = vec![KeyValue::default(); 65]).is_none());
    }

    #[test]
    fn roles_are_read() {
        for (text, tasks, actors) in [
            ("tasks,actors", true, true),
            ("tasks", true, false),
            ("actors", false, true),
        ] {
            let roles = Roles::of(&options(&[("roles", text)]));
            assert_eq!(roles, Roles { tasks, actors });
        }
    }
}
