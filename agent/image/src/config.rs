//! What the caller gives to the store and what it hears back.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// Where the store lives and what its limits are.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The store's own directory, `<root>/images`; made with mode 0700 when absent.
    pub root: PathBuf,
    /// How it pulls.
    pub registry: RegistrySettings,
}

/// How images are pulled; may change while the store is open.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// Directory of `<host[:port]>/hosts.toml`, as containerd reads them; may be absent.
    pub config_dir: PathBuf,
    /// Layers downloaded at once, over all pulls; at least one.
    pub max_parallel_downloads: usize,
    /// A registry that sends nothing for so long is given up.
    pub progress_timeout: Duration,
}

/// Which images containers hold, by the containers' records: what the store has to be told before it removes anything.
#[derive(Debug, Clone, Default)]
pub struct Holders {
    /// Ids of images, by the id of the container.
    pub images: HashMap<String, Vec<String>>,
    /// Containers of which nobody knows what they hold. As long as there is one, no layer is removed.
    pub unknown: HashSet<String>,
}

/// How far a pull is; given to the caller's function now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The reference that is pulled.
    pub reference: String,
    /// Layers that are ready, those included that were here before.
    pub layers_done: usize,
    /// Layers of the image.
    pub layers: usize,
    /// Compressed bytes downloaded by this pull.
    pub bytes: u64,
    /// Compressed bytes that this pull has to download.
    pub total_bytes: u64,
}

/// Where an import reads from.
pub enum ImportSource {
    /// An OCI layout directory, or a tar archive (plain, gzip or zstd) of an OCI layout or of `docker save`.
    Path(PathBuf),
    /// Such an archive as a stream.
    Reader(Box<dyn Read + Send>),
}

/// Disk use of the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of the unpacked layers and of the blobs that are kept.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}
