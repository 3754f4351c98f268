//! An object store whose hidden files are not found in folders.
//!
//! Those who write tables leave other files beside the rows: `_SUCCESS`, `_temporary/…`,
//! `.part-0.crc`, `.x.parquet.tmp`. As Spark, Hive and Ray do, a table over a folder is
//! without files and folders below it whose names begin with `.` or `_`; `_a=1` is a partition
//! all the same. A folder or file that is named itself is read whatever it is called.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::datasource::listing::ListingTableUrl;
use futures::stream::{BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::{DELIMITER, Path};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct VisibleFiles(pub(crate) Arc<dyn ObjectStore>);

/// Whether `path` is hidden in the folder `under`.
fn is_hidden(path: &Path, under: Option<&Path>) -> bool {
    let under = under.map_or("", Path::as_ref);
    let below = path.as_ref().strip_prefix(under).unwrap_or_default();
    below.split(DELIMITER).any(is_hidden_name)
}

/// Whether a file or folder called `name` is.
fn is_hidden_name(name: &str) -> bool {
    name.starts_with('.') || (name.starts_with('_') && !name.contains('='))
}

/// Of `found` in the folder `under`, what is not hidden.
fn visible(
    found: BoxStream<'static, Result<ObjectMeta>>,
    under: Option<&Path>,
) -> BoxStream<'static, Result<ObjectMeta>> {
    let under = under.cloned();
    let is_shown = move |meta: &Result<ObjectMeta>| match meta {
        Ok(meta) => !is_hidden(&meta.location, under.as_ref()),
        Err(_) => true,
    };
    let found = found.filter(move |meta| std::future::ready(is_shown(meta)));
    found.boxed()
}

/// The local files that the pattern `url` matches, where its own text begins a name with `.`
/// or `_` behind the first wildcard: it names what is hidden, and what a store does not list
/// is to be looked for. `None`: it does not. `ignore_subdirectory` as DataFusion has it.
///
/// # Errors
/// A folder that cannot be read.
pub async fn hidden_by_name(
    url: &ListingTableUrl,
    ignore_subdirectory: bool,
) -> Result<Option<Vec<String>>> {
    let Some(glob) = url.get_glob() else {
        return Ok(None);
    };
    if !glob.as_str().split(DELIMITER).any(is_hidden_name) {
        return Ok(None);
    }
    let all = LocalFileSystem::new();
    let mut listed = all.list(Some(url.prefix()));
    let mut found = vec![];
    while let Some(meta) = listed.next().await {
        let path = meta?.location;
        if url.contains(&path, ignore_subdirectory) {
            let path = all.path_to_filesystem(&path)?;
            found.push(path.to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(Some(found))
}

impl fmt::Display for VisibleFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for VisibleFiles {
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        visible(self.0.list(prefix), prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        visible(self.0.list_with_offset(prefix, offset), prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.0.list_with_delimiter(prefix).await?;
        found
            .objects
            .retain(|meta| !is_hidden(&meta.location, prefix));
        found
            .common_prefixes
            .retain(|path| !is_hidden(path, prefix));
        Ok(found)
    }

    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(to, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(paths)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn names_below_the_folder_hide_and_its_own_does_not() {
        let store = InMemory::new();
        for path in [
            "t/a.csv",
            "t/_a=1/b.csv",
            "t/_SUCCESS",
            "t/.a.csv.crc",
            "t/_temporary/0/c.csv",
            "t/x/.tmp/d.csv",
            "_t/e.csv",
        ] {
            store.put(&Path::from(path), "x".into()).await.unwrap();
        }
        let store = VisibleFiles(Arc::new(store));
        let listed = |folder: Option<&str>| {
            let found = store.list(folder.map(Path::from).as_ref());
            found
                .map_ok(|meta| meta.location.to_string())
                .try_collect::<Vec<_>>()
        };
        let mut all = listed(None).await.unwrap();
        all.sort();
        assert_eq!(all, ["t/_a=1/b.csv", "t/a.csv"]);
        assert_eq!(listed(Some("_t")).await.unwrap(), ["_t/e.csv"]);
        assert_eq!(
            listed(Some("t/_temporary")).await.unwrap(),
            ["t/_temporary/0/c.csv"]
        );
        let found = store
            .list_with_delimiter(Some(&Path::from("t")))
            .await
            .unwrap();
        assert_eq!((found.objects.len(), found.common_prefixes.len()), (1, 2));
        // Named itself, it is read.
        assert_eq!(store.head(&Path::from("t/_SUCCESS")).await.unwrap().size, 1);
    }
}
