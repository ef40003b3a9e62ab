//! What critest's benchmarks have to be told, for somebody who only says `-benchmark`: without numbers four of the five skip
//! themselves, and results go to a directory that critest does not make.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::flags;

/// Flag that asks for them.
pub const FLAG: &str = "benchmark";
/// Directory of the results, beside the logs.
pub const RESULTS: &str = "critest-benchmarks";

const NUMBERS: &str = "benchmarking-params-file";
const OUTPUT: &str = "benchmarking-output-dir";
/// Counts, and limits in seconds, that a small machine keeps (cri-tools `docs/benchmark.md`).
const PARAMETERS: &str = "containersNumber: 20
containersNumberParallel: 2
containerBenchmarkTimeoutSeconds: 60
podsNumber: 20
podsNumberParallel: 2
podBenchmarkTimeoutSeconds: 60
imagesNumber: 20
imagesNumberParallel: 2
imageBenchmarkTimeoutSeconds: 60
podContainerStartBenchmarkTimeoutSeconds: 60
";

/// The flags that are missing; makes the file and the directory that they name. Empty in a run without benchmarks.
pub fn flags(args: &[String], tmp: &Path, logs: &Path) -> Result<Vec<String>> {
    let mut more = Vec::new();
    if !flags::has(args, FLAG) {
        return Ok(more);
    }
    if !flags::has(args, NUMBERS) {
        let file = tmp.join("benchmarks.yaml");
        fs::write(&file, PARAMETERS).with_context(|| format!("write {}", file.display()))?;
        more.push(format!("-{NUMBERS}={}", file.display()));
    }
    let results = logs.join(RESULTS);
    let given = flags::value(args, OUTPUT).map(Path::new);
    let dir = given.unwrap_or(&results);
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    if given.is_none() {
        more.push(format!("-{OUTPUT}={}", dir.display()));
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_added_and_what_is_said_counts() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let more = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            flags(&args, dir.path(), &dir.path().join("logs"))
        };
        assert!(more("-ginkgo.focus=x")?.is_empty() && !dir.path().join("logs").exists());
        let both = more("--benchmark")?;
        let file = flags::value(&both, NUMBERS).context("no numbers")?;
        assert!(fs::read_to_string(file)?.contains("podsNumber: 20"));
        assert!(Path::new(flags::value(&both, OUTPUT).context("no directory")?).is_dir());
        let given = dir.path().join("a/b");
        let line = format!("-benchmark -{OUTPUT} {} -{NUMBERS}=own.yaml", given.display());
        assert!(more(&line)?.is_empty() && given.is_dir());
        Ok(())
    }
}
