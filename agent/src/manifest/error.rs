//! What is wrong with a manifest.

use std::fmt;

/// Most problems that are told at once.
const SHOWN: usize = 20;

/// A manifest that cannot be run.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// More bytes than a manifest may have.
    #[error("it is larger than {limit} bytes, which no Pod is: is it the right file?")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Bytes that are no text.
    #[error("line {line}: it is not UTF-8 text")]
    NotText {
        /// Where.
        line: usize,
    },
    /// Not YAML, or more of it than a manifest needs.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Where.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// No document at all.
    #[error("it is empty: write a v1 Pod")]
    Empty,
    /// Several documents.
    #[error("line {line}: a second document begins here: write one Pod in a file")]
    SecondDocument {
        /// Where.
        line: usize,
    },
    /// Fields that cannot be acted upon, in the order of their lines.
    #[error("{}", list(.0))]
    Refused(Vec<Problem>),
}

/// A field and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// `spec.containers[0].image`.
    pub path: String,
    /// What is wrong and what to change.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (line {})", self.path, self.text, self.line)
    }
}

fn list(problems: &[Problem]) -> String {
    if let [problem] = problems {
        return problem.to_string();
    }
    let mut text = format!("{} problems", problems.len());
    for problem in problems.iter().take(SHOWN) {
        text.push_str("\n  ");
        text.push_str(&problem.to_string());
    }
    if problems.len() > SHOWN {
        text.push_str("\n  ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stands_in_the_line_and_many_in_a_list() {
        let problem = |line| Problem { line, path: "spec.x".into(), text: "is wrong".into() };
        assert_eq!(ManifestError::Refused(vec![problem(3)]).to_string(), "spec.x: is wrong (line 3)");
        let two = ManifestError::Refused(vec![problem(3), problem(4)]).to_string();
        assert_eq!(two, "2 problems\n  spec.x: is wrong (line 3)\n  spec.x: is wrong (line 4)");
        let many = ManifestError::Refused((0..30).map(problem).collect()).to_string();
        assert!(many.ends_with("\n  ...") && many.lines().count() == SHOWN + 2, "{many}");
    }
}
