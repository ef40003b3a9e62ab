//! A registry that misbehaves, in one chosen way, while it serves one of the test images.

use std::{
    fs,
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use serde_json::Value;

use crate::{
    place,
    registry::{blob, digest_of, read_json},
    server::{Server, send},
};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vice {
    /// Nothing: the control that the others are compared with.
    None,
    /// 401 to everything, without a way to log in.
    Unauthorized,
    /// A layer is not what its digest says.
    Digest,
    /// A layer is longer than its manifest says.
    Longer,
    /// A layer is shorter than its manifest says.
    Shorter,
    /// A layer begins and never goes on.
    Stall,
    /// 500 to everything.
    Broken,
    /// A manifest that is no JSON.
    Garbage,
}

/// It serves until it is dropped.
#[derive(Debug)]
pub struct Hostile {
    /// `127.0.0.1:<port>`.
    pub address: String,
    _server: Server,
}

impl Hostile {
    /// Serves the test image `name` under every repository and tag.
    pub fn serve(name: &str, vice: Vice) -> Result<Self> {
        let digest = digest_of(name)?;
        let server = Server::start(move |stream, method, path, closed| {
            answer(stream, method, path, &digest, vice, closed)
        })?;
        Ok(Self { address: server.address.clone(), _server: server })
    }

    /// Its image.
    pub fn image(&self) -> String {
        format!("{}/hostile:1", self.address)
    }
}

fn answer(
    mut stream: &TcpStream,
    method: &str,
    path: &str,
    digest: &str,
    vice: Vice,
    closed: &AtomicBool,
) -> Result<()> {
    let layout = place::images();
    let failure = match vice {
        Vice::Unauthorized => {
            Some(("401 Unauthorized", r#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#))
        }
        Vice::Broken => Some(("500 Internal Server Error", "oops")),
        _ => None,
    };
    if let Some((status, body)) = failure {
        return send(stream, method, status, "application/json", "", body.as_bytes(), body.len());
    }
    if path == "/v2/" {
        return send(stream, method, "200 OK", "application/json", "", b"{}", 2);
    }
    if path.contains("/manifests/") {
        let manifest = read_json(&blob(&layout, digest))?;
        let bytes = fs::read(blob(&layout, digest))?;
        let bytes = if vice == Vice::Garbage { b"<html>no manifest</html>".to_vec() } else { bytes };
        let kind = manifest["mediaType"].as_str().unwrap_or("application/json");
        return send(stream, method, "200 OK", kind, digest, &bytes, bytes.len());
    }
    let wanted = path.rsplit('/').next().unwrap_or_default();
    let Ok(mut bytes) = fs::read(blob(&layout, wanted)) else {
        return send(stream, method, "404 Not Found", "application/json", "", b"{}", 2);
    };
    if is_layer(&read_json(&blob(&layout, digest))?, wanted) {
        let middle = bytes.len() / 2;
        match vice {
            Vice::Digest => bytes[middle] ^= 0xff,
            Vice::Longer => bytes.extend_from_slice(&[0; 1000]),
            Vice::Shorter => bytes.truncate(middle),
            Vice::Stall => {
                send(stream, method, "200 OK", OCTETS, "", &bytes[..middle], bytes.len())?;
                while !closed.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            _ => {}
        }
    }
    send(stream, method, "200 OK", OCTETS, "", &bytes, bytes.len())?;
    Ok(stream.flush()?)
}

const OCTETS: &str = "application/octet-stream";

fn is_layer(manifest: &Value, digest: &str) -> bool {
    manifest["layers"].as_array().into_iter().flatten().any(|layer| layer["digest"] == digest)
}
