//! Memory straight from the kernel: zeroed, and free of charge until it is touched.
//!
//! An allocator hands out what somebody has used before, and has to clear it: that touches every page. A buffer that is
//! large and seldom full is better off here.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A buffer.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// `len` zero bytes, at least one. Without memory for them the process ends, as for any other allocation.
    pub fn new(len: usize) -> Self {
        assert!(len > 0, "an empty mapping cannot be");
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: an anonymous mapping at a place that the kernel chooses touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(bytes) if start != libc::MAP_FAILED => Self { start: bytes, len },
            _ => handle_alloc_error(Layout::array::<u8>(len).unwrap_or(Layout::new::<u8>())),
        }
    }

    /// Gives the memory from the first page border at or behind `kept` back to the kernel. Those bytes are zero from then
    /// on, and cost nothing until they are touched again (madvise(2), MADV_DONTNEED).
    pub fn give_back(&mut self, kept: usize) {
        let from = kept.next_multiple_of(rustix::param::page_size());
        if from >= self.len {
            return;
        }
        // SAFETY: a page border within our own mapping to its end; `self` is borrowed for us alone, and zero bytes are
        // as valid as the ones before. It fails for locked memory only, and then nothing changes.
        unsafe { libc::madvise(self.start.add(from).as_ptr().cast(), self.len - from, libc::MADV_DONTNEED) };
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the mapping has `len` readable, initialised bytes and lives as long as `self`, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and `self` is borrowed for us alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of that length, and nobody borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

// SAFETY: it owns its bytes as a Box<[u8]> does, which may go to another thread.
unsafe impl Send for Pages {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_zero_and_keep_what_is_written() {
        let mut pages = Pages::new(100_000);
        assert!(pages.len() == 100_000 && pages.iter().all(|byte| *byte == 0));
        pages[99_999] = 7;
        let moved = std::thread::spawn(move || pages[99_999]);
        assert_eq!(moved.join().ok(), Some(7));
    }

    #[test]
    fn what_is_given_back_is_zero_and_what_is_kept_is_not() {
        let page = rustix::param::page_size();
        let mut pages = Pages::new(4 * page);
        for (kept, first_zero) in [(1, page), (page, page), (page + 1, 2 * page), (4 * page, 4 * page)] {
            pages.fill(7);
            pages.give_back(kept);
            assert!(pages[..first_zero].iter().all(|byte| *byte == 7), "{kept}");
            assert!(pages[first_zero..].iter().all(|byte| *byte == 0), "{kept}");
        }
    }
}
