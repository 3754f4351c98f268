//! What a process has to share out.

use std::collections::BTreeMap;
use std::fmt;

use super::amount::Amount;
use super::demand::{Class, Demand, bytes_text, cores_text, gpus_text};
use super::detect::detect;
use super::free::Free;
use super::names::labels_text;

/// All that a process has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capacity {
    pub cpus: Amount,
    /// Their ids, as `CUDA_VISIBLE_DEVICES` takes them.
    pub gpu_ids: Vec<String>,
    pub memory_bytes: u64,
    /// Other resources by name.
    pub custom: BTreeMap<String, Amount>,
    /// What is true of it.
    pub labels: BTreeMap<String, String>,
}

/// What of a demand a process does not have, however little of it is in use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    Labels,
    Gpus,
    Cpus,
    Memory,
    Custom(String),
}

impl Capacity {
    /// What was found on this machine.
    pub fn found() -> Self {
        let found = detect();
        Self {
            cpus: found.cpus,
            gpu_ids: found.gpu_ids.clone(),
            memory_bytes: found.memory_bytes,
            ..Self::default()
        }
    }

    /// What keeps it from ever meeting `demand`.
    pub fn lacks(&self, demand: &Demand) -> Option<Lack> {
        if !demand.labels.accepts(&self.labels) {
            return Some(Lack::Labels);
        }
        if demand.gpus_taken() > Amount::whole(self.gpu_ids.len()) {
            return Some(Lack::Gpus);
        }
        if demand.cpus_taken() > self.cpus {
            return Some(Lack::Cpus);
        }
        if demand.memory_taken() > self.memory_bytes {
            return Some(Lack::Memory);
        }
        let mut custom = demand.custom.iter();
        let missing = custom.find(|(name, amount)| **amount > self.amount_of(name));
        missing.map(|(name, _)| Lack::Custom(name.clone()))
    }

    /// Whether it meets all of `demands` at once when nothing is in use.
    pub fn fits_at_once(&self, demands: &[Demand]) -> bool {
        demands.iter().all(|demand| self.lacks(demand).is_none())
            && Free::all_of(self).take_all(demands).is_some()
    }

    /// How many of `demand` it meets at once, of `most`.
    pub fn at_once(&self, demand: &Demand, most: usize) -> usize {
        if self.lacks(demand).is_some() {
            return 0;
        }
        let mut free = Free::all_of(self);
        (0..most)
            .take_while(|_| free.take(demand).is_some())
            .count()
    }

    fn amount_of(&self, name: &str) -> Amount {
        self.custom.get(name).copied().unwrap_or_default()
    }

    /// What it has of what `demand` takes some of, in words.
    pub fn has_of(&self, demand: &Demand) -> String {
        let kinds = demand.classes().into_iter().map(|class| match class {
            Class::Gpus => Lack::Gpus,
            Class::Cpus => Lack::Cpus,
            Class::Memory => Lack::Memory,
            Class::Custom(name) => Lack::Custom(name.to_owned()),
        });
        let texts: Vec<_> = kinds.map(|kind| self.has(&kind)).collect();
        texts.join(", ")
    }

    /// What it has of what `lack` is about, in words.
    pub fn has(&self, lack: &Lack) -> String {
        match lack {
            Lack::Labels if self.labels.is_empty() => "no labels".to_owned(),
            Lack::Labels => labels_text(&self.labels),
            Lack::Gpus if self.gpu_ids.is_empty() => "no GPU".to_owned(),
            Lack::Gpus => gpus_text(Amount::whole(self.gpu_ids.len())),
            Lack::Cpus => cores_text(self.cpus),
            Lack::Memory => bytes_text(self.memory_bytes),
            Lack::Custom(name) => match self.amount_of(name) {
                Amount::ZERO => format!("no {name}"),
                amount => format!("{amount} {name}"),
            },
        }
    }
}

impl Lack {
    /// The option of a call that asks for it, as `demand` does.
    pub fn option(&self, demand: &Demand) -> String {
        match self {
            Self::Labels => format!("label_selector => '{}'", demand.labels),
            Self::Gpus => format!("num_gpus => {}", demand.gpus_taken()),
            Self::Cpus => format!("num_cpus => {}", demand.cpus_taken()),
            Self::Memory => format!("memory => '{}'", bytes_text(demand.memory_taken())),
            Self::Custom(name) => {
                let amount = demand.custom.get(name).copied().unwrap_or_default();
                format!("resources => '{name}={amount}'")
            }
        }
    }

    /// The flag that gives a process as much.
    pub fn flag(&self, demand: &Demand) -> String {
        match self {
            Self::Labels => "--label KEY=VALUE".to_owned(),
            Self::Gpus => format!("--gpus {}", demand.gpus_taken()),
            Self::Cpus => format!("--cpus {}", demand.cpus_taken()),
            Self::Memory => format!("--memory {}", bytes_text(demand.memory_taken())),
            Self::Custom(name) => {
                let amount = demand.custom.get(name).copied().unwrap_or_default();
                format!("--resource {name}={amount}")
            }
        }
    }
}

/// The resource.
impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Labels => "labels",
            Self::Gpus => "GPUs",
            Self::Cpus => "cores",
            Self::Memory => "memory",
            Self::Custom(name) => name,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Capacity {
        Capacity {
            cpus: Amount::whole(2),
            gpu_ids: vec!["0".into(), "1".into()],
            memory_bytes: 4 << 30,
            custom: [("fpga".to_owned(), Amount::ONE)].into(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
        }
    }

    fn gpus(milli: u64) -> Demand {
        Demand {
            gpus: Some(Amount::from_milli(milli)),
            ..Demand::default()
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_there_is() {
        let cases = [
            (gpus(3000), "GPUs", "num_gpus => 3", "2 GPUs"),
            (
                Demand {
                    cpus: Some(Amount::from_milli(2500)),
                    ..Demand::default()
                },
                "cores",
                "num_cpus => 2.5",
                "2 cores",
            ),
            (
                Demand {
                    memory_bytes: Some(8 << 30),
                    ..Demand::default()
                },
                "memory",
                "memory => '8GiB'",
                "4GiB",
            ),
            (
                Demand {
                    custom: [("slot".to_owned(), Amount::ONE)].into(),
                    ..Demand::default()
                },
                "slot",
                "resources => 'slot=1'",
                "no slot",
            ),
            (
                Demand {
                    labels: "zone=c".parse().unwrap(),
                    ..Demand::default()
                },
                "labels",
                "label_selector => 'zone=c'",
                "zone=a",
            ),
        ];
        for (demand, lack, option, has) in cases {
            let found = host().lacks(&demand).unwrap();
            assert_eq!(found.to_string(), lack);
            assert_eq!(found.option(&demand), option);
            assert_eq!(host().has(&found), has);
        }
        assert_eq!(host().lacks(&gpus(2000)), None);
        assert_eq!(Capacity::default().has(&Lack::Gpus), "no GPU");
    }

    #[test]
    fn demands_that_fit_alone_may_not_fit_at_once() {
        assert!(host().fits_at_once(&[gpus(500), gpus(1000), gpus(500)]));
        assert!(!host().fits_at_once(&[gpus(600), gpus(600), gpus(600)]));
        assert_eq!(host().at_once(&gpus(600), 8), 2);
        assert_eq!(host().at_once(&gpus(500), 8), 4);
        assert_eq!(host().at_once(&gpus(500), 3), 3);
    }
}
