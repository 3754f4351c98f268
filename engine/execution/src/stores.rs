//! Object stores by URL: the same ones on every process of a query.
//!
//! A [`StoreSpec`] never holds a secret, only where to find it (`env:NAME` or
//! `file:PATH`), so it may travel with plans and lie in the catalog; each
//! process resolves the reference itself. Without options, S3 credentials come
//! from the `AWS_*` environment of each process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::listing::ListingTable;
use datafusion::datasource::source_as_provider;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use mobula_proto::cluster::{KeyValue, Store};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::http::HttpBuilder;
use object_store::{ClientOptions, ObjectStore};
use parking_lot::Mutex;
use url::Url;

use crate::error::ExecutionError;
use crate::visible_files::VisibleFiles;

/// Most stores one process knows.
const MAX_STORES: usize = 1024;
/// Options whose value is a secret and must be given by reference.
const SECRETS: [&str; 3] = ["access_key_id", "secret_access_key", "session_token"];

/// An object store and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// `s3://bucket` or `https://host[:port]` (`http://` as well).
    pub url: String,
    /// `aws.*` options; secrets as `env:NAME` or `file:PATH`.
    pub options: Vec<(String, String)>,
}

/// The stores of one process.
#[derive(Debug)]
pub struct ObjectStores {
    runtime: Arc<RuntimeEnv>,
    known: Mutex<BTreeMap<String, StoreSpec>>,
}

impl ObjectStores {
    pub fn new(runtime: Arc<RuntimeEnv>) -> Self {
        Self {
            runtime,
            known: Mutex::default(),
        }
    }

    /// What is known under `url`.
    pub fn known(&self, url: &str) -> Option<StoreSpec> {
        self.known.lock().get(url).cloned()
    }

    /// Makes `before`, as [`ObjectStores::known`] gave it, what is known under
    /// `url` again.
    ///
    /// # Errors
    /// As [`ObjectStores::register`].
    pub fn put_back(&self, url: &str, before: Option<StoreSpec>) -> Result<(), ExecutionError> {
        match before {
            Some(spec) => self.register(spec),
            None => {
                if self.known.lock().remove(url).is_some()
                    && let Ok(url) = Url::parse(url)
                {
                    // Not there: as wanted.
                    let _ = self.runtime.deregister_object_store(&url);
                }
                Ok(())
            }
        }
    }

    /// Makes `spec` known; a repeated one is not built again.
    ///
    /// # Errors
    /// [`ExecutionError::ObjectStore`] when it cannot be built here.
    pub fn register(&self, spec: StoreSpec) -> Result<(), ExecutionError> {
        let fail = |reason: String| ExecutionError::ObjectStore {
            url: spec.url.clone(),
            reason,
        };
        let mut known = self.known.lock();
        if known.get(&spec.url) == Some(&spec) {
            return Ok(());
        }
        if known.len() >= MAX_STORES && !known.contains_key(&spec.url) {
            return Err(fail(format!("more than {MAX_STORES} stores")));
        }
        let url = Url::parse(&spec.url).map_err(|e| fail(e.to_string()))?;
        let store = build(&url, &spec.options).map_err(fail)?;
        let store = Arc::new(VisibleFiles(store));
        self.runtime.register_object_store(&url, store);
        known.insert(spec.url.clone(), spec);
        Ok(())
    }

    /// Makes the store at `url` known without options, unless it is known: the
    /// options that a table gave stay.
    ///
    /// # Errors
    /// As [`ObjectStores::register`].
    pub fn ensure(&self, url: String) -> Result<(), ExecutionError> {
        if self.known.lock().contains_key(&url) {
            return Ok(());
        }
        self.register(StoreSpec {
            url,
            options: vec![],
        })
    }

    /// As [`ObjectStores::register`] for what came with a query.
    ///
    /// # Errors
    /// The first store that cannot be built.
    pub fn register_all(&self, stores: &[Store]) -> Result<()> {
        for store in stores {
            let spec = StoreSpec {
                url: store.url.clone(),
                options: store
                    .options
                    .iter()
                    .map(|o| (o.key.clone(), o.value.clone()))
                    .collect(),
            };
            self.register(spec)
                .map_err(|e| DataFusionError::External(Box::new(e)))?;
        }
        Ok(())
    }

    /// What a query that runs `plan` tells the executors: the stores that it
    /// reads, so that another's missing secret does not fail it.
    pub fn wire(&self, plan: &LogicalPlan) -> Vec<Store> {
        let mut read = BTreeSet::new();
        collect_stores(plan, &mut read);
        self.of_urls(&read)
    }

    fn of_urls(&self, read: &BTreeSet<String>) -> Vec<Store> {
        let known = self.known.lock();
        known
            .values()
            .filter(|spec| read.contains(&spec.url))
            .map(|spec| Store {
                url: spec.url.clone(),
                options: spec
                    .options
                    .iter()
                    .map(|(key, value)| KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                    })
                    .collect(),
            })
            .collect()
    }
}

/// Notes the stores of all files below `plan`.
fn collect_stores(plan: &LogicalPlan, read: &mut BTreeSet<String>) {
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
        {
            if let Some(table) = provider.downcast_ref::<ListingTable>() {
                let urls = table.table_paths().iter().map(|path| path.object_store());
                read.extend(urls.map(|url| url.as_str().trim_end_matches('/').to_owned()));
            } else if let Some(inner) = provider.get_logical_plan() {
                collect_stores(&inner, read);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(visited.is_ok(), "looking at a plan cannot fail");
}

fn build(url: &Url, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, String> {
    match url.scheme() {
        "s3" | "s3a" => build_s3(url, options),
        "http" | "https" => build_http(url, options),
        other => Err(format!(
            "scheme \"{other}\" is not known. Use a local path, s3:// or https://"
        )),
    }
}

fn build_s3(url: &Url, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, String> {
    let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
    for (name, value) in options {
        let key = name.strip_prefix("aws.").unwrap_or(name);
        let parsed: AmazonS3ConfigKey = key
            .parse()
            .map_err(|_| format!("option \"{name}\" is not known"))?;
        builder = builder.with_config(parsed, resolve(name, value)?);
    }
    let store = builder.build().map_err(|e| e.to_string())?;
    Ok(Arc::new(store))
}

fn build_http(url: &Url, options: &[(String, String)]) -> Result<Arc<dyn ObjectStore>, String> {
    if let Some((name, _)) = options.first() {
        return Err(format!(
            "option \"{name}\" is not known for {}",
            url.scheme()
        ));
    }
    let allow_http = url.scheme() == "http";
    let store = HttpBuilder::new()
        .with_url(url.origin().ascii_serialization())
        .with_client_options(ClientOptions::new().with_allow_http(allow_http))
        .build()
        .map_err(|e| e.to_string())?;
    Ok(Arc::new(store))
}

/// The value behind a reference; secrets are accepted in no other form.
fn resolve(key: &str, value: &str) -> Result<String, String> {
    if let Some(name) = value.strip_prefix("env:") {
        return std::env::var(name)
            .map_err(|_| format!("the environment variable \"{name}\" is not set here"));
    }
    if let Some(path) = value.strip_prefix("file:") {
        return fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .map_err(|e| format!("cannot read \"{path}\": {e}"));
    }
    if SECRETS.iter().any(|secret| key.ends_with(secret)) {
        return Err(format!(
            "option \"{key}\" is a secret. Give it as 'env:NAME' or 'file:PATH'"
        ));
    }
    Ok(value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(url: &str, options: &[(&str, &str)]) -> StoreSpec {
        StoreSpec {
            url: url.into(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        }
    }

    fn stores() -> ObjectStores {
        ObjectStores::new(Arc::new(RuntimeEnv::default()))
    }

    #[test]
    fn a_plain_secret_is_refused_and_a_reference_is_not_resolved_on_the_wire() {
        let stores = stores();
        let plain = spec("s3://b", &[("aws.secret_access_key", "hunter2")]);
        let text = stores.register(plain).unwrap_err().to_string();
        assert!(
            text.contains("env:NAME") && !text.contains("hunter2"),
            "{text}"
        );

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        fs::write(&file, "s3cret\n").unwrap();
        let reference = format!("file:{}", file.display());
        let by_file = spec(
            "s3://b",
            &[
                ("aws.secret_access_key", &reference),
                ("aws.access_key_id", &reference),
                ("aws.region", "x"),
            ],
        );
        stores.register(by_file).unwrap();
        let wire = stores.of_urls(&BTreeSet::from(["s3://b".to_owned()]));
        assert_eq!(wire[0].options[0].value, reference);
        assert!(stores.of_urls(&BTreeSet::new()).is_empty());
    }

    #[test]
    fn a_store_named_by_url_keeps_the_options_of_its_table() {
        let stores = stores();
        let given = spec("s3://b", &[("aws.region", "x")]);
        stores.register(given).unwrap();
        stores.ensure("s3://b".into()).unwrap();
        stores.ensure("https://h".into()).unwrap();
        let wire = stores.of_urls(&BTreeSet::from(["s3://b".into(), "https://h".into()]));
        assert_eq!(wire.len(), 2);
        assert!(
            wire.iter()
                .any(|s| s.url == "s3://b" && s.options.len() == 1)
        );
    }

    #[test]
    fn what_was_known_can_be_put_back() {
        let stores = stores();
        let (good, bad) = (spec("s3://b", &[("aws.region", "x")]), spec("s3://b", &[]));
        let before = stores.known("s3://b");
        stores.register(good.clone()).unwrap();
        stores.put_back("s3://b", before).unwrap();
        assert_eq!(stores.known("s3://b"), None);
        stores.register(good.clone()).unwrap();
        let before = stores.known("s3://b");
        stores.register(bad).unwrap();
        stores.put_back("s3://b", before).unwrap();
        assert_eq!(stores.known("s3://b"), Some(good));
    }

    #[test]
    fn unknown_schemes_options_and_variables_are_named() {
        for (bad, part) in [
            (spec("gopher://h", &[]), "gopher"),
            (spec("s3://b", &[("aws.colour", "red")]), "aws.colour"),
            (spec("https://h", &[("aws.region", "x")]), "aws.region"),
            (
                spec("s3://b", &[("aws.access_key_id", "env:NO_SUCH_VARIABLE_1")]),
                "NO_SUCH_VARIABLE_1",
            ),
        ] {
            let text = stores().register(bad).unwrap_err().to_string();
            assert!(text.contains(part), "{text}");
        }
    }
}
