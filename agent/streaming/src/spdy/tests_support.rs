//! What the tests of several modules need.

use flate2::{Compress, Compression, FlushCompress};

use super::dictionary::DICTIONARY;

/// Bytes from hexadecimal digits.
pub fn unhex(digits: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("hexadecimal digit") as u8;
    digits.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// A client's deflater: preset dictionary, one stream, a sync flush for each block.
pub struct Deflater {
    stream: Compress,
}

impl Deflater {
    pub fn new() -> Self {
        let mut stream = Compress::new(Compression::best(), true);
        stream.set_dictionary(&DICTIONARY).expect("dictionary");
        Self { stream }
    }

    pub fn deflate(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut block = Vec::with_capacity(plain.len() + 1024);
        self.stream.compress_vec(plain, &mut block, FlushCompress::Sync).expect("deflate");
        assert!(block.len() < block.capacity());
        block
    }
}
