//! The options of a query, as every executor must see them.
//!
//! The base ships only its own options, so we send each option whose value
//! differs from its default in one header and apply it on the other side. The
//! base's options (`distributed.*`) travel by its own headers.

use std::collections::HashMap;

use datafusion::common::Result;
use datafusion::config::ConfigOptions;
use mobula_plan::{MobulaOptions, Scope, Setting};
use mobula_proto::cluster::{KeyValue, QueryHeader, Store};

/// Prefix of the base's own options.
const BASE_PREFIX: &str = "distributed.";

/// The header of a query that runs with `options`.
pub fn query_header(query_id: &str, options: &ConfigOptions, stores: Vec<Store>) -> QueryHeader {
    QueryHeader {
        query_id: query_id.to_owned(),
        options: non_default(options),
        stores,
        pools: vec![],
        is_interactive: false,
    }
}

/// Sets what `header` carries on `options`.
///
/// # Errors
/// An option that this version does not know.
pub fn apply(options: &mut ConfigOptions, header: &QueryHeader) -> Result<()> {
    for option in &header.options {
        options.set(&option.key, &option.value)?;
    }
    Ok(())
}

fn non_default(options: &ConfigOptions) -> Vec<KeyValue> {
    let mut defaults = ConfigOptions::default();
    defaults.extensions.insert(MobulaOptions::default());
    let defaults: HashMap<_, _> = defaults
        .entries()
        .into_iter()
        .map(|entry| (entry.key, entry.value))
        .collect();
    options
        .entries()
        .into_iter()
        .filter(|entry| !entry.key.starts_with(BASE_PREFIX) && !belongs_to_process(&entry.key))
        .filter(|entry| defaults.get(&entry.key) != Some(&entry.value))
        .filter_map(|entry| {
            Some(KeyValue {
                key: entry.key,
                value: entry.value?,
            })
        })
        .collect()
}

/// Settings of a process (paths, ports, limits) are each process's own.
fn belongs_to_process(key: &str) -> bool {
    let setting = key.strip_prefix("mobula.").map(Setting::of);
    matches!(setting, Some(Ok(setting)) if setting.scope == Scope::Process)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_ours() -> ConfigOptions {
        let mut options = ConfigOptions::default();
        options.extensions.insert(MobulaOptions::default());
        options
    }

    #[test]
    fn only_what_differs_travels_and_arrives() {
        let mut options = with_ours();
        assert_eq!(query_header("q", &options, vec![]).options, vec![]);
        options
            .set("datafusion.execution.batch_size", "777")
            .unwrap();
        options.set("mobula.udf_batch_rows", "1234").unwrap();
        let ours = options.extensions.get_mut::<MobulaOptions>().unwrap();
        ours.set_value("data_dir", "/only/here").unwrap();
        let header = query_header("q", &options, vec![]);
        assert_eq!(header.options.len(), 2);
        let mut arrived = with_ours();
        apply(&mut arrived, &header).unwrap();
        assert_eq!(arrived.execution.batch_size.get(), 777);
        let ours = arrived.extensions.get::<MobulaOptions>().unwrap();
        assert_eq!((ours.udf_batch_rows(), ours.data_dir()), (1234, None));
        assert_eq!(query_header("q", &arrived, vec![]), header);
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        let header = QueryHeader {
            options: vec![KeyValue {
                key: "mobula.no_such".into(),
                value: "1".into(),
            }],
            ..Default::default()
        };
        let text = apply(&mut with_ours(), &header).unwrap_err().to_string();
        assert!(text.contains("no_such"), "{text}");
    }
}
