//! critest itself, and the ginkgo program that its `--parallel` starts.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use crate::{
    run::{quiet, step},
    tools::{self, CRI_TOOLS},
    work::{Work, once},
};

/// Where one digest is written that no stand-in can have.
const CONSTS: &str = "pkg/validate/consts.go";
/// What stands before it.
const REFERENCE: &str = "\"test-image-digest@";

/// Builds critest for a `test-image-digest` with this digest.
pub fn critest(work: &Work, digest: &str) -> Result<()> {
    once(&work.tools().join("critest.stamp"), &format!("{CRI_TOOLS} {digest}"), || {
        step(&format!("building critest {CRI_TOOLS}"), || {
            let module = tools::cri_tools(work)?;
            use_digest(&module, digest)?;
            let log = work.dir("logs")?.join("critest-build.log");
            let mut build = tools::go(&module, ["test", "-c", "-trimpath", "-buildvcs=false"]);
            build.args(["-ldflags", &tools::version_flag(), "-o"]).arg(work.tools().join("critest"));
            quiet(build.arg("./cmd/critest"), &log)?;
            let mut build = tools::go(&module, ["build", "-trimpath", "-buildvcs=false", "-o"]);
            build.arg(work.tools().join("ginkgo")).arg("github.com/onsi/ginkgo/v2/ginkgo");
            quiet(&mut build, &log)
        })
    })
}

fn use_digest(module: &Path, digest: &str) -> Result<()> {
    let path = module.join(CONSTS);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let text = replaced(&text, digest).with_context(|| path.display().to_string())?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The text with the one digest changed, whichever it was: the folder may have been built in before.
fn replaced(text: &str, digest: &str) -> Result<String> {
    ensure!(text.matches(REFERENCE).count() == 1, "{REFERENCE}... does not stand there once");
    let (head, tail) = text.split_once(REFERENCE).context("no digest")?;
    let (_, rest) = tail.split_once('"').context("a digest without end")?;
    Ok(format!("{head}{REFERENCE}{digest}\"{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_digest_changes_and_nothing_else() {
        let text = |digest: &str| {
            format!(
                "a = registry + \"test-image-digest@{digest}\"\nb = registry + \"win-test-image-digest@sha256:0e\"\n"
            )
        };
        let once = replaced(&text("sha256:97"), "sha256:12").expect("replaced");
        assert_eq!(once, text("sha256:12"));
        assert_eq!(replaced(&once, "sha256:34").expect("replaced again"), text("sha256:34"));
        assert!(replaced("nothing", "sha256:12").is_err());
        assert!(replaced(&text("x").repeat(2), "sha256:12").is_err());
    }
}
