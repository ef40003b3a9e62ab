//! A store in a directory of its own, and what all tests ask of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use holdfast_image::{Error, Holders, RegistrySettings, Store, StoreConfig};
use holdfast_model::Image;

/// Without root nothing can be unpacked.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: unpacking layers needs root (chown, whiteouts)");
            return;
        }
    };
}

pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(1);

pub struct Bed {
    directory: tempfile::TempDir,
    pub store: Store,
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(3).await
    }

    /// So many downloads at once.
    pub async fn with(parallel: usize) -> Self {
        Self::made(parallel, |_| ()).await
    }

    /// After `prepare` has been at the directory in which the store's will be.
    pub async fn made(parallel: usize, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let store = open(directory.path(), parallel, Holders::default()).await.unwrap();
        Self { directory, store }
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("images")
    }

    /// Where hosts.toml files go.
    pub fn hosts(&self, registry: &str, text: &str) {
        let directory = self.directory.path().join("hosts").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), text).unwrap();
    }

    /// Ends the store, lets `between` at its directory, and opens it again, with nobody who holds an image.
    pub async fn reopen(self, between: impl FnOnce(&Path)) -> Self {
        self.reopen_for(Holders::default(), between).await
    }

    /// The same with these holders.
    pub async fn reopen_for(self, holders: Holders, between: impl FnOnce(&Path)) -> Self {
        let Self { directory, store } = self;
        drop(store);
        between(&directory.path().join("images"));
        // The last of the store's own tasks may still hold the directory for a moment.
        let mut last = None;
        for _ in 0..200 {
            match open(directory.path(), 3, holders.clone()).await {
                Ok(store) => return Self { directory, store },
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store does not open: {last:?}");
    }

    pub async fn pull(&self, name: &str) -> Result<Arc<Image>, Error> {
        self.store.pull(name, None, None).await
    }

    /// Names in one of the store's directories.
    pub fn names(&self, directory: &str) -> Vec<String> {
        names(&self.root().join(directory))
    }

    /// Waits until work and trash are empty, and says what else there is.
    pub async fn settled(&self) {
        for _ in 0..500 {
            if self.names("work").is_empty() && self.names("trash").is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("left: work {:?}, trash {:?}", self.names("work"), self.names("trash"));
    }

    /// No image, no layer, no blob, nothing in progress.
    pub async fn assert_empty(&self) {
        self.settled().await;
        assert!(self.store.list().is_empty());
        for directory in ["layers", "directories", "blobs/sha256"] {
            assert_eq!(self.names(directory), Vec::<String>::new(), "{directory}");
        }
        assert_eq!(self.names("images"), ["whole"]);
        assert_eq!(self.store.usage().await.unwrap(), holdfast_image::Usage::default());
    }

    /// Layers, directories and blobs on disk are those that the images have.
    pub async fn assert_consistent(&self) {
        self.settled().await;
        let images = self.store.list();
        let under = |part: &str| -> std::collections::BTreeSet<String> {
            let paths = images.iter().flat_map(|image| &image.layers);
            let inside = paths.filter_map(|path| path.strip_prefix(self.root().join(part)).ok());
            inside
                .map(|path| path.components().next().unwrap().as_os_str().to_str().unwrap().to_owned())
                .collect()
        };
        for part in ["layers", "directories"] {
            assert_eq!(
                self.names(part).into_iter().collect::<std::collections::BTreeSet<_>>(),
                under(part),
                "{part}"
            );
        }
        let records = images.iter().map(|image| format!("{}.json", &image.id["sha256:".len()..]));
        let records: Vec<String> = records.chain(["whole".to_owned()]).collect();
        assert_eq!(self.names("images"), records);
        for image in &images {
            assert!(self.names("blobs/sha256").contains(&image.id["sha256:".len()..].to_owned()));
            assert!(image.layers.iter().all(|layer| layer.is_dir()));
        }
    }
}

pub async fn open(directory: &Path, parallel: usize, holders: Holders) -> Result<Store, Error> {
    let config = StoreConfig {
        root: directory.join("images"),
        registry: RegistrySettings {
            config_dir: directory.join("hosts"),
            max_parallel_downloads: parallel,
            progress_timeout: PROGRESS_TIMEOUT,
        },
    };
    Store::open(config, holders).await
}

/// Owners with the images that they hold.
pub fn holders(held: &[(&str, &str)]) -> Holders {
    let mut holders = Holders::default();
    for (owner, image) in held {
        holders.images.entry((*owner).to_owned()).or_default().push((*image).to_owned());
    }
    holders
}

pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file as a container would see it: of the topmost layer that has it.
pub fn seen(image: &Image, path: &str) -> Option<String> {
    image.layers.iter().rev().find_map(|layer| std::fs::read_to_string(layer.join(path)).ok())
}

/// Waits for a condition, with a bound.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
