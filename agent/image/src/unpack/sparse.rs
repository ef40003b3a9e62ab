//! Sparse files: the old GNU format, and PAX formats 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").

use std::io::Read;

use tar::Header;

use super::archive::{Archive, BLOCK, bad, too_large};
use super::fault::Fault;
use super::number::number;
use super::pax::{Extended, decimal};

impl<R: Read> Archive<'_, R> {
    /// Size of the file and where its data goes.
    pub(super) fn pieces(
        &mut self,
        header: &Header,
        flag: u8,
        size: u64,
        extended: &Extended,
    ) -> Result<(u64, Vec<(u64, u64)>), Fault> {
        if flag == b'S' {
            let real = header.as_gnu().and_then(|gnu| number(&gnu.realsize));
            let real = real.ok_or_else(|| bad(header, "a sparse file without its size"))?;
            // The map's continuation blocks stand between header and data and are not part of the size.
            let map = self.gnu_map(header)?;
            self.begin_data(size);
            return Ok((real, self.checked(map, size, real)?));
        }
        if extended.sparse_zero && extended.sparse_map.is_none() {
            return Err(Fault::Unsupported("sparse files of PAX format 0.0 are not supported".into()));
        }
        if let Some(map) = &extended.sparse_map {
            let numbers: Option<Vec<u64>> = map.split(|byte| *byte == b',').map(decimal).collect();
            let numbers = numbers.filter(|numbers| numbers.len() % 2 == 0);
            let numbers = numbers.ok_or_else(|| Fault::Corrupt("malformed GNU.sparse.map".into()))?;
            let real = extended
                .sparse_size
                .ok_or_else(|| Fault::Corrupt("a sparse file without its size".into()))?;
            return Ok((real, self.checked(pairs(&numbers), size, real)?));
        }
        match extended.sparse_major {
            None => Ok((size, vec![(0, size)])),
            Some(1) => {
                let real = extended
                    .sparse_size
                    .ok_or_else(|| Fault::Corrupt("a sparse file without its size".into()))?;
                let map = self.inline_map()?;
                let data = self.remaining;
                Ok((real, self.checked(map, data, real)?))
            }
            Some(_) => Err(Fault::Unsupported("this format of sparse files is not supported".into())),
        }
    }

    /// Old GNU format: four pieces in the header, then blocks of 21.
    fn gnu_map(&mut self, header: &Header) -> Result<Vec<(u64, u64)>, Fault> {
        let malformed = || Fault::Corrupt("malformed sparse map".into());
        let gnu = header.as_gnu().ok_or_else(malformed)?;
        let mut map = Vec::new();
        let mut take = |offset: &[u8], length: &[u8]| {
            if offset[0] == 0 && length[0] == 0 {
                return Ok(());
            }
            map.push((number(offset).ok_or_else(malformed)?, number(length).ok_or_else(malformed)?));
            Ok(())
        };
        for piece in &gnu.sparse {
            take(&piece.offset, &piece.numbytes)?;
        }
        let mut more = gnu.isextended[0] != 0;
        let mut blocks = 0;
        while more {
            blocks += 1;
            if blocks * 21 > self.limits.pieces {
                return Err(too_large("sparse map", self.limits.pieces as u64, "pieces"));
            }
            let mut block = [0_u8; BLOCK];
            self.reader.read_exact(&mut block).map_err(Fault::read)?;
            for piece in block[..504].chunks_exact(24) {
                take(&piece[..12], &piece[12..])?;
            }
            more = block[504] != 0;
        }
        Ok(map)
    }

    /// PAX format 1.0: decimal lines at the head of the data, padded to a block.
    fn inline_map(&mut self) -> Result<Vec<(u64, u64)>, Fault> {
        let mut block = [0_u8; BLOCK];
        let mut at = BLOCK;
        let mut line = || -> Result<u64, Fault> {
            let mut value = Vec::new();
            loop {
                if at == BLOCK {
                    self.read_exact_data(&mut block)?;
                    at = 0;
                }
                let byte = block[at];
                at += 1;
                if byte == b'\n' {
                    return decimal(&value).ok_or_else(|| Fault::Corrupt("malformed sparse map".into()));
                }
                value.push(byte);
                if value.len() > 20 {
                    return Err(Fault::Corrupt("malformed sparse map".into()));
                }
            }
        };
        let count = line()?;
        if count > 65_536 {
            return Err(too_large("sparse map", 65_536, "pieces"));
        }
        (0..count).map(|_| Ok((line()?, line()?))).collect()
    }

    /// Pieces in order, without overlap, inside the file, with exactly the data that is there.
    fn checked(&self, map: Vec<(u64, u64)>, data: u64, real: u64) -> Result<Vec<(u64, u64)>, Fault> {
        if map.len() > self.limits.pieces {
            return Err(too_large("sparse map", self.limits.pieces as u64, "pieces"));
        }
        let (mut end, mut sum) = (0_u64, 0_u64);
        for (offset, length) in &map {
            let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= real);
            end = next.ok_or_else(|| Fault::Corrupt("a sparse map leaves its file".into()))?;
            sum += length;
        }
        if sum != data {
            return Err(Fault::Corrupt("a sparse map and its data differ in size".into()));
        }
        Ok(map)
    }
}

fn pairs(numbers: &[u64]) -> Vec<(u64, u64)> {
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}
