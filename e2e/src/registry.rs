//! A registry on a free loopback port: Debian's docker-registry, filled once with the test images.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{http, place, process::Process, wait};

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    /// `127.0.0.1:<port>`, which is also the first part of its images' names.
    pub address: String,
}

impl Registry {
    /// Starts one that has all test images; `dir` is for its configuration.
    pub fn start(dir: &Path) -> Result<Self> {
        Self::with_images(&place::images(), dir)
    }

    /// Starts one that has all images of a layout.
    pub fn with_images(layout: &Path, dir: &Path) -> Result<Self> {
        let storage = storage(layout)?;
        if !storage.exists() {
            let fresh = storage.with_extension(format!("tmp-{}", std::process::id()));
            let filling = Self::with_storage(&fresh, dir)?;
            filling.push_layout(layout)?;
            drop(filling);
            fs::rename(&fresh, &storage).with_context(|| format!("rename {}", fresh.display()))?;
        }
        Self::with_storage(&storage, dir)
    }

    /// Starts one over a storage directory of the caller's.
    pub fn with_storage(storage: &Path, dir: &Path) -> Result<Self> {
        let config = dir.join("registry.yml");
        let log = fs::File::create(dir.join("registry.log")).context("create the registry's log")?;
        let listener = TcpListener::bind("127.0.0.1:0").context("find a free port")?;
        let address = listener.local_addr().context("read a free port")?.to_string();
        drop(listener);
        let text = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
             enabled: true\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        fs::write(&config, text).context("write the registry's configuration")?;
        let mut command = Command::new(place::registry());
        command.arg("serve").arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone().context("open the registry's log")?).stderr(log);
        let mut process = Process::spawn(&mut command)?;
        wait::until("the registry's port", wait::LIMIT, || {
            ensure!(
                process.ended()?.is_none(),
                "the registry ended: see {}",
                dir.join("registry.log").display()
            );
            Ok(TcpStream::connect(&address).is_ok().then_some(()))
        })?;
        Ok(Self { process, address })
    }

    /// Writes a `hosts.toml` for each of these hosts, which names this registry in its place.
    pub fn stand_in(&self, directory: &Path, hosts: &[&str]) -> Result<()> {
        hosts.iter().try_for_each(|host| write_mirror(directory, host, &self.address))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Stops it, as if its machine were gone.
    pub fn stop(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// An image of it by repository and tag or digest (`:tag`, `@sha256:...`).
    pub fn image(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Pushes every named image of a layout. The registry's name in front is dropped: mirrors put it back.
    pub fn push_layout(&self, layout: &Path) -> Result<()> {
        let index = read_json(&layout.join("index.json"))?;
        for entry in index["manifests"].as_array().context("an index without manifests")? {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            let name = name.context("an image without a name")?;
            let (_, path) = name.split_once('/').with_context(|| format!("{name}: no registry"))?;
            let (repository, tag) = path.rsplit_once(':').with_context(|| format!("{name}: no tag"))?;
            self.push(layout, repository, tag, entry).with_context(|| format!("push {name}"))?;
        }
        Ok(())
    }

    /// Pushes a manifest or an index and all below it.
    fn push(&self, layout: &Path, repository: &str, reference: &str, entry: &Value) -> Result<()> {
        let digest = entry["digest"].as_str().context("a descriptor without digest")?;
        let kind = entry["mediaType"].as_str().context("a descriptor without media type")?;
        let document = read_json(&blob(layout, digest))?;
        for child in document["manifests"].as_array().into_iter().flatten() {
            let digest = child["digest"].as_str().context("a descriptor without digest")?;
            self.push(layout, repository, digest, child)?;
        }
        for child in document["layers"].as_array().into_iter().flatten().chain(document.get("config")) {
            let digest = child["digest"].as_str().context("a descriptor without digest")?;
            self.push_blob(layout, repository, digest)?;
        }
        let bytes = fs::read(blob(layout, digest)).context("read a manifest")?;
        let path = format!("/v2/{repository}/manifests/{reference}");
        self.expect(201, "PUT", &path, kind, &bytes).map(|_| ())
    }

    fn push_blob(&self, layout: &Path, repository: &str, digest: &str) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        if http::request(&self.address, "HEAD", &path, OCTETS, b"")?.status == 200 {
            return Ok(());
        }
        let uploads = format!("/v2/{repository}/blobs/uploads/");
        let begun = self.expect(202, "POST", &uploads, OCTETS, b"")?;
        let location = begun.header("location").context("an upload without location")?;
        let joint = if location.contains('?') { '&' } else { '?' };
        let bytes = fs::read(blob(layout, digest)).context("read a blob")?;
        self.expect(201, "PUT", &format!("{location}{joint}digest={digest}"), OCTETS, &bytes).map(|_| ())
    }

    fn expect(&self, status: u16, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<http::Answer> {
        let answer = http::request(&self.address, method, path, kind, body)?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == status, "{method} {path}: {} instead of {status}: {text}", answer.status);
        Ok(answer)
    }
}

const OCTETS: &str = "application/octet-stream";

/// Writes `DIRECTORY/HOST/hosts.toml`: all of the host's images come from `server`.
pub fn write_mirror(directory: &Path, host: &str, server: &str) -> Result<()> {
    let dir = directory.join(host);
    fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let text = format!(
        "server = \"http://{server}\"\n[host.\"http://{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    fs::write(dir.join("hosts.toml"), text).context("write hosts.toml")
}

/// The digest of a named image of the layout.
pub fn digest_of(name: &str) -> Result<String> {
    let index = read_json(&place::images().join("index.json"))?;
    let entries = index["manifests"].as_array().context("an index without manifests")?;
    let found =
        entries.iter().find(|entry| entry["annotations"]["org.opencontainers.image.ref.name"] == name);
    let digest = found.and_then(|entry| entry["digest"].as_str());
    digest.map(str::to_owned).with_context(|| format!("no test image is named {name}"))
}

/// Where a layout keeps a blob.
pub fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// A filled storage is kept from run to run, one for each set of images.
fn storage(layout: &Path) -> Result<PathBuf> {
    let index = layout.join("index.json");
    let bytes = fs::read(&index).with_context(|| format!("read {}", index.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(place::cache().join(format!("registry-{:016x}", hasher.finish())))
}

/// Reads a JSON file.
pub fn read_json(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {}", path.display()))
}
