//! What the tool reads: files, and variables of an environment.

use std::ffi::OsStr;
use std::io::{self, Read, Write};

use meshweft_core::config::Config;

use crate::{INVALID, TROUBLE};

/// Whose variables `${NAME}` names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Variables {
    /// All are set, to something that is long enough for a secret.
    Assumed,
    /// Those of this process.
    Real,
}

impl Variables {
    /// The variable of this name.
    pub(crate) fn get(self, name: &str) -> Option<String> {
        match self {
            Self::Assumed => Some("assumed-to-be-set".to_owned()),
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

/// A configuration with its text, every variable taken as set; or else the exit code, after
/// saying what is wrong.
pub(crate) fn read_config(
    file: &OsStr,
    err: &mut impl Write,
) -> io::Result<Result<(Config, Vec<u8>), u8>> {
    let name = file.display();
    let text = match read(file) {
        Ok(text) => text,
        Err(error) => {
            writeln!(err, "{name}: cannot be read: {error}")?;
            return Ok(Err(TROUBLE));
        }
    };
    match Config::check(&text, &|name| Variables::Assumed.get(name)) {
        Ok(mut config) => {
            if let Some(note) = compile(&mut config) {
                writeln!(err, "{name}: {note}")?;
            }
            Ok(Ok((config, text)))
        }
        Err(errors) => {
            for error in errors {
                writeln!(err, "{name}: {error}")?;
            }
            Ok(Err(INVALID))
        }
    }
}

/// Names the expressions of `config` by their places in its list, as a host would that compiles
/// them; says of those that there are what this tool cannot say.
pub(crate) fn compile(config: &mut Config) -> Option<String> {
    let mut count = 0_u32;
    // Nothing is refused here.
    let _ = config.compile(&mut |_| {
        count = count.saturating_add(1);
        Ok(count.saturating_sub(1))
    });
    (count > 0).then(|| {
        format!(
            "{count} cel: only Envoy compiles and evaluates it, so that it is not checked here, \
             and unknown where explain is not told of it by --cel"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_assumed_unless_asked_for() {
        let name = "MESHWEFT_TEST_NOT_SET";
        assert_eq!(Variables::Assumed.get(name), Some("assumed-to-be-set".to_owned()));
        assert_eq!(Variables::Real.get(name), None);
    }
}
