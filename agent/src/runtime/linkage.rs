//! Linkage of our programs: a shim that needs shared libraries takes four times the memory, for each
//! container.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

/// Fields of elf(5): the head of a file, and of one of its segments, for 64 bits.
const HEAD: usize = 64;
const SEGMENTS_AT: usize = 32;
const SEGMENT_SIZE_AT: usize = 54;
const SEGMENT_COUNT_AT: usize = 56;
const PT_INTERP: u32 = 3;

/// Warns if the shim was built by other means than ours.
pub(super) fn check_shim(program: &Path) {
    // What cannot be read will be told by the first start of a container.
    if is_dynamic(program).unwrap_or(false) {
        tracing::warn!(
            program = %program.display(),
            "this shim is linked dynamically and takes four times the memory of a static one, for each container; build it with `cargo x build --release`"
        );
    }
}

/// Whether a program names an interpreter, that is a dynamic linker. Errors where it cannot be read; what is no ELF
/// file of 64 bits names none.
fn is_dynamic(program: &Path) -> io::Result<bool> {
    let file = File::open(program)?;
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, 0)?;
    // The magic number, and the class of 64 bits.
    if !head.starts_with(b"\x7fELF\x02") {
        return Ok(false);
    }
    let segments = u64::from_ne_bytes(array(&head, SEGMENTS_AT));
    let size = u64::from(u16::from_ne_bytes(array(&head, SEGMENT_SIZE_AT)));
    for number in 0..u64::from(u16::from_ne_bytes(array(&head, SEGMENT_COUNT_AT))) {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, segments.saturating_add(number * size))?;
        if u32::from_ne_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

fn array<const N: usize>(head: &[u8; HEAD], at: usize) -> [u8; N] {
    std::array::from_fn(|byte| head[at + byte])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A file with segments of these kinds.
    fn elf(kinds: &[u32]) -> tempfile::NamedTempFile {
        let mut bytes = vec![0_u8; HEAD];
        bytes[..5].copy_from_slice(b"\x7fELF\x02");
        bytes[SEGMENTS_AT..SEGMENTS_AT + 8].copy_from_slice(&(HEAD as u64).to_ne_bytes());
        bytes[SEGMENT_SIZE_AT..SEGMENT_SIZE_AT + 2].copy_from_slice(&56_u16.to_ne_bytes());
        bytes[SEGMENT_COUNT_AT..SEGMENT_COUNT_AT + 2].copy_from_slice(&(kinds.len() as u16).to_ne_bytes());
        for kind in kinds {
            bytes.extend(kind.to_ne_bytes());
            bytes.extend([0; 52]);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn an_interpreter_is_found_among_the_segments() {
        assert!(is_dynamic(elf(&[6, PT_INTERP, 1]).path()).unwrap());
        assert!(!is_dynamic(elf(&[1, 1, 7]).path()).unwrap());
        assert!(!is_dynamic(elf(&[]).path()).unwrap());
    }

    /// A program that was really linked: this one.
    #[test]
    fn a_test_executable_is_dynamic() {
        let dynamic = cfg!(all(target_env = "gnu", not(target_feature = "crt-static")));
        assert_eq!(is_dynamic(&std::env::current_exe().unwrap()).unwrap(), dynamic);
    }

    #[test]
    fn what_is_no_program_is_no_reason_to_fail() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(is_dynamic(file.path()).is_err());
        std::fs::write(file.path(), [b'x'; 100]).unwrap();
        assert!(!is_dynamic(file.path()).unwrap());
        assert!(is_dynamic(Path::new("/no/such/program")).is_err());
    }
}
