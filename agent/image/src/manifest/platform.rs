//! Which of several images runs on this machine.

use serde::Deserialize;

use crate::error::brief;

#[derive(Deserialize, Debug, Default)]
pub(super) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
}

impl Platform {
    /// How well a manifest for this platform runs here; more is better.
    pub(super) fn fits(&self) -> Option<u8> {
        if self.os != "linux" || self.architecture != architecture() {
            return None;
        }
        match (architecture(), self.variant.as_deref().unwrap_or("")) {
            ("arm64", "v8" | "") | ("amd64", "" | "v1") => Some(2),
            // Higher levels of amd64 need features that this processor may not have.
            ("arm64" | "amd64", _) => None,
            _ => Some(1),
        }
    }

    pub(super) fn show(&self) -> String {
        let (os, architecture) = (brief(&self.os), brief(&self.architecture));
        match &self.variant {
            Some(variant) => format!("{os}/{architecture}/{}", brief(variant)),
            None => format!("{os}/{architecture}"),
        }
    }
}

/// This machine in the words of GOARCH.
pub(super) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
