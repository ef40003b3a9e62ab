//! What honest layers become.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{getxattr, listxattr};
use tar::EntryType;

use super::build::{Extra, Tar};
use super::{Fault, Place, fault, needs_root, text};
use crate::digest::Digest;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn is_whiteout(path: impl AsRef<Path>) -> bool {
    let metadata = fs::symlink_metadata(path).unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: impl AsRef<Path>) -> bool {
    let mut value = [0; 8];
    getxattr(path.as_ref(), "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y")
}

#[test]
fn files_and_what_is_known_of_them() {
    needs_root!();
    let place = Place::new();
    let big = vec![7; 300_000];
    let tar = Tar::default()
        .entry(EntryType::Directory, b"./", &Extra { mode: 0o555, mtime: 5, ..Extra::default() })
        .entry(EntryType::Directory, b"bin/", &Extra { mode: 0o755, mtime: 77, ..Extra::default() })
        .entry(
            EntryType::Regular,
            b"bin/su",
            &Extra { data: &big, mode: 0o4755, mtime: 99, ..Extra::default() },
        )
        .entry(
            EntryType::Regular,
            b"home/u/f",
            &Extra { data: b"x", owner: (1000, 2000), ..Extra::default() },
        )
        .symlink("bin/sh", "busybox")
        .hard_link("bin/sudo", "bin/su")
        .entry(EntryType::Char, b"dev/null", &Extra { mode: 0o666, ..Extra::default() })
        .entry(EntryType::Fifo, b"dev/fifo", &Extra { mode: 0o600, owner: (3, 4), ..Extra::default() })
        .end();
    let unpacked = place.unpack(&tar).unwrap();
    let root = place.root();
    assert_eq!((mode(&root), mode(root.join("bin")), mode(root.join("bin/su"))), (0o555, 0o755, 0o4755));
    assert_eq!(fs::metadata(root.join("bin/su")).unwrap().mtime(), 99);
    assert_eq!(fs::metadata(root.join("bin")).unwrap().mtime(), 77, "set after its children were made");
    assert_eq!(fs::metadata(&root).unwrap().mtime(), 5);
    let file = fs::metadata(root.join("home/u/f")).unwrap();
    assert_eq!((file.uid(), file.gid()), (1000, 2000));
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("busybox"));
    let links = fs::metadata(root.join("bin/sudo")).unwrap();
    assert_eq!((links.nlink(), links.ino()), (2, fs::metadata(root.join("bin/su")).unwrap().ino()));
    let device = fs::metadata(root.join("dev/null")).unwrap();
    assert_eq!(device.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(mode(root.join("dev/null")), 0o666);
    assert!(fs::metadata(root.join("dev/fifo")).unwrap().file_type().is_fifo());
    // What the records keep.
    assert_eq!((unpacked.size, &unpacked.digest), (tar.len() as u64, &Digest::of(&tar)));
    assert_eq!((unpacked.diff_id, unpacked.entries), (Digest::of(&tar), 8));
    assert_eq!(unpacked.implied, [&b"dev"[..], b"home", b"home/u"].map(<[u8]>::to_vec));
    // Root, bin, home, home/u, dev; su, f, sh, null, fifo.
    assert_eq!(unpacked.footprint.inodes, 10);
    assert_eq!(unpacked.footprint.bytes, 5 * 4096 + 74 * 4096 + 4096);
    assert_eq!(mode(root.join("home")), 0o755);
}

#[test]
fn attributes_that_are_kept_and_those_that_are_not() {
    needs_root!();
    let place = Place::new();
    // A capability: VFS_CAP_REVISION_2, one bit.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 8] = [
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"a\nb"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
        ("SCHILY.xattr.system.posix_acl_access", b"rubbish"),
    ];
    let tar = Tar::default()
        .pax(&records)
        .entry(EntryType::Regular, b"ping", &Extra { mode: 0o755, data: b"x", ..Extra::default() })
        .pax(&records[1..])
        .directory("d", 0o755)
        .end();
    place.unpack(&tar).unwrap();
    for (name, wanted) in [("ping", &["security.capability", "user.note"][..]), ("d", &["user.note"])] {
        let path = place.root().join(name);
        let mut list = vec![0; 4096];
        let length = listxattr(&path, &mut list).unwrap();
        let mut names: Vec<&str> =
            std::str::from_utf8(&list[..length]).unwrap().split_terminator('\0').collect();
        // The host's own labels are not ours.
        names.retain(|name| *name != "security.selinux");
        names.sort_unstable();
        assert_eq!(names, wanted, "{name}");
    }
    let mut value = [0; 32];
    let length = getxattr(place.root().join("ping"), "security.capability", &mut value).unwrap();
    assert_eq!(value[..length], capability);
}

#[test]
fn whiteouts() {
    needs_root!();
    let place = Place::new();
    let tar = Tar::default()
        .file("a/.wh.gone", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"x")
        // Hidden below and made anew here, in either order.
        .file(".wh.dir", b"")
        .file("dir/new", b"x")
        .directory("later/", 0o755)
        .file("later/new", b"x")
        .file(".wh.later", b"")
        .file(".wh.file", b"")
        .file("file", b"new")
        .file("late", b"new")
        .file(".wh.late", b"")
        // aufs' own.
        .file(".wh..wh.aufs", b"")
        .file(".wh..wh.plnk/1.2", b"")
        // As overlayfs writes it.
        .entry(EntryType::Char, b"native", &Extra { device: (0, 0), ..Extra::default() })
        .end();
    place.unpack(&tar).unwrap();
    let root = place.root();
    assert!(is_whiteout(root.join("a/gone")) && is_whiteout(root.join("native")));
    assert!(is_opaque(root.join("opaque")) && root.join("opaque/new").exists());
    assert!(is_opaque(root.join("dir")) && root.join("dir/new").exists());
    assert!(is_opaque(root.join("later")) && root.join("later/new").exists());
    assert_eq!((text(root.join("file")), text(root.join("late"))), ("new".into(), "new".into()));
    assert!(!is_opaque(root.join("a")) && !is_opaque(&root));
    let names: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_str().unwrap().starts_with(".wh.")), "{names:?}");
}

/// `/` as a link to `.` and the like, which builders write (kaniko): the root is there already.
#[test]
fn root_entries_that_are_no_directories() {
    needs_root!();
    let kinds = [
        EntryType::Regular,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
    ];
    for kind in kinds {
        for name in ["/", ".", "./", "/./", "//"] {
            let place = Place::new();
            let data: &[u8] = if kind == EntryType::Regular { b"data" } else { b"" };
            let extra = Extra { data, link: b".", mode: 0o755, device: (0, 0), ..Extra::default() };
            let tar = Tar::default().entry(kind, name.as_bytes(), &extra).file("f", b"x").end();
            let unpacked = place.unpack(&tar).unwrap();
            assert_eq!(
                (text(place.root().join("f")), mode(place.root())),
                ("x".into(), 0o755),
                "{kind:?} {name}"
            );
            assert_eq!((unpacked.entries, unpacked.footprint.inodes), (2, 2), "{kind:?} {name}");
        }
    }
}

#[test]
fn later_entries_win() {
    needs_root!();
    let place = Place::new();
    let tar = Tar::default()
        .file("f", b"one")
        .file("f", b"two")
        .file("d/deep/x", b"x")
        .file("d", b"now a file")
        .file("g", b"file")
        .file("g/below", b"x")
        .end();
    // A file that later turns out to be a parent is an error, as everywhere.
    assert!(matches!(fault(place.unpack(&tar)), Fault::Corrupt(_)));
    assert_eq!(
        (text(place.root().join("f")), text(place.root().join("d"))),
        ("two".into(), "now a file".into())
    );
    // Symlinks on the way are followed inside the layer.
    let place = Place::new();
    let tar = Tar::default()
        .directory("usr/bin/", 0o755)
        .symlink("bin", "/usr/bin")
        .symlink("again", "usr/../bin")
        .file("bin/sh", b"sh")
        .file("again/ls", b"ls")
        .hard_link("cat", "bin/sh")
        .end();
    let unpacked = place.unpack(&tar).unwrap();
    for (name, content) in [("usr/bin/sh", "sh"), ("usr/bin/ls", "ls"), ("cat", "sh")] {
        assert_eq!(text(place.root().join(name)), content);
    }
    assert!(fs::symlink_metadata(place.root().join("bin")).unwrap().is_symlink());
    assert_eq!(unpacked.implied, [&b""[..], b"usr"].map(<[u8]>::to_vec));
    // What was implied below a directory that is gone is forgotten with it.
    let place = Place::new();
    let tar = Tar::default().file("a/b/c/x", b"").file("a-b/x", b"").file("a", b"file").end();
    assert_eq!(place.unpack(&tar).unwrap().implied, [&b""[..], b"a-b"].map(<[u8]>::to_vec));
}

#[test]
fn compressions() {
    needs_root!();
    let tar = Tar::default().file("f", &vec![b'x'; 100_000]).end();
    let gzip = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |part: &[u8]| zstd::encode_all(part, 3).unwrap();
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"any"].concat();
    let (first, second) = tar.split_at(700);
    let blobs = [
        tar.clone(),
        gzip(&tar),
        zstd(&tar),
        [gzip(first), gzip(second)].concat(),
        [zstd(first), skippable.clone(), zstd(second)].concat(),
        [skippable, zstd(&tar)].concat(),
    ];
    for blob in &blobs {
        let place = Place::new();
        let unpacked = place.unpack(blob).unwrap();
        assert_eq!((unpacked.digest, unpacked.diff_id), (Digest::of(blob), Digest::of(&tar)));
        assert_eq!(text(place.root().join("f")).len(), 100_000);
    }
    for (head, name) in [(&b"BZh91AY"[..], "bzip2"), (&[0xfd, b'7', b'z', b'X', b'Z', 0, 0][..], "xz")] {
        let failed = Place::new().unpack(head).unwrap_err();
        assert!(matches!(&failed.fault, Fault::Unsupported(reason) if reason.contains(name)), "{failed:?}");
        // The blame may lie with the bytes: their digest is told.
        assert_eq!(failed.digest, Some(Digest::of(head)));
    }
}

#[test]
fn empty_archives() {
    needs_root!();
    for blob in [Tar::default().end(), Vec::new(), vec![0; 512], vec![0; 10_240]] {
        let place = Place::new();
        let unpacked = place.unpack(&blob).unwrap();
        assert_eq!(
            (unpacked.entries, unpacked.footprint.inodes, unpacked.diff_id),
            (0, 1, Digest::of(&blob))
        );
    }
}

#[test]
fn sparse_files() {
    needs_root!();
    // PAX 1.0: the map is in the data. Two pieces of a file of 1 MiB.
    let mut data = b"2\n4096\n3\n1048570\n6\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"abcuvwxyz");
    let one = Tar::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"dir/sparse"),
            ("GNU.sparse.realsize", b"1048576"),
        ])
        .file("GNUSparseFile.0/sparse", &data)
        .end();
    // PAX 0.1: the map is a record.
    let zero = Tar::default()
        .pax(&[
            ("GNU.sparse.map", b"4096,3,1048570,6"),
            ("GNU.sparse.size", b"1048576"),
            ("GNU.sparse.name", b"dir/sparse"),
        ])
        .file("x", b"abcuvwxyz")
        .end();
    // Old GNU: the map is in the header.
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..10].copy_from_slice(b"dir/sparse");
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_size(9);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let gnu = header.as_gnu_mut().unwrap();
    for (piece, (offset, length)) in gnu.sparse.iter_mut().zip([(4096_u64, 3_u64), (1_048_570, 6)]) {
        piece.offset[..11].copy_from_slice(format!("{offset:011o}").as_bytes());
        piece.numbytes[..11].copy_from_slice(format!("{length:011o}").as_bytes());
    }
    gnu.realsize[..11].copy_from_slice(format!("{:011o}", 1_048_576).as_bytes());
    header.set_cksum();
    let old = Tar::default().block(&header, b"abcuvwxyz").end();
    let mut want = vec![0; 1 << 20];
    want[4096..4099].copy_from_slice(b"abc");
    want[1_048_570..].copy_from_slice(b"uvwxyz");
    for (name, tar) in [("1.0", one), ("0.1", zero), ("old", old)] {
        let place = Place::new();
        place.unpack(&tar).unwrap();
        let path = place.root().join("dir/sparse");
        assert!(fs::read(&path).unwrap() == want, "{name}");
        assert!(
            fs::metadata(&path).unwrap().blocks() * 512 < 1 << 16,
            "{name} is sparse on the disk as well"
        );
    }
    let maps: [&[u8]; 6] = [b"0,4,2,5", b"0,9,9", b"4096,9,0,0,1,0", b"1048570,9", b"0,8", b"x"];
    for map in maps {
        let tar = Tar::default()
            .pax(&[("GNU.sparse.map", map), ("GNU.sparse.size", b"1048576")])
            .file("x", b"abcuvwxyz")
            .end();
        assert!(matches!(fault(Place::new().unpack(&tar)), Fault::Corrupt(_)), "{}", map.escape_ascii());
    }
}
