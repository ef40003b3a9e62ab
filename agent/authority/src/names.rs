//! HPACK's tables (RFC 7541, section 2.3), as far as the names of fields go: which of them is `:authority`.
//!
//! The contents of the dynamic table depend on the sizes of its entries, so these are known as well. It has
//! at most 128 entries, since each counts for 32 bytes more than its text.

use std::collections::VecDeque;

/// Bytes that a client's table may have: SETTINGS_HEADER_TABLE_SIZE, which our server leaves at its default.
pub const MAX_TABLE: usize = 4096;
/// Overhead in bytes that an entry counts for beside its text (section 4.1).
const ENTRY: usize = 32;

/// Lengths of the static table's names (appendix A), the first at index 1.
const STATIC: [u8; 61] = [
    10, 7, 7, 5, 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 14, 15, 15, 13, 6, 27, 3, 5, 13, 13, 19, 16, 16, 14, 16, 13,
    12, 6, 4, 4, 6, 7, 4, 4, 8, 17, 13, 8, 19, 13, 4, 8, 12, 18, 19, 5, 7, 7, 11, 6, 10, 25, 17, 10, 4, 3,
    16,
];
/// Index of `:authority` in the static table.
const AUTHORITY: usize = 1;

/// A field's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// In bytes.
    pub length: usize,
    /// It is `:authority`.
    pub is_authority: bool,
}

#[derive(Debug)]
struct Entry {
    name: Name,
    size: usize,
}

/// Both tables.
#[derive(Debug)]
pub struct Names {
    /// The newest first.
    entries: VecDeque<Entry>,
    size: usize,
    max: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { entries: VecDeque::new(), size: 0, max: MAX_TABLE }
    }
}

impl Names {
    /// The name at an index, if there is an entry.
    pub fn get(&self, index: usize) -> Option<Name> {
        let place = index.checked_sub(1)?;
        match STATIC.get(place) {
            Some(length) => Some(Name { length: usize::from(*length), is_authority: index == AUTHORITY }),
            None => self.entries.get(place - STATIC.len()).map(|entry| entry.name),
        }
    }

    /// Bytes that the dynamic table counts for.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Adds an entry, for which others go; one larger than the table empties it (section 4.4).
    pub fn insert(&mut self, name: Name, value_length: usize) {
        let size = name.length + value_length + ENTRY;
        self.evict(self.max.saturating_sub(size));
        if size <= self.max {
            self.size += size;
            self.entries.push_front(Entry { name, size });
        }
    }

    /// The client uses no more than `max` bytes from now on (section 4.3).
    pub fn resize(&mut self, max: usize) {
        self.max = max;
        self.evict(max);
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use httlib_hpack::Decoder;

    use super::*;

    const OTHER: Name = Name { length: 3, is_authority: false };
    const OWN: Name = Name { length: 10, is_authority: true };

    #[test]
    fn the_static_table_is_that_of_another_implementation() {
        let names = Names::default();
        for index in 1..=61 {
            let mut fields = Vec::new();
            Decoder::default().decode(&mut vec![0x80 | index], &mut fields).unwrap();
            let name = &fields[0].0;
            let expected = Name { length: name.len(), is_authority: name == b":authority" };
            assert_eq!(names.get(usize::from(index)), Some(expected), "{index}");
        }
        assert_eq!((names.get(0), names.get(62), names.get(usize::MAX)), (None, None, None));
    }

    #[test]
    fn the_oldest_goes_first() {
        let mut names = Names::default();
        names.resize(100);
        names.insert(OWN, 8);
        names.insert(OTHER, 15);
        assert_eq!((names.size, names.get(62), names.get(63)), (100, Some(OTHER), Some(OWN)));
        names.insert(OTHER, 0);
        assert_eq!((names.size, names.get(63), names.get(64)), (85, Some(OTHER), None));
        names.resize(36);
        assert_eq!((names.size, names.get(62), names.get(63)), (35, Some(OTHER), None));
    }

    #[test]
    fn one_larger_than_the_table_empties_it() {
        let mut names = Names::default();
        names.insert(OWN, 0);
        names.insert(OTHER, MAX_TABLE);
        assert_eq!((names.size, names.get(62)), (0, None));
        names.resize(0);
        names.insert(OTHER, 0);
        assert_eq!((names.size, names.get(62)), (0, None));
    }
}
