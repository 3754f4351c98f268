//! Settings: one definition per key, typed and bounded.
//!
//! [`SETTINGS`] feeds SQL `SET`, the configuration file, the environment, flags
//! and `docs/settings.md`. [`MobulaOptions`] holds the values; it lives in
//! DataFusion's options under the prefix `mobula`, where `SET` reaches the keys
//! of session scope and no others. Values are checked when set, so a getter
//! cannot fail.

mod rows;
mod settings;
mod value;

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use datafusion::common::{Result, extensions_options};
use datafusion::config::{ConfigEntry, ConfigExtension, ExtensionOptions};

use crate::error::PlanError;
use crate::nearest;
pub use settings::SETTINGS;
use value::Value;
pub use value::bytes;
pub(crate) use value::duration;

/// Worker processes per core when `udf_max_workers` is 0.
const WORKERS_PER_CORE: usize = 4;

/// What a setting's text may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingKind {
    Bool,
    /// Both ends included.
    Count {
        min: u64,
        max: u64,
    },
    /// `123`, `64MiB`, `1GB`; both ends included.
    Bytes {
        min: u64,
        max: u64,
    },
    /// `500ms`, `3s`, `10m`, `2h`, `0`; both ends included.
    Duration {
        min: Duration,
        max: Duration,
    },
    Text,
    Path,
    Choice(&'static [&'static str]),
    /// `auto`, or an amount as `2` or `0.5`.
    Amount,
    /// `auto`, or bytes.
    BytesOrAuto,
    /// `auto`, a count, or ids with commas.
    Gpus,
    /// `fpga=2,slot=0.5`; a flag may come several times.
    Amounts,
    /// `zone=a,disk=ssd`; a flag may come several times.
    Labels,
}

/// Who may change a setting, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `SET mobula.key = …` changes it for one session.
    Session,
    /// File, environment or flag, before the process starts.
    Process,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name without the prefix `mobula.`.
    pub key: &'static str,
    pub kind: SettingKind,
    /// Text of the default; empty for "none".
    pub default: &'static str,
    pub scope: Scope,
    /// One line with unit and bound.
    pub doc: &'static str,
}

impl Setting {
    /// The setting named `key` (without prefix).
    ///
    /// # Errors
    /// [`PlanError::UnknownSetting`], with the nearest names.
    pub fn of(key: &str) -> Result<&'static Self, PlanError> {
        SETTINGS
            .iter()
            .find(|setting| setting.key == key)
            .ok_or_else(|| PlanError::UnknownSetting {
                key: format!("mobula.{key}"),
                hint: nearest::hint(key, SETTINGS.iter().map(|s| s.key)),
            })
    }
}

/// The values of all settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MobulaOptions {
    /// Keys that were set, with their text; all others have their default.
    given: BTreeMap<&'static str, String>,
    values: BTreeMap<&'static str, Value>,
}

impl Default for MobulaOptions {
    fn default() -> Self {
        let parsed = |s: &Setting| value::parse(s.kind, s.default).unwrap_or(Value::Text);
        Self {
            given: BTreeMap::new(),
            values: SETTINGS.iter().map(|s| (s.key, parsed(s))).collect(),
        }
    }
}

impl MobulaOptions {
    /// The text of `key` (without prefix), given or default.
    pub fn get(&self, key: &str) -> Option<&str> {
        let setting = SETTINGS.iter().find(|setting| setting.key == key)?;
        Some(self.text(setting))
    }

    /// Sets `key` (without prefix), whatever its scope: files, flags and the
    /// environment come through here.
    ///
    /// # Errors
    /// [`PlanError::UnknownSetting`] and [`PlanError::SettingValue`].
    pub fn set_value(&mut self, key: &str, value: &str) -> Result<(), PlanError> {
        let setting = Setting::of(key)?;
        let parsed = match value.is_empty() && setting.default.is_empty() {
            true => Ok(Value::Text),
            false => value::parse(setting.kind, value),
        };
        let parsed = parsed.map_err(|expected| PlanError::SettingValue {
            key: setting.key,
            value: value.to_owned(),
            expected,
        })?;
        self.values.insert(setting.key, parsed);
        match value == setting.default {
            true => self.given.remove(setting.key),
            false => self.given.insert(setting.key, value.to_owned()),
        };
        Ok(())
    }

    /// Keys (without prefix) whose value differs from the default, with it.
    pub fn non_default(&self) -> Vec<(String, String)> {
        let given = self.given.iter();
        given
            .map(|(key, text)| ((*key).to_owned(), text.clone()))
            .collect()
    }

    fn text(&self, setting: &Setting) -> &str {
        self.given
            .get(setting.key)
            .map_or(setting.default, String::as_str)
    }

    fn count(&self, key: &str) -> usize {
        match self.values.get(key) {
            Some(Value::Count(n)) => usize::try_from(*n).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    fn duration(&self, key: &str) -> Duration {
        match self.values.get(key) {
            Some(Value::Duration(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    fn flag(&self, key: &str) -> bool {
        matches!(self.values.get(key), Some(Value::Bool(true)))
    }

    fn path(&self, key: &str) -> Option<&Path> {
        self.get(key).filter(|text| !text.is_empty()).map(Path::new)
    }
}

/// Getters named like their keys.
macro_rules! getters {
    ($($reader:ident -> $type:ty: $($key:ident)*;)*) => {
        impl MobulaOptions {
            $($(
                #[doc = concat!("Value of `mobula.", stringify!($key), "`.")]
                pub fn $key(&self) -> $type {
                    self.$reader(stringify!($key))
                }
            )*)*
        }

        /// Keys that have a getter made above.
        #[cfg(test)]
        const GETTERS: &[&str] = &[$($(stringify!($key)),*),*];
    };
}

getters! {
    count -> usize: udf_batch_rows udf_batch_bytes udf_max_frame_bytes
        udf_errors_max_bytes operators_kept udf_worker_max_blocks udf_worker_memory memory_limit
        actors_max tasks_kept udf_memory_percent udf_hosts_lost_max
        splits_max udf_batch_every udf_snapshot_every udf_replay_bytes
        udf_snapshot_max_bytes actor_states_max_bytes
        scan_bytes_per_task max_tasks_per_stage task_skew_max
        exchange_stream_window exchange_message_bytes exchange_threads
        executors max_sessions prepared_max sql_max_bytes wire_batch_bytes
        parameter_rows_max parameter_bytes_max plan_cache_max plan_cache_bytes
        loaded_bytes_max kept_memory_max loads_max load_message_bytes;
    duration -> Duration: udf_init_timeout udf_kill_grace udf_idle_ttl heartbeat_interval
        heartbeat_timeout session_ttl pool_interval pool_wait_target pool_idle_ttl pool_debounce
        pool_retire_limit actor_block_time actor_linger list_files_ttl;
    flag -> bool: local_executor insecure udf_fuse udf_preserve_order udf_prestart;
    path -> Option<&Path>: python cluster_token_file data_dir loaded_dir;
    plain -> &str: udf_priority udf_start_method exchange_compression cluster_listen listen http_listen log
        cpus gpus memory resource label roles;
}

impl MobulaOptions {
    fn plain(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// Value of `mobula.udf_errors_max_rows`.
    pub fn udf_errors_max_rows(&self) -> u64 {
        self.count("udf_errors_max_rows") as u64
    }

    /// Value of `mobula.udf_call_timeout`; `None`: no limit.
    pub fn udf_call_timeout(&self) -> Option<Duration> {
        Some(self.duration("udf_call_timeout")).filter(|limit| !limit.is_zero())
    }

    /// Value of `mobula.udf_max_workers`, at least 1: four per core unless set.
    pub fn udf_max_workers(&self) -> usize {
        match self.count("udf_max_workers") {
            0 => std::thread::available_parallelism()
                .map_or(WORKERS_PER_CORE, |cores| cores.get() * WORKERS_PER_CORE),
            n => n,
        }
    }
}

extensions_options! {
    /// What rules know of a plan besides the settings.
    pub struct PlanningOptions {
        /// It may run on executors.
        pub is_distributed: bool, default = false
    }
}

impl ConfigExtension for PlanningOptions {
    const PREFIX: &'static str = "mobula_planning";
}

impl ConfigExtension for MobulaOptions {
    const PREFIX: &'static str = "mobula";
}

impl ExtensionOptions for MobulaOptions {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(self.clone())
    }

    /// What `SET mobula.key` does: keys of process scope are refused.
    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let setting = Setting::of(key)?;
        match setting.scope {
            Scope::Session => Ok(self.set_value(key, value)?),
            Scope::Process => Err(PlanError::ProcessSetting { key: setting.key }.into()),
        }
    }

    /// The keys of session scope: what `SET` may change, and what travels with
    /// a query. A process keeps its own values of the others.
    fn entries(&self) -> Vec<ConfigEntry> {
        let session = SETTINGS.iter().filter(|s| s.scope == Scope::Session);
        session
            .map(|setting| ConfigEntry {
                key: format!("{}.{}", Self::PREFIX, setting.key),
                value: Some(self.text(setting).to_owned()),
                description: setting.doc,
            })
            .collect()
    }
}

/// The page `docs/settings.md`, made from [`SETTINGS`].
pub fn settings_markdown() -> String {
    let mut page = String::from(
        "# Settings\n\n\
        Each key can be given in the configuration file (`key = value`), in the environment\n\
        (`MOBULA_KEY`), as a flag (`--key-with-dashes`) and, for keys of session scope, with\n\
        `SET mobula.key = value`. A flag wins over the environment, the environment over the\n\
        file, the file over the default. This page is made from the code.\n\n\
        | key | default | scope | accepts | meaning |\n|---|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let scope = match s.scope {
            Scope::Session => "session",
            Scope::Process => "process",
        };
        let default = match s.default {
            "" => String::new(),
            text => format!("`{text}`"),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {default} | {scope} | {} | {} |",
            s.key,
            s.kind.expected(),
            s.doc
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::config::ConfigOptions;

    #[test]
    fn every_setting_has_a_valid_default_and_a_getter() {
        let special = ["udf_call_timeout", "udf_errors_max_rows", "udf_max_workers"];
        for s in SETTINGS {
            if !s.default.is_empty() {
                value::parse(s.kind, s.default).unwrap_or_else(|e| panic!("{}: {e}", s.key));
            }
            assert!(
                GETTERS.contains(&s.key) || special.contains(&s.key),
                "{}",
                s.key
            );
        }
        assert_eq!(GETTERS.len() + special.len(), SETTINGS.len());
        let options = MobulaOptions::default();
        assert_eq!(options.udf_batch_rows(), 65536);
        assert_eq!(options.udf_max_frame_bytes(), 256 << 20);
        assert_eq!(options.heartbeat_timeout(), Duration::from_secs(3));
        assert_eq!(options.udf_call_timeout(), None);
        assert!(options.udf_max_workers() >= 4);
        assert!(options.local_executor());
        assert_eq!(options.exchange_compression(), "lz4");
        assert_eq!(options.data_dir(), None);
    }

    #[test]
    fn a_bad_value_says_what_was_expected_and_changes_nothing() {
        let mut options = MobulaOptions::default();
        let refused = |options: &mut MobulaOptions, key, value| {
            options.set_value(key, value).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&mut options, "udf_batch_rows", "abc"),
            "invalid value \"abc\" for mobula.udf_batch_rows: expected a count from 1 to 1048576"
        );
        assert_eq!(
            refused(&mut options, "udf_batch_rows", "0"),
            "invalid value \"0\" for mobula.udf_batch_rows: expected a count from 1 to 1048576"
        );
        assert_eq!(
            refused(&mut options, "udf_batch_row", "1"),
            "unknown setting \"mobula.udf_batch_row\". Did you mean \"udf_batch_rows\"?"
        );
        assert_eq!(
            refused(&mut options, "exchange_compression", "gzip"),
            "invalid value \"gzip\" for mobula.exchange_compression: expected one of lz4, zstd, none"
        );
        assert_eq!(options, MobulaOptions::default());
    }

    #[test]
    fn set_reaches_session_keys_only() {
        let mut options = ConfigOptions::default();
        options.extensions.insert(MobulaOptions::default());
        options.set("mobula.udf_call_timeout", "250ms").unwrap();
        let ours = options.extensions.get::<MobulaOptions>().unwrap();
        assert_eq!(ours.udf_call_timeout(), Some(Duration::from_millis(250)));
        assert_eq!(
            ours.non_default(),
            [("udf_call_timeout".to_owned(), "250ms".to_owned())]
        );
        let text = options
            .set("mobula.listen", "0.0.0.0:1")
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("mobula.listen is fixed while the process runs"),
            "{text}"
        );
        assert!(text.contains("MOBULA_LISTEN"), "{text}");
    }

    #[test]
    fn entries_name_the_keys_a_session_may_set() {
        let entries = MobulaOptions::default().entries();
        assert!(entries.iter().any(|e| e.key == "mobula.udf_batch_rows"));
        assert!(!entries.iter().any(|e| e.key == "mobula.listen"));
    }

    /// After a change: `UPDATE_EXPECT=1 cargo xt test the_page`.
    #[test]
    fn the_page_is_the_one_in_docs() {
        expect_test::expect_file!["../../../../docs/settings.md"].assert_eq(&settings_markdown());
    }
}
