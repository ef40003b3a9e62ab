//! The one record by which the holder program says how far it came.
//!
//! Core only: the library and the holder program, which has no std, both compile this file.

/// Longest record in bytes.
pub const MAX_REPORT: usize = 512;

/// How far the holder came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// Why it went no further; 0: it is ready, or refused something itself.
    pub errno: i32,
    /// The holder as the host numbers it; 0: there is none.
    pub pid: i32,
    /// What was tried: `write sysctl net.x`. Empty: it is ready.
    pub stage: &'a [u8],
    /// What to change, if that is known.
    pub text: &'a [u8],
}

const MAGIC: [u8; 4] = *b"hfp1";
const HEADER: usize = 16;

impl<'a> Report<'a> {
    /// Magic, errno, pid, length of the stage, stage, text; little endian. Returns its length; what does not fit is
    /// cut.
    pub fn encode(&self, out: &mut [u8; MAX_REPORT]) -> usize {
        let stage = &self.stage[..self.stage.len().min(MAX_REPORT - HEADER)];
        let header = MAGIC
            .iter()
            .copied()
            .chain(self.errno.to_le_bytes())
            .chain(self.pid.to_le_bytes())
            .chain((stage.len() as u32).to_le_bytes());
        let bytes = header.chain(stage.iter().copied()).chain(self.text.iter().copied());
        let mut length = 0;
        for (place, byte) in out.iter_mut().zip(bytes) {
            *place = byte;
            length += 1;
        }
        length
    }

    /// The reverse; `None` if that is no record.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&MAGIC)?;
        let (errno, rest) = rest.split_first_chunk()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (stage, text) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some(Self { errno: i32::from_le_bytes(*errno), pid: i32::from_le_bytes(*pid), stage, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(errno: i32, pid: i32, stage in "[a-z ]{0,200}", text in "[a-z ]{0,200}") {
            let report = Report { errno, pid, stage: stage.as_bytes(), text: text.as_bytes() };
            let mut out = [0; MAX_REPORT];
            let length = report.encode(&mut out);
            prop_assert_eq!(Report::decode(&out[..length]), Some(report));
        }

        #[test]
        fn what_is_too_long_is_cut(stage in 0..2000_usize, text in 0..2000_usize) {
            let (stage, text) = (vec![b's'; stage], vec![b't'; text]);
            let mut out = [0; MAX_REPORT];
            let length = Report { errno: 1, pid: 2, stage: &stage, text: &text }.encode(&mut out);
            let got = Report::decode(&out[..length]);
            prop_assert!(got.is_some_and(|got| stage.starts_with(got.stage) && text.starts_with(got.text)));
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100), magic: bool) {
            let bytes = if magic { [MAGIC.as_slice(), &bytes].concat() } else { bytes };
            if let Some(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.stage.len() + report.text.len() + HEADER, bytes.len());
            }
        }
    }
}
