//! What each worker of a call asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::amount::Amount;
use super::labels::LabelSelector;
use super::names::amounts_text;

/// The resources of one worker; what is not said is not counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Demand {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Amount>,
    /// Below 1 a share of one GPU, else whole ones; 0: it sees none. `None`: it sees
    /// all that its process sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Amount>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Other resources by name; none is 0.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Amount>,
    /// Which processes will do.
    #[serde(skip_serializing_if = "LabelSelector::is_empty")]
    pub labels: LabelSelector,
    /// How the actors of a call lie on those that will do.
    #[serde(skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
}

/// How actors are dealt out to hosts that their labels like alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// On as many hosts as there are: the loss of one costs least, and each has the others'
    /// cores and disks for what it reads.
    #[default]
    Spread,
    /// On as few as have room: what lies on one host together stays there, and others are
    /// left whole.
    Pack,
}

impl Placement {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Placement {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "spread" => Ok(Self::Spread),
            "pack" => Ok(Self::Pack),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Spread => "spread",
            Self::Pack => "pack",
        })
    }
}

/// A kind of resource: what one waits for is not in the way of who wants another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class<'a> {
    Cpus,
    Gpus,
    Memory,
    Custom(&'a str),
}

impl Demand {
    /// Whether it asks for nothing.
    pub fn is_none(&self) -> bool {
        !self.takes_resources() && self.labels.is_empty()
    }

    /// Whether it takes some of what a process has. Such a worker is a process of its
    /// own: started for its call, and not lent to others.
    pub fn takes_resources(&self) -> bool {
        let Self {
            cpus,
            gpus,
            memory_bytes,
            custom,
            labels: _,
            placement: _,
        } = self;
        cpus.is_some() || gpus.is_some() || memory_bytes.is_some() || !custom.is_empty()
    }

    /// GPUs that it takes.
    pub fn gpus_taken(&self) -> Amount {
        self.gpus.unwrap_or_default()
    }

    /// Cores that it takes.
    pub fn cpus_taken(&self) -> Amount {
        self.cpus.unwrap_or_default()
    }

    /// Bytes that it takes.
    pub fn memory_taken(&self) -> u64 {
        self.memory_bytes.unwrap_or_default()
    }

    /// What it takes some of.
    pub fn classes(&self) -> BTreeSet<Class<'_>> {
        let own = [
            (Class::Cpus, !self.cpus_taken().is_zero()),
            (Class::Gpus, !self.gpus_taken().is_zero()),
            (Class::Memory, self.memory_taken() > 0),
        ];
        let own = own.into_iter().filter(|(_, taken)| *taken);
        let custom = self.custom.keys().map(|name| Class::Custom(name));
        own.map(|(class, _)| class).chain(custom).collect()
    }

    /// Its parts as options of a call say them, in a fixed order.
    pub fn options(&self) -> Vec<(&'static str, String)> {
        let mut options = vec![];
        options.extend(self.cpus.map(|n| ("num_cpus", n.to_string())));
        options.extend(self.gpus.map(|n| ("num_gpus", n.to_string())));
        options.extend(self.memory_bytes.map(|n| ("memory", bytes_text(n))));
        if !self.custom.is_empty() {
            options.push(("resources", amounts_text(&self.custom)));
        }
        if !self.labels.is_empty() {
            options.push(("label_selector", self.labels.to_string()));
        }
        if !self.placement.is_default() {
            options.push(("placement", self.placement.to_string()));
        }
        options
    }
}

/// `1 GPU, 2 cores`: what it takes, in words.
impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        if !self.gpus_taken().is_zero() {
            parts.push(gpus_text(self.gpus_taken()));
        }
        if !self.cpus_taken().is_zero() {
            parts.push(cores_text(self.cpus_taken()));
        }
        if self.memory_taken() > 0 {
            parts.push(format!("{} of memory", bytes_text(self.memory_taken())));
        }
        parts.extend(self.custom.iter().map(|(name, n)| format!("{n} {name}")));
        match parts.is_empty() {
            true => f.write_str("nothing"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

pub(super) fn gpus_text(n: Amount) -> String {
    format!("{n} GPU{}", plural(n))
}

pub(super) fn cores_text(n: Amount) -> String {
    format!("{n} core{}", plural(n))
}

fn plural(n: Amount) -> &'static str {
    match !n.is_zero() && n <= Amount::ONE {
        true => "",
        false => "s",
    }
}

/// `2GiB`, or the number where it is none of the units.
pub(super) fn bytes_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units
        .iter()
        .find(|(_, shift)| bytes >> shift > 0 && bytes.trailing_zeros() >= *shift);
    match whole {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demand_reads_in_words_and_as_options() {
        let demand = Demand {
            cpus: Some(Amount::whole(2)),
            gpus: Some(Amount::from_milli(500)),
            memory_bytes: Some(2 << 30),
            custom: [("fpga".to_owned(), Amount::ONE)].into(),
            labels: "zone=a|zone=b".parse().unwrap(),
            placement: Placement::Pack,
        };
        assert_eq!(
            demand.to_string(),
            "0.5 GPU, 2 cores, 2GiB of memory, 1 fpga"
        );
        let options = demand.options();
        let options = options
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        assert_eq!(
            options.collect::<Vec<_>>().join(" "),
            "num_cpus=2 num_gpus=0.5 memory=2GiB resources=fpga=1 label_selector=zone=a|zone=b placement=pack"
        );
        assert!(Demand::default().is_none() && !Demand::default().takes_resources());
        let no_gpu = Demand {
            gpus: Some(Amount::ZERO),
            ..Demand::default()
        };
        assert!(no_gpu.takes_resources() && no_gpu.classes().is_empty());
        let labels = Demand {
            labels: "zone=a".parse().unwrap(),
            ..Demand::default()
        };
        assert!(!labels.is_none() && !labels.takes_resources());
    }
}
