//! Choice of the image for this machine among several: names of platforms in one spelling, and their order.
//!
//! The rules are those of containerd's platforms module: names in any case and with the synonyms that builders write,
//! and after the machine's own architecture the older one whose programs it runs as well.

use serde::Deserialize;

use crate::error::brief;

/// A platform as an index or a configuration writes it.
#[derive(Deserialize, Debug, Default, Clone)]
pub(super) struct Platform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.features")]
    features: Option<Vec<String>>,
}

impl Platform {
    pub(super) fn new(os: Option<String>, architecture: Option<String>, variant: Option<String>) -> Self {
        Self { os, architecture, variant, features: None }
    }

    /// Whether it says nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
        empty(&self.os) && empty(&self.architecture)
    }

    /// Rank of this platform's images here: 0 is this machine's own, more is an older architecture.
    pub(super) fn rank(&self) -> Option<usize> {
        self.rank_on(std::env::consts::ARCH)
    }

    fn rank_on(&self, machine: &str) -> Option<usize> {
        // A feature is one that the host has to have (of Windows, or a file system of layers); we know none.
        if self.os() != "linux" || self.features.as_ref().is_some_and(|features| !features.is_empty()) {
            return None;
        }
        let (architecture, variant) = self.architecture();
        accepted(machine).iter().position(|known| *known == (architecture.as_str(), variant.as_str()))
    }

    /// Whether a configuration that says this may be one for here: its variant, and what it leaves out, do not count.
    pub(super) fn may_run(&self) -> bool {
        let (architecture, _) = self.architecture();
        let known = accepted(std::env::consts::ARCH);
        self.os() == "linux"
            && (architecture.is_empty() || known.iter().any(|(known, _)| *known == architecture))
    }

    fn os(&self) -> String {
        self.os.as_deref().filter(|os| !os.is_empty()).unwrap_or("linux").to_lowercase()
    }

    /// Architecture in the words of GOARCH, and the variant, which is empty for the usual one.
    fn architecture(&self) -> (String, String) {
        let lower = |text: &Option<String>| text.as_deref().unwrap_or_default().to_lowercase();
        let (architecture, variant) = (lower(&self.architecture), lower(&self.variant));
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386", _) => ("386", ""),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        (architecture.to_owned(), variant.to_owned())
    }

    pub(super) fn show(&self) -> String {
        let part = |text: &Option<String>| brief(text.as_deref().unwrap_or_default());
        match self.variant.as_deref().filter(|variant| !variant.is_empty()) {
            Some(variant) => format!("{}/{}/{}", part(&self.os), part(&self.architecture), brief(variant)),
            None => format!("{}/{}", part(&self.os), part(&self.architecture)),
        }
    }
}

/// Platforms that a machine runs, as architecture and variant, best first. Of amd64 the levels above the
/// first are left out: they need features that the processor may not have.
fn accepted(machine: &str) -> &'static [(&'static str, &'static str)] {
    match machine {
        "x86_64" => &[("amd64", ""), ("386", "")],
        "x86" => &[("386", "")],
        "aarch64" => &[("arm64", ""), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "arm" => &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "powerpc64" => &[("ppc64le", "")],
        "riscv64" => &[("riscv64", "")],
        "s390x" => &[("s390x", "")],
        "loongarch64" => &[("loong64", "")],
        _ => &[],
    }
}

/// This machine in the words of GOARCH.
pub(super) fn architecture() -> &'static str {
    accepted(std::env::consts::ARCH).first().map_or(std::env::consts::ARCH, |(architecture, _)| architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(|part| Some(part.to_owned()));
        let mut next = || parts.next().flatten();
        Platform::new(next(), next(), next())
    }

    #[test]
    fn every_spelling_of_a_platform() {
        let cases = [
            ("x86_64", "linux/amd64", Some(0)),
            ("x86_64", "linux/amd64/v1", Some(0)),
            ("x86_64", "Linux/AMD64", Some(0)),
            ("x86_64", "linux/x86_64", Some(0)),
            ("x86_64", "linux/X86-64/V1", Some(0)),
            ("x86_64", "/amd64", Some(0)),
            ("x86_64", "linux/386", Some(1)),
            ("x86_64", "linux/i386", Some(1)),
            ("x86_64", "linux/amd64/v2", None),
            ("x86_64", "linux/x86_64/v3", None),
            ("x86_64", "linux/arm64", None),
            ("x86_64", "linux/", None),
            ("x86_64", "windows/amd64", None),
            ("x86_64", "unknown/unknown", None),
            ("x86", "linux/386", Some(0)),
            ("x86", "linux/amd64", None),
            ("aarch64", "linux/arm64", Some(0)),
            ("aarch64", "linux/arm64/v8", Some(0)),
            ("aarch64", "linux/arm64/8", Some(0)),
            ("aarch64", "linux/aarch64", Some(0)),
            ("aarch64", "linux/AArch64/v8.0", Some(0)),
            ("aarch64", "linux/arm64/v9", None),
            ("aarch64", "linux/arm/v8", Some(1)),
            ("aarch64", "linux/arm", Some(2)),
            ("aarch64", "linux/armhf", Some(2)),
            ("aarch64", "linux/arm/7", Some(2)),
            ("aarch64", "linux/armel", Some(3)),
            ("aarch64", "linux/arm/v5", Some(4)),
            ("aarch64", "linux/amd64", None),
            ("arm", "linux/arm/v6", Some(1)),
            ("arm", "linux/arm64", None),
            ("powerpc64", "linux/ppc64le", Some(0)),
            ("sparc64", "linux/sparc64", None),
        ];
        for (machine, text, want) in cases {
            assert_eq!(platform(text).rank_on(machine), want, "{text} on {machine}");
        }
    }

    #[test]
    fn features_that_the_host_lacks() {
        let mut erofs = platform("linux/amd64");
        erofs.features = Some(vec!["erofs".into()]);
        assert_eq!(erofs.rank_on("x86_64"), None);
        erofs.features = Some(Vec::new());
        assert_eq!(erofs.rank_on("x86_64"), Some(0));
    }
}
