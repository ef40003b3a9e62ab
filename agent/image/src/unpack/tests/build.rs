//! Archives with every field under control.

use tar::{EntryType, Header};

/// An archive under construction. Entries are written as they are told, whatever that means.
#[derive(Default, Clone)]
pub(super) struct Tar(pub Vec<u8>);

/// What an entry has besides its name and kind.
#[derive(Clone)]
pub(super) struct Extra<'a> {
    pub link: &'a [u8],
    pub data: &'a [u8],
    pub mode: u32,
    pub owner: (u64, u64),
    pub mtime: u64,
    pub device: (u32, u32),
}

impl Default for Extra<'_> {
    fn default() -> Self {
        Self { link: b"", data: b"", mode: 0o644, owner: (0, 0), mtime: 1_000_000, device: (1, 3) }
    }
}

impl Tar {
    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name.as_bytes(), &Extra { data, ..Extra::default() })
    }

    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name.as_bytes(), &Extra { mode, ..Extra::default() })
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(
            EntryType::Symlink,
            name.as_bytes(),
            &Extra { link: target.as_bytes(), ..Extra::default() },
        )
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name.as_bytes(), &Extra { link: target.as_bytes(), ..Extra::default() })
    }

    /// Names longer than their field go into GNU long names.
    pub fn entry(mut self, kind: EntryType, name: &[u8], extra: &Extra<'_>) -> Self {
        for (kind, text, room) in
            [(EntryType::GNULongName, name, 100), (EntryType::GNULongLink, extra.link, 100)]
        {
            if text.len() > room {
                self = self.raw(
                    kind,
                    b"././@LongLink",
                    &Extra { data: &[text, b"\0"].concat(), ..Extra::default() },
                );
            }
        }
        let cut = Extra { link: &extra.link[..extra.link.len().min(100)], ..extra.clone() };
        self.raw(kind, &name[..name.len().min(100)], &cut)
    }

    /// A PAX header for the entry that follows.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let data: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.raw(EntryType::XHeader, b"pax", &Extra { data: &data, ..Extra::default() })
    }

    /// One header block and its data.
    pub fn raw(self, kind: EntryType, name: &[u8], extra: &Extra<'_>) -> Self {
        let mut header = Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.as_mut_bytes()[157..157 + extra.link.len()].copy_from_slice(extra.link);
        header.set_entry_type(kind);
        header.set_mode(extra.mode);
        header.set_uid(extra.owner.0);
        header.set_gid(extra.owner.1);
        header.set_mtime(extra.mtime);
        header.set_size(extra.data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(extra.device.0).unwrap();
            header.set_device_minor(extra.device.1).unwrap();
        }
        header.set_cksum();
        self.block(&header, extra.data)
    }

    /// A finished header and data, padded.
    pub fn block(mut self, header: &Header, data: &[u8]) -> Self {
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// With the blocks at the end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(super) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
