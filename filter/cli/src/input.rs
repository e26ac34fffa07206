//! What the tool reads: files, and variables of an environment.

use std::ffi::OsStr;
use std::io::{self, Read};

/// Whose variables `${NAME}` names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Variables {
    /// All are set, to something.
    Assumed,
    /// Those of this process.
    Real,
}

impl Variables {
    /// The variable of this name.
    pub(crate) fn get(self, name: &str) -> Option<String> {
        match self {
            Self::Assumed => Some("assumed".to_owned()),
            Self::Real => std::env::var(name).ok(),
        }
    }
}

/// All of a file; `-` is standard input.
pub(crate) fn read(file: &OsStr) -> io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_assumed_unless_asked_for() {
        let name = "MESHWEFT_TEST_NOT_SET";
        assert_eq!(Variables::Assumed.get(name), Some("assumed".to_owned()));
        assert_eq!(Variables::Real.get(name), None);
    }
}
