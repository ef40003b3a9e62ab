//! A registry on loopback that has what a test puts on it, under any media type: images as builders and caches write
//! them, which a real registry would not take from us.

use std::{
    collections::HashMap,
    fs,
    net::TcpStream,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    place, process,
    registry::{blob, digest_of, read_json},
    server::{Server, send},
};

/// Documents that lie on it, by the last part of their paths: a tag or a digest.
type Documents = Arc<Mutex<HashMap<String, Document>>>;

#[derive(Debug, Clone)]
struct Document {
    /// Empty: no Content-Type is sent.
    kind: String,
    bytes: Vec<u8>,
}

/// It serves until it is dropped.
#[derive(Debug)]
pub struct Shelf {
    server: Server,
    documents: Documents,
    dir: tempfile::TempDir,
}

impl Shelf {
    /// An empty one. What it has not is looked for among the blobs of the test images.
    pub fn open() -> Result<Self> {
        let documents = Documents::default();
        let server = Server::start({
            let documents = documents.clone();
            move |stream, method, path, _| {
                let known = documents.lock().unwrap_or_else(PoisonError::into_inner);
                let found = path.split('?').next().and_then(|path| path.rsplit('/').next());
                let found = found.and_then(|name| known.get(name).cloned().or_else(|| test_blob(name)));
                drop(known);
                answer(stream, method, path, found)
            }
        })?;
        let dir = tempfile::Builder::new().prefix("hf-shelf-").tempdir().context("make a directory")?;
        Ok(Self { server, documents, dir })
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> &str {
        &self.server.address
    }

    /// The image that a manifest was put on it for.
    pub fn image(&self, tag: &str) -> String {
        format!("{}/found:{tag}", self.address())
    }

    /// Puts a blob on it and returns its descriptor, without a media type.
    pub fn blob(&self, bytes: &[u8]) -> Result<Value> {
        let digest = self.digest(bytes)?;
        self.put(&digest, "application/octet-stream", bytes);
        Ok(json!({ "digest": digest, "size": bytes.len() }))
    }

    /// Puts a manifest or an index on it, under a tag and under its digest, and returns its descriptor. `kind`: the
    /// Content-Type that is sent with it; empty: none.
    pub fn manifest(&self, tag: &str, kind: &str, document: &Value) -> Result<Value> {
        let bytes = document.to_string().into_bytes();
        let digest = self.digest(&bytes)?;
        self.put(tag, kind, &bytes);
        self.put(&digest, kind, &bytes);
        Ok(json!({ "mediaType": document["mediaType"], "digest": digest, "size": bytes.len() }))
    }

    /// Answers this to every request for that tag or digest.
    pub fn put(&self, name: &str, kind: &str, bytes: &[u8]) {
        let document = Document { kind: kind.to_owned(), bytes: bytes.to_vec() };
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), document);
    }

    fn digest(&self, bytes: &[u8]) -> Result<String> {
        let file = self.dir.path().join("blob");
        fs::write(&file, bytes).context("write a blob")?;
        let text = process::stdout("sha256sum", [&file])?;
        let hex = text.split_whitespace().next().context("sha256sum says nothing")?;
        ensure!(hex.len() == 64, "sha256sum says {text}");
        Ok(format!("sha256:{hex}"))
    }
}

/// The manifest and the configuration of a test image.
pub fn test_image(name: &str) -> Result<(Value, Value)> {
    let layout = place::images();
    let manifest = read_json(&blob(&layout, &digest_of(name)?))?;
    let config = manifest["config"]["digest"].as_str().context("a manifest without configuration")?;
    let config = read_json(&blob(&layout, config))?;
    Ok((manifest, config))
}

/// The bytes of a test image's blob, decompressed by gzip.
pub fn decompressed(digest: &str) -> Result<Vec<u8>> {
    let output = process::run(Command::new("gzip").arg("-dc").arg(blob(&place::images(), digest)))?;
    ensure!(output.status.success(), "gzip: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

fn test_blob(name: &str) -> Option<Document> {
    let bytes = fs::read(blob(&place::images(), name)).ok().filter(|_| name.starts_with("sha256:"))?;
    Some(Document { kind: "application/octet-stream".to_owned(), bytes })
}

fn answer(stream: &TcpStream, method: &str, path: &str, found: Option<Document>) -> Result<()> {
    let found =
        found.or_else(|| (path == "/v2/").then(|| Document { kind: String::new(), bytes: b"{}".into() }));
    match found {
        Some(Document { kind, bytes }) => send(stream, method, "200 OK", &kind, "", &bytes, bytes.len()),
        None => send(stream, method, "404 Not Found", "application/json", "", b"{}", 2),
    }
}
