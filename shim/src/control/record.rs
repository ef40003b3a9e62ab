//! The exit record on disk.

use std::os::fd::OwnedFd;

use holdfast_pod::protocol::{EXIT_RECORD_NAME, ExitRecord};
use rustix::fs::{Mode, OFlags, openat, renameat};

/// Writes it so that the name stands for a whole record or for none. Without fsync: it need not outlive the boot.
pub fn write(dir: &OwnedFd, record: &ExitRecord) -> std::io::Result<()> {
    const NEW: &str = ".exit.json.new";
    let bytes = serde_json::to_vec(record)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, NEW, flags, Mode::from_raw_mode(0o600))?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&file, rest)?..];
    }
    renameat(dir, NEW, dir, EXIT_RECORD_NAME)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_record_replaces_the_old_one_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let fd: OwnedFd = std::fs::File::open(dir.path()).unwrap().into();
        for exit_code in [1, 2] {
            write(&fd, &ExitRecord { exit_code, ..ExitRecord::default() }).unwrap();
        }
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [EXIT_RECORD_NAME]);
        let text = std::fs::read(dir.path().join(EXIT_RECORD_NAME)).unwrap();
        assert_eq!(serde_json::from_slice::<ExitRecord>(&text).unwrap().exit_code, 2);
    }
}
