//! Addresses of runs in object stores: `s3://bucket/path` and the like.

use crate::error::StoreError;
use object_store::path::Path as Key;
use object_store::ObjectStoreScheme;
use std::path::{Component, Path, PathBuf};
use url::Url;

/// What an address begins with, and the kind of store that it means.
pub const SCHEMES: &str = "s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, http:// or https://";

/// Whether a path is an address of an object store, and no folder of this machine: it begins with letters and `://`.
pub fn is_address(path: &Path) -> bool {
    let scheme = path.to_str().and_then(|path| path.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// An address, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) url: Url,
    pub(crate) scheme: ObjectStoreScheme,
    /// The path within the bucket.
    pub(crate) prefix: Key,
    /// The address as it is printed, without a slash at its end. Paths of files begin with it.
    pub(crate) root: PathBuf,
}

impl Address {
    pub(crate) fn parse(address: &Path) -> Result<Self, StoreError> {
        let text = address.to_str().unwrap_or_default().trim_end_matches('/');
        let wrong = |what: String| StoreError::Address { address: address.to_owned(), what };
        let url = Url::parse(text).map_err(|error| wrong(format!("it is no address ({error})")))?;
        if !url.username().is_empty() && !matches!(url.scheme(), "abfs" | "abfss") || url.password().is_some() {
            return Err(wrong(
                "it holds a name or a password, which would be printed: use environment variables".into(),
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(
                "it has a `?` or a `#`: signed addresses of single files are no address of a run".into(),
            ));
        }
        let parsed = ObjectStoreScheme::parse(&url);
        let (scheme, prefix) = parsed.map_err(|_| wrong(format!("its kind is not known: {SCHEMES}")))?;
        if matches!(scheme, ObjectStoreScheme::Local | ObjectStoreScheme::Memory) {
            return Err(wrong(format!("its kind is not known: {SCHEMES}, or the path of a folder")));
        }
        Ok(Self { scheme, prefix, root: PathBuf::from(text), url })
    }

    /// The key of a file of the run, or of a folder. `None` if the path is outside the run.
    pub(crate) fn key(&self, path: &Path) -> Option<Key> {
        let inside = path.strip_prefix(&self.root).ok()?;
        let mut key = self.prefix.clone();
        for part in inside.components() {
            let Component::Normal(name) = part else { return None };
            key = key.join(name.to_str()?);
        }
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_folders() {
        for address in ["s3://b/run", "gs://b", "https://host/run/", "abfss://c@a.dfs.core.windows.net/run"] {
            assert!(is_address(Path::new(address)), "{address}");
        }
        for folder in ["runs/mnist", "/tmp/run", "C:\\runs", "://x", "s3:/b/run", "a b://c"] {
            assert!(!is_address(Path::new(folder)), "{folder}");
        }
    }

    #[test]
    fn keys_lie_below_the_run() {
        let address = Address::parse(Path::new("s3://bucket/runs/big run/")).unwrap();
        let file = address.root.join("worker-0001").join("manifest");
        assert_eq!(address.key(&file).unwrap().as_ref(), "runs/big run/worker-0001/manifest");
        assert_eq!(address.key(&address.root).unwrap().as_ref(), "runs/big run");
        assert_eq!(address.root.display().to_string(), "s3://bucket/runs/big run");
        for outside in ["s3://bucket/runs", "s3://other/runs/big run/manifest", "/etc/passwd"] {
            assert_eq!(address.key(Path::new(outside)), None, "{outside}");
        }
        let whole = Address::parse(Path::new("s3://bucket")).unwrap();
        assert_eq!(whole.key(&whole.root.join("manifest")).unwrap().as_ref(), "manifest");
    }

    #[test]
    fn what_is_no_address_of_a_run_is_refused() {
        for (address, why) in [
            ("ftp://host/run", "its kind is not known"),
            ("file:///tmp/run", "or the path of a folder"),
            ("memory:///run", "or the path of a folder"),
            ("s3://key:secret@bucket/run", "environment variables"),
            ("https://host/run?X-Amz-Signature=1", "signed"),
            ("s3://", "its kind is not known"),
        ] {
            let error = Address::parse(Path::new(address)).unwrap_err().to_string();
            assert!(error.contains(why), "{address}: {error}");
        }
    }
}
