//! Which GPUs a process shares out: what the setting `gpus` says.

use std::str::FromStr;

/// Most GPUs of a process.
const MAX_GPUS: usize = 256;
/// Longest id, in bytes.
const MAX_ID_LEN: usize = 64;

/// The GPUs of a process, as they are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gpus {
    /// Those found.
    Auto,
    /// The first of those found; without hardware, so many numbers.
    Count(usize),
    /// These.
    Ids(Vec<String>),
}

/// What names no GPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("auto, a count up to 256, or ids with commas")]
pub struct BadGpus;

impl Gpus {
    /// Their ids, where `found` are there.
    pub fn ids(&self, found: &[String]) -> Vec<String> {
        match self {
            Self::Auto => found.to_vec(),
            Self::Count(n) if *n <= found.len() => found.iter().take(*n).cloned().collect(),
            // Bookkeeping: whoever gives more than there are knows why.
            Self::Count(n) => (0..*n).map(|id| id.to_string()).collect(),
            Self::Ids(ids) => ids.clone(),
        }
    }
}

impl FromStr for Gpus {
    type Err = BadGpus;

    fn from_str(text: &str) -> Result<Self, BadGpus> {
        let text = text.trim();
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(count) = text.parse::<usize>() {
            return match count <= MAX_GPUS {
                true => Ok(Self::Count(count)),
                false => Err(BadGpus),
            };
        }
        // One id alone is written with a comma behind it, if it is a number.
        let ids: Vec<_> = text
            .trim_end_matches(',')
            .split(',')
            .map(str::trim)
            .collect();
        let is_id = |id: &&str| {
            let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | ':');
            (1..=MAX_ID_LEN).contains(&id.len()) && id.chars().all(is_fine)
        };
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let are_fine = ids.iter().all(is_id) && sorted.len() == ids.len();
        match are_fine && ids.len() <= MAX_GPUS {
            true => Ok(Self::Ids(ids.into_iter().map(str::to_owned).collect())),
            false => Err(BadGpus),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_needs_no_hardware() {
        let found = ["GPU-1".to_owned(), "GPU-2".to_owned()];
        let ids = |text: &str, found: &[String]| text.parse::<Gpus>().map(|gpus| gpus.ids(found));
        let texts = |ids: &[&str]| Ok(ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>());
        assert_eq!(ids("auto", &found), texts(&["GPU-1", "GPU-2"]));
        assert_eq!(ids("auto", &[]), texts(&[]));
        assert_eq!(ids("0", &found), texts(&[]));
        assert_eq!(ids("1", &found), texts(&["GPU-1"]));
        assert_eq!(ids("2", &[]), texts(&["0", "1"]));
        assert_eq!(ids("3,", &[]), texts(&["3"]));
        assert_eq!(ids("GPU-2, 0", &[]), texts(&["GPU-2", "0"]));
        for text in ["", ",", "0,0", "a b", "257", "a,,b"] {
            assert_eq!(text.parse::<Gpus>(), Err(BadGpus), "{text}");
        }
    }
}
