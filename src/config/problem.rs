//! What is wrong with a configuration, said so that a person can mend it: file, line, what was found, what would be right.

use std::fmt;

/// One thing to mend.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    pub file: String,
    /// From 1; 0 where the problem has no line (a missing file, a directory that cannot be read).
    pub line: usize,
    /// The dotted path of the key, such as `broker.listen`; empty for syntax errors.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub hint: String,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub file: String,
    pub line: usize,
    pub key: String,
}

impl Place {
    pub fn problem(&self, found: impl Into<String>, hint: impl Into<String>) -> Problem {
        let Place { file, line, key } = self.clone();
        Problem { file, line, key, found: found.into(), hint: hint.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.found)?;
        if !self.hint.is_empty() {
            write!(f, "\n    {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}
