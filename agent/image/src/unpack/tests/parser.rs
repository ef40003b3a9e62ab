//! The walk over an archive, fed with rubbish and with the truth.

use std::io::Read as _;

use proptest::prelude::*;
use tar::EntryType;

use super::super::archive::{Archive, Kind};
use super::super::number::number;
use super::super::pax::Extended;
use super::build::{Extra, Tar, record};
use super::{Fault, Limits};

fn limits() -> Limits {
    Limits { entries: 200, bytes: 1 << 20, extended: 1 << 16, pieces: 100, ..Limits::default() }
}

/// Path, kind and data of an entry.
type Read = (Vec<u8>, Kind, Vec<u8>);

fn walk(bytes: &[u8]) -> Result<Vec<Read>, Fault> {
    let limits = limits();
    let mut archive = Archive::new(bytes, &limits);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next()? {
        let mut data = Vec::new();
        let mut buffer = [0; 1000];
        // Half of them are read, the others skipped.
        while entries.len() % 2 == 0 {
            match archive.read_data(&mut buffer)? {
                0 => break,
                got => data.extend_from_slice(&buffer[..got]),
            }
        }
        entries.push((entry.path, entry.kind, data));
    }
    Ok(entries)
}

#[test]
fn damaged_headers() {
    let good = Tar::default().file("a", b"data").file("b", b"more").end();
    assert_eq!(walk(&good).unwrap().len(), 2);
    let with = |at: usize, bytes: &[u8], fix: bool| {
        let mut tar = good.clone();
        tar[at..at + bytes.len()].copy_from_slice(bytes);
        if fix {
            let mut header = tar::Header::from_byte_slice(&tar[..512]).clone();
            header.set_cksum();
            tar[..512].copy_from_slice(header.as_bytes());
        }
        walk(&tar)
    };
    let cases: [(&str, usize, &[u8], bool); 8] = [
        ("checksum", 148, b"0000000\0", false),
        ("a byte of the name", 0, b"x", false),
        ("size that is none", 124, b"99999999999\0", true),
        ("size beyond the limit", 124, b"77777777777\0", true),
        ("negative size", 124, &[0xff; 12], true),
        ("size of 2^64 - 1", 124, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], true),
        ("owner that is none", 108, b"zzzzzzz\0", true),
        ("type that is none", 156, b"?", true),
    ];
    for (what, at, bytes, fix) in cases {
        assert!(with(at, bytes, fix).is_err(), "{what}");
    }
    for length in [1, 511, 513, 515, 1025] {
        assert!(matches!(walk(&good[..length]), Err(Fault::Corrupt(_))), "cut at {length}");
    }
    // Without the blocks at the end, and without the last padding.
    assert_eq!(walk(&good[..2048]).unwrap().len(), 2);
    assert_eq!(walk(&good[..1540]).unwrap().len(), 2);
}

/// user ids that would be 0, or nobody's, after a careless cast (containerd CVE-2024-40635).
#[test]
fn owners_that_do_not_fit() {
    for (uid, works) in [(0_u64, true), (65_536, true), (u64::from(u32::MAX) - 1, true), (1 << 32, false)] {
        let extra = Extra { owner: (uid, 0), ..Extra::default() };
        let tar = Tar::default().entry(EntryType::Regular, b"f", &extra).end();
        assert_eq!(walk(&tar).is_ok(), works, "{uid}");
        let tar = Tar::default().pax(&[("uid", uid.to_string().as_bytes())]).file("f", b"").end();
        assert_eq!(walk(&tar).is_ok(), works, "{uid} in a PAX record");
    }
    for text in [&b"-1"[..], b"4294967295", b"0x0", b"1e3", b" 1", b""] {
        let tar = Tar::default().pax(&[("uid", text)]).file("f", b"").end();
        assert!(walk(&tar).is_err(), "{}", text.escape_ascii());
    }
}

#[test]
fn numbers() {
    let cases: [(&[u8], Option<u64>); 9] = [
        (b"0000644\0", Some(0o644)),
        (b" 644 \0  ", Some(0o644)),
        (b"\0\0\0\0\0\0\0\0", Some(0)),
        (b"0000648\0", None),
        (b"-000001\0", None),
        (&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], Some(256)),
        (&[0x80, 0, 0, 0, 1, 0, 0, 0], Some(1 << 24)),
        (&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None),
        (&[0xff; 12], None),
    ];
    for (field, want) in cases {
        assert_eq!(number(field), want, "{}", field.escape_ascii());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let _ = walk(&bytes);
    }

    /// Valid archives with some bytes changed and checksums made right again, so that the damage gets past them.
    #[test]
    fn damaged_archives_end(
        changes in proptest::collection::vec((0_usize..8, 0_usize..512, any::<u8>()), 1..12),
        cut in 0_usize..6000,
    ) {
        let mut tar = Tar::default()
            .pax(&[("path", b"long/name"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,1,4,2"), ("GNU.sparse.size", b"9")])
            .file("sparse", b"abc")
            .entry(EntryType::Regular, &b"n/".repeat(100), &Extra { data: b"data", ..Extra::default() })
            .symlink("l", "target")
            .end();
        for (block, at, byte) in changes {
            let start = block * 512;
            tar[start + at] = byte;
            let mut header = tar::Header::from_byte_slice(&tar[start..start + 512]).clone();
            header.set_cksum();
            tar[start..start + 512].copy_from_slice(header.as_bytes());
        }
        tar.truncate(cut.max(1));
        let _ = walk(&tar);
    }

    #[test]
    fn any_pax_header_ends(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = Extended::default().parse(&bytes);
    }

    #[test]
    fn what_was_written_is_read(
        files in proptest::collection::vec(("[a-z]{1,150}(/[a-z]{1,20}){0,8}", proptest::collection::vec(any::<u8>(), 0..2000)), 0..20),
        pax in any::<bool>(),
    ) {
        let tar = files.iter().fold(Tar::default(), |tar, (name, data)| {
            if pax {
                tar.pax(&[("path", name.as_bytes())]).file("short", data)
            } else {
                tar.file(name, data)
            }
        });
        let read = walk(&tar.end()).unwrap();
        prop_assert_eq!(read.len(), files.len());
        for (at, ((path, kind, data), (name, want))) in read.iter().zip(&files).enumerate() {
            prop_assert_eq!((path.as_slice(), *kind), (name.as_bytes(), Kind::File));
            prop_assert!(at % 2 == 1 || data == want);
        }
    }

    /// The tar crate, as an independent reader, sees the same names in what both take.
    #[test]
    fn agrees_with_the_tar_crate(names in proptest::collection::vec("[a-z/.]{1,120}", 1..10)) {
        let tar = names.iter().fold(Tar::default(), |tar, name| tar.file(name, name.as_bytes())).end();
        let ours = walk(&tar).unwrap();
        let mut theirs = tar::Archive::new(&tar[..]);
        for (entry, (path, _, _)) in theirs.entries().unwrap().zip(&ours) {
            let mut entry = entry.unwrap();
            let name = entry.path_bytes().into_owned();
            prop_assert_eq!(&name, path);
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            prop_assert_eq!(&data, path);
        }
    }

    #[test]
    fn pax_records_are_read_as_written(value in proptest::collection::vec(any::<u8>(), 1..300)) {
        let mut extended = Extended::default();
        extended.parse(&[record("SCHILY.xattr.user.a", &value), record("size", b"7")].concat()).unwrap();
        prop_assert_eq!(extended.xattrs, vec![(b"user.a".to_vec(), value)]);
        prop_assert_eq!(extended.size, Some(7));
    }
}
