//! What rows of the table of settings are made with.

use std::time::Duration;

use super::{Scope, Setting, SettingKind};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const TIB: u64 = 1 << 40;
pub(super) const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);

const fn row(
    key: &'static str,
    kind: SettingKind,
    default: &'static str,
    scope: Scope,
    doc: &'static str,
) -> Setting {
    Setting {
        key,
        kind,
        default,
        scope,
        doc,
    }
}

pub(super) const fn session(
    key: &'static str,
    kind: SettingKind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    row(key, kind, default, Scope::Session, doc)
}

pub(super) const fn process(
    key: &'static str,
    kind: SettingKind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    row(key, kind, default, Scope::Process, doc)
}

pub(super) const fn count(min: u64, max: u64) -> SettingKind {
    SettingKind::Count { min, max }
}

pub(super) const fn bytes(min: u64, max: u64) -> SettingKind {
    SettingKind::Bytes { min, max }
}

pub(super) const fn time(min: Duration, max: Duration) -> SettingKind {
    SettingKind::Duration { min, max }
}

pub(super) const MS_10: Duration = Duration::from_millis(10);
pub(super) const MS_100: Duration = Duration::from_millis(100);
/// How workers come to be where nothing is said.
pub(super) const START_METHOD: &str = if cfg!(target_os = "linux") {
    "forkserver"
} else {
    "spawn"
};
