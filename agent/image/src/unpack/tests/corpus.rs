//! Several hundred hostile layers, made from parts. Each is unpacked or refused; nothing around it changes.

use tar::EntryType;

use super::build::{Extra, Tar};
use super::{Fault, Place, needs_root};

/// Where a link may lead that should not be followed.
const TARGETS: [&str; 14] = [
    "..",
    "../",
    "../..",
    "../canary",
    "../../canary",
    "../../../../../../../../../../etc",
    "/",
    "/etc",
    "./..",
    "a/../..",
    "a/../../canary",
    "/proc/self/root",
    "/proc/self/cwd/..",
    ".",
];

const NAMES: [&str; 20] = [
    "../evil",
    "/../evil",
    "a/../../evil",
    "..",
    "../",
    "../canary/canary",
    "./../evil",
    "a/..",
    ".wh...",
    ".wh.",
    ".wh..",
    "a/.wh...",
    "../.wh.canary",
    "../.wh..wh..opq",
    ".wh..wh.",
    ".wh.a/b",
    ".wh..wh..opq/b",
    ".wh..wh.plnk/b",
    "/",
    "",
];

const KINDS: [EntryType; 8] = [
    EntryType::Regular,
    EntryType::Directory,
    EntryType::Symlink,
    EntryType::Link,
    EntryType::Char,
    EntryType::Block,
    EntryType::Fifo,
    EntryType::Continuous,
];

fn plain(kind: EntryType, name: &str, link: &str) -> Tar {
    Tar::default().and(kind, name, link)
}

impl Tar {
    fn and(self, kind: EntryType, name: &str, link: &str) -> Self {
        let data: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
        self.entry(kind, name.as_bytes(), &Extra { link: link.as_bytes(), data, ..Extra::default() })
    }
}

/// What is tried through a link named `l`, with a good file `f` beside it.
fn through(start: &Tar) -> Vec<Tar> {
    let start = || start.clone();
    let mut cases: Vec<Tar> = KINDS.iter().map(|kind| start().and(*kind, "l/evil", "f")).collect();
    cases.extend([
        start().file("l/canary", b"evil"),
        start().file("l/canary/canary", b"evil"),
        start().file("l/.wh.canary", b""),
        start().file("l/.wh..wh..opq", b""),
        start().file("l/canary/.wh.canary", b""),
        start().directory("l/", 0o777),
        start().directory("l/canary/", 0o777),
        start().hard_link("h", "l"),
        start().hard_link("h", "l/canary"),
        start().hard_link("h", "l/canary/canary").file("h", b"evil"),
        start().hard_link("h", "l/passwd"),
        start().symlink("m", "l").file("m/evil", b"evil"),
        start().symlink("m", "l/canary").file("m", b"evil").file("m/canary", b"evil"),
        start().file("l", b"evil"),
        start().file(".wh.l", b"").file("l/evil", b"evil"),
        start().pax(&[("path", b"l/evil")]).file("x", b"evil"),
        start().pax(&[("linkpath", b"l/canary")]).hard_link("h", "f"),
    ]);
    cases
}

/// All cases; each with the canary's absolute path among the targets.
fn corpus(canary: &str) -> Vec<Tar> {
    let mut cases = Vec::new();
    let targets: Vec<&str> = TARGETS.into_iter().chain([canary]).collect();
    for target in &targets {
        cases.extend(through(&Tar::default().file("f", b"good").symlink("l", target)));
        // Directly, without a symlink before it.
        cases.push(plain(EntryType::Link, "h", target));
        cases.push(Tar::default().pax(&[("path", target.as_bytes())]).file("x", b"evil"));
        cases.push(Tar::default().file("f", b"").pax(&[("linkpath", target.as_bytes())]).hard_link("h", "f"));
    }
    for name in NAMES {
        for kind in KINDS {
            cases.push(plain(kind, name, "f"));
            cases.push(Tar::default().file("f", b"good").directory("a", 0o755).and(kind, name, "f"));
        }
    }
    // One name, two kinds, in every order; then something below it.
    for first in KINDS {
        for second in KINDS {
            let start = Tar::default().file("f", b"good").and(first, "n", "f").and(second, "n", "f");
            cases.push(start.clone());
            cases.push(start.file("n/below", b"x").file(".wh.n", b"").directory("n", 0o755));
        }
    }
    cases
}

#[test]
fn nothing_outside_changes() {
    needs_root!();
    let place = Place::new();
    let canary = place.base.path().join("outer/canary");
    let cases = corpus(canary.to_str().unwrap());
    assert!(cases.len() >= 300, "{}", cases.len());
    let before = place.outside();
    let (mut taken, mut refused) = (0, 0);
    for (at, case) in cases.into_iter().enumerate() {
        match place.unpack(&case.end()) {
            Ok(_) => taken += 1,
            Err(failed) => {
                refused += 1;
                // The archive is at fault, not the disk: a mirror may have a better one.
                let expected = matches!(
                    failed.fault,
                    Fault::Corrupt(_) | Fault::Unsupported(_) | Fault::TooLarge { .. }
                );
                assert!(expected, "case {at}: {:?}", failed.fault);
            }
        }
        assert_eq!(place.outside(), before, "case {at}");
        std::fs::remove_dir_all(place.root()).unwrap();
        std::fs::create_dir(place.root()).unwrap();
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}
