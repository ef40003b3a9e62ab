//! What one archive may take of us.

use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;

use tar::EntryType;

use super::build::{Extra, Tar};
use super::{Fault, Limits, Place, fault, needs_root, unpack};

fn small() -> Limits {
    Limits { entries: 100, bytes: 1 << 20, extended: 4096, pieces: 10, remembered: 10_000, reserve: 0 }
}

fn too_large(tar: Tar) -> String {
    let place = Place::new();
    match fault(place.unpack_with(&tar.end(), &small())) {
        Fault::TooLarge { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_limit_ends_an_archive() {
    needs_root!();
    let many = (0..101).fold(Tar::default(), |tar, at| tar.file(&at.to_string(), b""));
    assert!(too_large(many).contains("number of entries"));
    assert!(too_large(Tar::default().file("f", &vec![0; 2 << 20])).contains('f'));
    let parts = (0..20).fold(Tar::default(), |tar, at| tar.file(&at.to_string(), &vec![0; 100_000]));
    assert!(too_large(parts).contains("decompressed archive"));
    // One PAX header, several of them for one entry, and a GNU long name.
    let value = vec![b'x'; 5000];
    assert!(too_large(Tar::default().pax(&[("comment", &value)]).file("f", b"")).contains("extended"));
    let several = (0..5).fold(Tar::default(), |tar, _| tar.pax(&[("comment", &value[..1000])]));
    assert!(too_large(several.file("f", b"")).contains("extended"));
    let long = Tar::default().entry(EntryType::Regular, &vec![b'x'; 5000], &Extra::default());
    assert!(too_large(long).contains("extended"));
    let pieces = Tar::default()
        .pax(&[("GNU.sparse.map", ["0,0"; 11].join(",").as_bytes()), ("GNU.sparse.size", b"0")])
        .file("f", b"");
    assert!(too_large(pieces).contains("sparse map"));
    // Directories that are described and those that are implied are remembered until the end.
    let name = "d".repeat(90);
    let described = (0..99).fold(Tar::default(), |tar, at| tar.directory(&format!("{name}{at}"), 0o755));
    assert!(too_large(described).contains("names of its directories"));
    let implied = (0..99).fold(Tar::default(), |tar, at| tar.file(&format!("{at}/{name}/x"), b""));
    assert!(too_large(implied).contains("names of its directories"));
}

#[test]
fn names_and_depths() {
    needs_root!();
    let refused = |name: &[u8]| {
        let tar = Tar::default().entry(EntryType::Regular, name, &Extra::default());
        matches!(fault(Place::new().unpack(&tar.end())), Fault::TooLarge { .. })
    };
    assert!(refused(&[b'x'; 256]), "a name of 256 bytes");
    assert!(refused(&b"a/".repeat(1500)), "1,500 levels");
    assert!(refused(&[&b"a".repeat(200)[..], b"/"].concat().repeat(30)), "a path of 6,000 bytes");
    // Deeper through symlinks than any one path could say.
    let mut tar = Tar::default();
    let deep = vec!["d"; 900].join("/");
    for round in 0..8 {
        let link = if round == 0 { deep.clone() } else { format!("l{}/{deep}", round - 1) };
        tar = tar.symlink(&format!("l{round}"), &link);
    }
    let place = Place::new();
    assert!(matches!(fault(place.unpack(&tar.file("l7/x", b"x").end())), Fault::TooLarge { .. }));
}

#[test]
fn bombs() {
    needs_root!();
    // 64 MiB of zeroes in few bytes, against a limit of 1 MiB.
    let tar = Tar::default().file("f", b"");
    let bomb = [tar.0, vec![0; 64 << 20]].concat();
    for blob in [zstd::encode_all(&bomb[..], 1).unwrap(), gzip(&bomb)] {
        assert!(blob.len() < 1 << 20);
        let place = Place::new();
        let failed = place.unpack_with(&blob, &small()).unwrap_err();
        assert!(matches!(failed.fault, Fault::TooLarge { .. }), "{failed:?}");
        assert_eq!(failed.digest, None, "nobody reads on for a digest");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut blob).unwrap();
    blob
}

#[test]
fn a_full_disk_is_not_filled_to_the_end() {
    needs_root!();
    let limits = Limits { reserve: u64::MAX / 2, ..Limits::default() };
    let failed = Place::new().unpack_with(&Tar::default().file("f", b"x").end(), &limits).unwrap_err();
    let Fault::Io { source, .. } = failed.fault else { panic!("{failed:?}") };
    assert_eq!(source.kind(), io::ErrorKind::StorageFull);
}

/// Zeroes without an end, until it has given some.
struct Zeroes<'a>(u64, &'a AtomicBool);

impl Read for Zeroes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += buffer.len() as u64;
        self.1.store(self.0 > 10 << 20, std::sync::atomic::Ordering::Relaxed);
        buffer.fill(0);
        Ok(buffer.len())
    }
}

#[test]
fn a_thread_that_nobody_waits_for_ends() {
    needs_root!();
    let place = Place::new();
    let root = std::fs::File::open(place.root()).unwrap();
    let trash = std::fs::File::open(place.root().parent().unwrap().join("trash")).unwrap();
    let stop = AtomicBool::new(false);
    let failed =
        unpack(Zeroes(0, &stop), root.as_fd(), trash.as_fd(), &Limits::default(), &stop).unwrap_err();
    assert!(matches!(failed.fault, Fault::Io { .. }), "{failed:?}");
}
