//! Tar archives that are the same on every machine: ustar headers, one time stamp, numeric owners.

use std::path::Path;

const BLOCK: usize = 512;

/// An archive in memory.
#[derive(Debug, Default, Clone)]
pub struct Tar(Vec<u8>);

/// Mode and owner of an entry.
#[derive(Debug, Clone, Copy)]
pub struct Meta {
    /// Permission bits, with setuid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Meta {
    /// Root's, with these permission bits.
    pub const fn root(mode: u32) -> Self {
        Self { mode, uid: 0, gid: 0 }
    }
}

impl Tar {
    /// A directory. `path` is relative, as in all entries.
    pub fn dir(&mut self, path: &str, meta: Meta) -> &mut Self {
        self.header(&format!("{}/", path.trim_end_matches('/')), b'5', "", meta, 0)
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, meta: Meta, content: &[u8]) -> &mut Self {
        self.header(path, b'0', "", meta, content.len());
        self.0.extend_from_slice(content);
        self.pad();
        self
    }

    /// A hard link to an entry that came before.
    pub fn hard_link(&mut self, path: &str, target: &str) -> &mut Self {
        self.header(path, b'1', target, Meta::root(0o755), 0)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.header(path, b'2', target, Meta::root(0o777), 0)
    }

    /// An OCI whiteout: hides `path` of the layers below.
    pub fn whiteout(&mut self, path: &str) -> &mut Self {
        let path = Path::new(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let marker = path.with_file_name(format!(".wh.{name}"));
        self.file(&marker.to_string_lossy(), Meta::root(0o644), b"")
    }

    /// An OCI opaque marker: hides all that the layers below have in `dir`.
    pub fn opaque(&mut self, dir: &str) -> &mut Self {
        self.file(&format!("{dir}/.wh..wh..opq"), Meta::root(0o644), b"")
    }

    /// The archive, with its two empty blocks at the end.
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    fn header(&mut self, path: &str, kind: u8, link: &str, meta: Meta, size: usize) -> &mut Self {
        assert!(path.len() <= 100 && link.len() <= 100, "{path}: too long for a ustar header");
        let mut block = [0u8; BLOCK];
        block[..path.len()].copy_from_slice(path.as_bytes());
        octal(&mut block[100..108], u64::from(meta.mode));
        octal(&mut block[108..116], u64::from(meta.uid));
        octal(&mut block[116..124], u64::from(meta.gid));
        octal(&mut block[124..136], size as u64);
        octal(&mut block[136..148], EPOCH);
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        self.0.extend_from_slice(&block);
        self
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }
}

/// 2024-01-01: zero confuses some tools.
const EPOCH: u64 = 1_704_067_200;

/// Octal digits that fill `field` but for the NUL at its end.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let text = format!("{value:0width$o}");
    assert!(text.len() == width, "{value} does not fit {width} octal digits");
    field[..width].copy_from_slice(text.as_bytes());
    field[width] = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_system_s_tar_reads_it() {
        let mut tar = Tar::default();
        tar.dir("bin", Meta::root(0o755)).file("bin/a", Meta { mode: 0o4755, uid: 7, gid: 8 }, b"hello");
        tar.hard_link("bin/b", "bin/a").symlink("c", "bin/a").whiteout("etc/gone").opaque("opt");
        let mut child = Command::new("tar")
            .args(["--numeric-owner", "-tvf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tar");
        std::io::Write::write_all(&mut child.stdin.take().expect("stdin"), &tar.finish()).expect("write");
        let output = child.wait_with_output().expect("wait");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
        for line in ["drwxr-xr-x 0/0", "-rwsr-xr-x 7/8", "bin/b link to bin/a", "c -> bin/a", "etc/.wh.gone"]
        {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.contains("opt/.wh..wh..opq"), "{text}");
    }
}
