//! Extended headers: PAX records (POSIX.1-2017 pax, "pax Extended Header") and GNU sparse maps.

use super::fault::Fault;

/// What the extended headers before an entry say about it.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse_major: Option<u64>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_size: Option<u64>,
    pub sparse_map: Option<Vec<u8>>,
    pub sparse_zero: bool,
}

impl Extended {
    /// Reads the records of one PAX header; later records win.
    pub(super) fn parse(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        // Some writers pad with NUL bytes.
        while !data.is_empty() && data[0] != 0 {
            let (key, value, rest) =
                record(data).ok_or_else(|| Fault::Corrupt("malformed PAX record".into()))?;
            self.take(key, value)?;
            data = rest;
        }
        Ok(())
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let number = || {
            decimal(value)
                .ok_or_else(|| Fault::Corrupt(format!("PAX record {} is not a number", key.escape_ascii())))
        };
        match key {
            b"path" => self.path = text(key, value)?,
            b"linkpath" => self.link = text(key, value)?,
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = time(value),
            b"GNU.sparse.major" => self.sparse_major = Some(number()?),
            b"GNU.sparse.name" => self.sparse_name = text(key, value)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_size = Some(number()?),
            b"GNU.sparse.map" => self.sparse_map = Some(value.to_vec()),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse_zero = true,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// A value that may not hold NUL; an empty one takes the record back.
fn text(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    if value.contains(&0) {
        return Err(Fault::Corrupt(format!("PAX record {} holds a NUL byte", key.escape_ascii())));
    }
    Ok(if value.is_empty() { None } else { Some(value.to_vec()) })
}

/// `LENGTH KEY=VALUE\n`; the length counts the whole record. Values may hold any byte, also newlines.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(21).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&data[..space])?).ok()?;
    if length <= space + 2 || length > data.len() || data[length - 1] != b'\n' {
        return None;
    }
    let body = &data[space + 1..length - 1];
    let equals = body.iter().position(|byte| *byte == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&body[..equals], &body[equals + 1..], &data[length..]))
}

pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Seconds with an optional fraction; what cannot be read as one is no time.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let value = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String =
        fraction.chars().take_while(char::is_ascii_digit).chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    // Before the epoch the fraction counts down: -1.25 is 1.25 s before it.
    Some(if value.starts_with('-') && nanos > 0 {
        (seconds - 1, 1_000_000_000 - nanos)
    } else {
        (seconds, nanos)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn records_with_binary_values() {
        let mut extended = Extended::default();
        let mut data = b"27 SCHILY.xattr.user.a=x\ny\n".to_vec();
        assert_eq!(data.len(), 27);
        data.extend_from_slice(b"12 path=a/b\n20 mtime=12.5000001\n\0\0\0");
        extended.parse(&data).unwrap();
        assert_eq!(extended.xattrs, [(b"user.a".to_vec(), b"x\ny".to_vec())]);
        assert_eq!(extended.path.as_deref(), Some(b"a/b".as_slice()));
        assert_eq!(extended.mtime, Some((12, 500_000_100)));
    }

    #[test]
    fn malformed_records_are_refused() {
        let bad: [&[u8]; 8] = [
            b"99 path=a\n",
            b"0 path=a\n",
            b"x path=a\n",
            b"10 path=ab",
            b"6 path\n",
            b"99999999999999999999999 path=a\n",
            b"11 size=abc\n",
            b"11 path=a\0b\n",
        ];
        for data in bad {
            assert!(Extended::default().parse(data).is_err(), "{}", data.escape_ascii());
        }
    }

    #[test]
    fn times_before_the_epoch() {
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-3"), Some((-3, 0)));
        assert_eq!(time(b"soon"), None);
    }
}
