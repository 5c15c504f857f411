//! A run's folder in an object store, as a place that the reader of runs can read.

use crate::address::Address;
use crate::cache::Cache;
use crate::client::{Client, Requests};
use crate::error::StoreError;
use crate::options::Options;
use crate::remote_file::{RemoteFile, Shared};
use gradlog_format::run::{Place, ReadAt, Run};
use object_store::path::Path as Key;
use object_store::ObjectStoreScheme;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A run's folder in an object store.
///
/// The names of its files are read once, at the first question: it is the folder as it was then. A file that is
/// replaced after its first byte was read is an error, and so is one that is gone. After the first refusal everything
/// is refused: open the run again.
#[derive(Debug)]
pub struct Store {
    pub(crate) address: Address,
    shared: Arc<Shared>,
    names: Names,
}

/// How it is known which files there are.
#[derive(Debug)]
enum Names {
    /// From one list of all names below the run, by the path within the run.
    Listed(OnceLock<BTreeMap<String, Arc<RemoteFile>>>),
    /// By asking for each: few servers of plain HTTP list names. `None` for a file that is not there.
    Asked(Mutex<HashMap<String, Option<Arc<RemoteFile>>>>),
}

impl Store {
    /// The store of an address such as `s3://bucket/path`. Nothing is asked of it yet.
    ///
    /// # Errors
    /// [`StoreError::Address`] if it is no address, [`StoreError::Request`] if the settings in environment variables do
    /// not fit.
    pub fn open(address: impl AsRef<Path>, options: Options) -> Result<Self, StoreError> {
        let address = Address::parse(address.as_ref())?;
        let cache = Cache::new(options.cache_bytes);
        let names = match address.scheme {
            ObjectStoreScheme::Http => Names::Asked(Mutex::default()),
            _ => Names::Listed(OnceLock::new()),
        };
        let shared = Arc::new(Shared::new(Client::connect(&address, options)?, cache));
        Ok(Self { address, shared, names })
    }

    /// The run's address, without a slash at its end. Paths of its files begin with it.
    pub fn root(&self) -> &Path {
        &self.address.root
    }

    /// What was asked of the store so far.
    pub fn requests(&self) -> Requests {
        self.shared.client.requests()
    }

    pub(crate) fn client(&self) -> &Client {
        &self.shared.client
    }

    /// The path of a file within the run, with `/` between folders. `None` if it is outside of the run.
    fn inside(&self, path: &Path) -> Option<String> {
        let inside = path.strip_prefix(self.root()).ok()?;
        let parts = inside.components().map(|part| match part {
            Component::Normal(name) => name.to_str(),
            _ => None,
        });
        Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
    }

    fn key(&self, path: &Path) -> io::Result<Key> {
        self.address.key(path).ok_or_else(|| io::Error::other("this is no file of the run"))
    }

    fn listed<'a>(
        &self,
        names: &'a OnceLock<BTreeMap<String, Arc<RemoteFile>>>,
    ) -> io::Result<&'a BTreeMap<String, Arc<RemoteFile>>> {
        if let Some(known) = names.get() {
            return Ok(known);
        }
        let client = self.client();
        let found = self.shared.ask(|| client.wait(client.list(&self.address.prefix)))?;
        let files = found.into_iter().zip(0..).filter_map(|((key, bytes), number)| {
            let parts: Option<Vec<String>> =
                key.prefix_match(&self.address.prefix).map(|parts| parts.map(|part| part.as_ref().into()).collect());
            let file = RemoteFile::new(self.shared.clone(), key.clone(), number, bytes);
            Some((parts?.join("/"), Arc::new(file)))
        });
        let files = files.collect();
        Ok(names.get_or_init(|| files))
    }

    /// The file, asked for with a request of its own unless that was done.
    fn asked(
        &self,
        names: &Mutex<HashMap<String, Option<Arc<RemoteFile>>>>,
        path: &Path,
        inside: String,
    ) -> io::Result<Option<Arc<RemoteFile>>> {
        if let Some(known) = names.lock().unwrap_or_else(PoisonError::into_inner).get(&inside) {
            return Ok(known.clone());
        }
        let (client, key) = (self.client(), self.key(path)?);
        let about = self.shared.ask(|| client.wait(client.look(&key)))?;
        let mut names = names.lock().unwrap_or_else(PoisonError::into_inner);
        let number = names.len() as u64;
        let file = about.map(|about| Arc::new(RemoteFile::new(self.shared.clone(), key, number, about.bytes)));
        Ok(names.entry(inside).or_insert(file).clone())
    }
}

/// The names directly in a folder, from a list of all below the run.
fn names_in(files: &BTreeMap<String, Arc<RemoteFile>>, folder: &str) -> Vec<String> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let below = files.range(prefix.clone()..).map_while(|(name, _)| name.strip_prefix(&prefix));
    let names: BTreeSet<&str> = below.map(|name| name.split_once('/').map_or(name, |(folder, _)| folder)).collect();
    names.into_iter().map(Into::into).collect()
}

impl Place for Store {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadAt>> {
        let Some(inside) = self.inside(path) else { return Err(io::ErrorKind::NotFound.into()) };
        match &self.names {
            Names::Listed(names) => {
                let files = self.listed(names)?;
                match files.get(&inside) {
                    Some(file) => Ok(file.clone()),
                    None if !names_in(files, &inside).is_empty() => {
                        Err(io::Error::new(io::ErrorKind::InvalidData, "it is no file, but a folder"))
                    }
                    None => Err(io::ErrorKind::NotFound.into()),
                }
            }
            Names::Asked(names) => match self.asked(names, path, inside)? {
                Some(file) => Ok(file),
                None => Err(io::ErrorKind::NotFound.into()),
            },
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let Some(inside) = self.inside(path) else { return Ok(false) };
        match &self.names {
            Names::Listed(names) => {
                let files = self.listed(names)?;
                Ok(files.contains_key(&inside) || !names_in(files, &inside).is_empty())
            }
            // A server of plain HTTP knows no folders, and what is not known is not said to be missing.
            Names::Asked(_) if inside.is_empty() => Ok(true),
            Names::Asked(names) => Ok(self.asked(names, path, inside)?.is_some()),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let Some(inside) = self.inside(folder) else { return Err(io::ErrorKind::NotFound.into()) };
        let names = match &self.names {
            Names::Listed(names) => names_in(self.listed(names)?, &inside),
            Names::Asked(_) => {
                let (client, key) = (self.client(), self.key(folder)?);
                let found = self.shared.ask(|| client.wait(client.list(&key))).map_err(|error| {
                    io::Error::other(format!(
                        "{error}; a server without WebDAV cannot list names: give the address of a folder with a \
                         manifest, such as that of one worker"
                    ))
                })?;
                let below =
                    found.iter().filter_map(|(name, _)| Some(name.prefix_match(&key)?.next()?.as_ref().to_owned()));
                below.collect::<BTreeSet<String>>().into_iter().collect()
            }
        };
        match names.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(names),
        }
    }

    fn refusal(&self) -> Option<io::Error> {
        self.shared.refusal()
    }

    fn reads_ahead(&self) -> bool {
        matches!(self.names, Names::Listed(_))
    }
}

/// Opens the run at an address such as `s3://bucket/path`. All questions can be asked of it that a run in a folder
/// answers.
///
/// # Errors
/// As [`Store::open`] and [`Run::open`].
pub fn open_run(address: impl AsRef<Path>, options: Options) -> Result<Run, StoreError> {
    let store = Store::open(address, options)?;
    let root = store.root().to_owned();
    let place: Arc<dyn Place> = Arc::new(store);
    Ok(Run::open_in(place, &root)?)
}
