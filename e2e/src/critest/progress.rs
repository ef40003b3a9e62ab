//! One line for each spec while critest runs, from what ginkgo prints.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, Write as _},
};

use anyhow::{Context, Result};

/// Copies the output to the log, and says which spec came to an end.
pub fn follow(output: PipeReader, mut log: File) -> Result<()> {
    let mut specs = Specs::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line.context("read critest's output")?;
        log.write_all(&line).and_then(|()| log.write_all(b"\n")).context("write critest's log")?;
        if let Some(text) = specs.line(&String::from_utf8_lossy(&line)) {
            println!("    {text}");
        }
    }
    Ok(())
}

/// Reads ginkgo's verbose output: a rule, the spec's name, what it does, and a bullet with how it ended. When several
/// run at once the bullet stands before the name.
#[derive(Default)]
struct Specs {
    after_rule: bool,
    name: String,
    nameless: Option<(&'static str, String)>,
    ended: usize,
}

impl Specs {
    fn line(&mut self, line: &str) -> Option<String> {
        if line.len() > 20 && line.chars().all(|c| c == '-') {
            self.after_rule = true;
            return None;
        }
        if let Some((what, seconds)) = ended(line) {
            if self.after_rule {
                self.nameless = Some((what, seconds.to_owned()));
                return None;
            }
            return Some(self.end(what, seconds));
        }
        if self.after_rule && !line.trim().is_empty() {
            self.after_rule = false;
            self.name = line.trim().replace("[BeforeEach] ", "").replace("[It] ", "");
            return self.nameless.take().map(|(what, seconds)| self.end(what, &seconds));
        }
        None
    }

    fn end(&mut self, what: &str, seconds: &str) -> String {
        self.ended += 1;
        format!("{:3} {what:7} {seconds:>6} s  {}", self.ended, self.name)
    }
}

/// `• [1.234 seconds]`, `• [FAILED] [1.2 seconds]`, `S [SKIPPED] [0.1 seconds]`: what, and how long it took.
fn ended(line: &str) -> Option<(&'static str, &str)> {
    let rest = line.strip_prefix("• [").or_else(|| line.strip_prefix("S ["))?;
    let (head, _) = rest.strip_suffix(']').or(Some(rest))?.split_once(" seconds")?;
    let seconds = head.rsplit('[').next()?;
    let what = match head.split(']').next()? {
        "SKIPPED" => "skipped",
        word if word.starts_with(|c: char| c.is_ascii_digit()) => "ok",
        _ => "FAILED",
    };
    Some((what, seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_has_one_line_when_it_ends() {
        let rule = "-".repeat(30);
        let text = format!(
            "critest version: v1.36.0\n{rule}\n[SynchronizedBeforeSuite] \n/x/e2e.go:1\n[SynchronizedBeforeSuite] PASSED [0.001 seconds]\n\
             {rule}\n[k8s.io] Image Manager public image\n/x/image.go:10\n  STEP: pull\n• [1.5 seconds]\n{rule}\n\n\
             {rule}\n[k8s.io] Streaming exec\n/x/s.go:1\n• [FAILED] [0.25 seconds]\n{rule}\n\
             [k8s.io] AppArmor\nS [SKIPPED] [0.001 seconds]\n{rule}\nS\n{rule}\nS\n{rule}\n\
             • [FAILED] [1.1 seconds]\n[k8s.io] Several [It] at once\n/x/s.go:1\n{rule}\n"
        );
        let mut specs = Specs::default();
        let lines: Vec<String> = text.lines().filter_map(|line| specs.line(line)).collect();
        assert_eq!(
            lines,
            [
                "  1 ok         1.5 s  [k8s.io] Image Manager public image",
                "  2 FAILED    0.25 s  [k8s.io] Streaming exec",
                "  3 skipped  0.001 s  [k8s.io] AppArmor",
                "  4 FAILED     1.1 s  [k8s.io] Several at once",
            ]
        );
    }
}
