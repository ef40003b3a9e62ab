//! Sealed memory files: how large, immutable values travel between our processes.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread};

use crate::error::{CallError, Result};
use crate::failpoint;

const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Makes a memfd called `name` (for /proc only) that holds `bytes` and can never change again.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    failpoint::call("sys.memfd_create")?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // NOEXEC_SEAL came in 6.3; the sysctl vm.memfd_noexec=2 allows nothing else.
    let fd = match memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create(name, flags),
        other => other,
    }
    .map_err(|e| CallError::new(format!("memfd_create(\"{name}\")"), e))?;
    let mut file = File::from(fd);
    file.write_all(bytes)
        .map_err(|e| CallError::new(format!("write(memfd \"{name}\", {} bytes)", bytes.len()), e))?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, SEALS)
        .map_err(|e| CallError::new(format!("fcntl(memfd \"{name}\", F_ADD_SEALS)"), e))?;
    Ok(fd)
}

/// Reads all of a memfd, from its start, whatever its offset.
///
/// # Errors
/// EPERM if its sender could still change it, EFBIG if it holds more than `cap` bytes.
pub fn read_sealed(fd: impl AsFd, cap: usize) -> Result<Vec<u8>> {
    let fd = fd.as_fd();
    let call = |what: &str| format!("{what}(memfd {})", fd.as_raw_fd());
    let seals = fcntl_get_seals(fd).map_err(|e| CallError::new(call("fcntl(F_GET_SEALS)"), e))?;
    if !seals.contains(SEALS) {
        return Err(CallError::new(call("check seals"), Errno::PERM));
    }
    let size = fstat(fd).map_err(|e| CallError::new(call("fstat"), e))?.st_size;
    let size = usize::try_from(size).ok().filter(|size| *size <= cap);
    let size = size.ok_or_else(|| CallError::new(call(&format!("read at most {cap} bytes")), Errno::FBIG))?;
    let mut bytes = vec![0; size];
    let mut done = 0;
    while done < size {
        match pread(fd, &mut bytes[done..], done as u64) {
            Ok(0) => return Err(CallError::new(call("pread"), Errno::IO)),
            Ok(count) => done += count,
            Err(e) => return Err(CallError::new(call("pread"), e)),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_stays() {
        for bytes in [vec![], vec![1, 2, 3], vec![9; 300_000]] {
            let fd = sealed("test", &bytes).unwrap();
            assert_eq!(read_sealed(&fd, bytes.len()).unwrap(), bytes);
            assert_eq!(read_sealed(&fd, bytes.len()).unwrap(), bytes, "reading moves nothing");
            let mut file = File::from(fd);
            assert!(file.write_all(b"x").is_err());
            assert!(file.set_len(bytes.len() as u64 + 1).is_err());
        }
    }

    #[test]
    fn a_cap_and_unsealed_files_are_refused() {
        let fd = sealed("test", b"12345").unwrap();
        assert!(read_sealed(&fd, 4).unwrap_err().is(Errno::FBIG));
        let open = memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_sealed(&open, 4).unwrap_err().is(Errno::PERM));
        assert!(read_sealed(File::open("/dev/null").unwrap(), 4).is_err());
    }
}
