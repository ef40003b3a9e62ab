//! Text without a heap.

use core::ffi::CStr;

/// Up to `N` bytes; what is more is cut, and [`Text::is_cut`] says so.
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Text<N> {
    /// Empty.
    pub const fn new() -> Self {
        Self { bytes: [0; N], len: 0, cut: false }
    }

    /// Appends.
    pub fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let Some(place) = self.bytes.get_mut(self.len) else {
                self.cut = true;
                return;
            };
            *place = *byte;
            self.len += 1;
        }
    }

    /// Appends a number in decimal digits.
    pub fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Something did not fit.
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// As a C string, if it was ended by a zero byte and has no other.
    pub fn c_str(&self) -> Option<&CStr> {
        CStr::from_bytes_with_nul(self.bytes()).ok()
    }
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self::new()
    }
}
