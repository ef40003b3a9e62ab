//! Which sysctls a pod may set, and where they lie under /proc/sys.
//!
//! Core only: the library and the holder program, which has no std, both compile this file.

/// The namespace that a sysctl belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlNamespace {
    /// `net.*`
    Net,
    /// `kernel.shm*`, `kernel.msg*`, `kernel.sem`, `fs.mqueue.*`
    Ipc,
}

/// Why a sysctl is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SysctlRefusal {
    /// No path of plain names.
    Malformed,
    /// It would change the node, not the pod.
    NotNamespaced,
}

impl SysctlRefusal {
    /// For a message, after the name.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Malformed => "is no sysctl name; write it like net.ipv4.ip_forward",
            Self::NotNamespaced => {
                "is not one of a pod's own; only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* are"
            }
        }
    }
}

/// A sysctl that a pod may set.
#[derive(Debug, Clone, Copy)]
pub struct Sysctl<'a> {
    name: &'a [u8],
    /// Dots separate, and slashes stand for dots.
    dotted: bool,
    /// Where it belongs.
    pub namespace: SysctlNamespace,
}

/// Longest name in bytes.
pub const MAX_SYSCTL_NAME: usize = 200;

impl<'a> Sysctl<'a> {
    /// Checks a name. As in sysctl(8) the first `.` or `/` says which of the two separates; the other one then
    /// stands for a dot: `net.ipv4.conf.eth0/100.forwarding` and `net/ipv4/conf/eth0.100/forwarding` are the same.
    pub fn parse(name: &'a [u8]) -> Result<Self, SysctlRefusal> {
        let dotted = name.iter().find(|byte| matches!(byte, b'.' | b'/')) == Some(&b'.');
        let mut sysctl = Self { name, dotted, namespace: SysctlNamespace::Net };
        if name.len() > MAX_SYSCTL_NAME || !sysctl.is_plain() {
            return Err(SysctlRefusal::Malformed);
        }
        sysctl.namespace = sysctl.find_namespace().ok_or(SysctlRefusal::NotNamespaced)?;
        Ok(sysctl)
    }

    /// The path below /proc/sys.
    pub fn path(&self) -> impl Iterator<Item = u8> + use<'a> {
        let dotted = self.dotted;
        self.name.iter().map(move |byte| match byte {
            b'.' if dotted => b'/',
            b'/' if dotted => b'.',
            other => *other,
        })
    }

    /// No component is empty, `.` or `..`, and nothing is a control character, a space, `=` or not ASCII.
    fn is_plain(&self) -> bool {
        let (mut length, mut only_dots) = (0, true);
        for byte in self.path().chain([b'/']) {
            if byte == b'/' {
                if only_dots && length <= 2 {
                    return false;
                }
                (length, only_dots) = (0, true);
            } else if byte.is_ascii_graphic() && byte != b'=' {
                length += 1;
                only_dots &= byte == b'.';
            } else {
                return false;
            }
        }
        true
    }

    fn find_namespace(&self) -> Option<SysctlNamespace> {
        use SysctlNamespace::{Ipc, Net};
        let prefixes: [(&[u8], _); 4] =
            [(b"net/", Net), (b"kernel/shm", Ipc), (b"kernel/msg", Ipc), (b"fs/mqueue/", Ipc)];
        let starts_with = |prefix: &[u8]| self.path().take(prefix.len()).eq(prefix.iter().copied());
        prefixes
            .into_iter()
            .find(|(prefix, _)| starts_with(prefix))
            .map(|(_, namespace)| namespace)
            .or_else(|| self.path().eq(*b"kernel/sem").then_some(Ipc))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(name: &str) -> Result<(String, SysctlNamespace), SysctlRefusal> {
        let sysctl = Sysctl::parse(name.as_bytes())?;
        Ok((String::from_utf8(sysctl.path().collect()).unwrap(), sysctl.namespace))
    }

    #[test]
    fn both_spellings_name_one_file() {
        use SysctlNamespace::{Ipc, Net};
        for (name, file, namespace) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward", Net),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward", Net),
            ("net/ipv4/conf/eth0.100/forwarding", "net/ipv4/conf/eth0.100/forwarding", Net),
            ("net.ipv4.conf.eth0/100.forwarding", "net/ipv4/conf/eth0.100/forwarding", Net),
            ("kernel.shmmax", "kernel/shmmax", Ipc),
            ("kernel.shm_rmid_forced", "kernel/shm_rmid_forced", Ipc),
            ("kernel/msgmax", "kernel/msgmax", Ipc),
            ("kernel.sem", "kernel/sem", Ipc),
            ("fs.mqueue.msg_max", "fs/mqueue/msg_max", Ipc),
        ] {
            assert_eq!(path(name), Ok((file.to_owned(), namespace)), "{name}");
        }
    }

    #[test]
    fn what_is_the_nodes_is_refused() {
        for name in
            ["kernel.hostname", "kernel.panic", "vm.swappiness", "fs.file-max", "kernel.semx", "netx", "net"]
        {
            assert_eq!(path(name), Err(SysctlRefusal::NotNamespaced), "{name}");
        }
    }

    #[test]
    fn what_climbs_is_refused() {
        for name in [
            "",
            ".",
            "..",
            "net/../kernel/panic",
            "net/ipv4/..",
            "net/./ipv4",
            "net//ipv4",
            "/net/ipv4",
            "net.ipv4.",
            "net...ipv4",
            "net.//.kernel.panic",
            "net. x",
            "net.\n",
            "net.ä",
            "net.ipv4.x=1",
            "net/ipv4.//.//.kernel",
        ] {
            assert_eq!(path(name), Err(SysctlRefusal::Malformed), "{name:?}");
        }
        assert!(path(&format!("net.{}", "a".repeat(MAX_SYSCTL_NAME))).is_err());
    }

    proptest! {
        #[test]
        fn no_name_leads_out(name in "(net|kernel|fs)?[./a-z]{0,30}") {
            if let Ok((path, _)) = path(&name) {
                let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
                prop_assert!(path.split('/').all(plain), "{name} became {path}");
            }
        }
    }
}
