//! As much HTTP/1.1 as a push to a registry on loopback needs.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A registry gives an OCI manifest only to whom says that it reads one.
const ACCEPT: &str =
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

/// Sends one request on a connection of its own. `path` may be an absolute URL, as in a Location header.
pub fn request(address: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
    let path = match path.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => path,
    };
    let what = || format!("{method} http://{address}{path}");
    let mut stream = TcpStream::connect(address).with_context(what)?;
    stream.set_read_timeout(Some(Duration::from_mins(1))).with_context(what)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: {ACCEPT}\r\nContent-Type: {kind}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).with_context(what)?;
    stream.write_all(body).with_context(what)?;
    answer(stream, method).with_context(what)
}

fn answer(stream: TcpStream, method: &str) -> Result<Answer> {
    let mut reader = BufReader::new(stream);
    let first = line(&mut reader)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(|| format!("no status in {first:?}"))?;
    let mut headers = Vec::new();
    loop {
        let text = line(&mut reader)?;
        if text.is_empty() {
            break;
        }
        if let Some((name, value)) = text.split_once(':') {
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    if method == "HEAD" {
        return Ok(answer);
    }
    if answer.header("transfer-encoding").is_some() {
        bail!("a chunked answer, which this client does not read");
    }
    match answer.header("content-length").map(str::parse::<u64>) {
        Some(Ok(length)) => reader.take(length).read_to_end(&mut answer.body)?,
        _ => reader.read_to_end(&mut answer.body)?,
    };
    Ok(answer)
}

fn line(reader: &mut impl BufRead) -> Result<String> {
    let mut text = String::new();
    reader.read_line(&mut text).context("read a header")?;
    Ok(text.trim_end().to_owned())
}
