//! From the bytes of a blob to the bytes of a tar archive, with both digests.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest as _, Sha256};

use super::fault::{Fault, TooMuch};
use crate::digest::Digest;

/// Counts what passes.
pub(crate) struct Bounded<'a, R> {
    inner: R,
    count: u64,
    limit: u64,
    stop: &'a AtomicBool,
}

impl<'a, R: Read> Bounded<'a, R> {
    /// More bytes than `limit` are an error that holds [`TooMuch`]; so is `stop`, once it is set.
    pub(crate) fn new(inner: R, limit: u64, stop: &'a AtomicBool) -> Self {
        Self { inner, count: 0, limit, stop }
    }
}

impl<R: Read> Read for Bounded<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "nobody waits for it any more"));
        }
        let got = self.inner.read(buffer)?;
        self.count += got as u64;
        if self.count > self.limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, TooMuch(self.limit)));
        }
        Ok(got)
    }
}

/// Hashes and counts what passes.
pub(crate) struct Hashing<'a, R> {
    inner: Bounded<'a, R>,
    hasher: Sha256,
}

impl<'a, R: Read> Hashing<'a, R> {
    /// With the limits of [`Bounded`].
    pub(crate) fn new(inner: R, limit: u64, stop: &'a AtomicBool) -> Self {
        Self { inner: Bounded::new(inner, limit, stop), hasher: Sha256::new() }
    }

    /// Reads what is left, then digest and size of all.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest::from_hash(self.hasher.finalize().into()), self.inner.count))
    }
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

/// Decompresses by what the first bytes are; media types lie too often to decide.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> Result<Box<dyn Read + 'a>, Fault> {
    let mut source = BufReader::with_capacity(128 << 10, source);
    // The first read may bring fewer bytes than the longest magic number: collect six.
    let mut head = Vec::new();
    (&mut source).take(6).read_to_end(&mut head).map_err(Fault::read)?;
    let kind = head.clone();
    let source = io::Cursor::new(head).chain(source);
    match kind.as_slice() {
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(source))),
        // A zstd frame, or one that decoders skip (zstd:chunked begins with data frames, others may not).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Ok(Box::new(zstd_decoder(source)?))
        }
        [b'B', b'Z', b'h', ..] => Err(Fault::Unsupported("bzip2 is not supported: use gzip or zstd".into())),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Err(Fault::Unsupported("xz is not supported: use gzip or zstd".into()))
        }
        _ => Ok(Box::new(source)),
    }
}

fn zstd_decoder<'a, R: BufRead + 'a>(source: R) -> Result<impl Read + 'a, Fault> {
    let mut decoder = zstd::Decoder::with_buffer(source).map_err(Fault::read)?;
    // 128 MiB, which is also libzstd's own limit: a frame cannot make us hold more.
    decoder.window_log_max(27).map_err(Fault::read)?;
    Ok(decoder)
}
