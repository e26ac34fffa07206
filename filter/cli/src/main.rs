//! The native tool `meshweft`: says of configurations what the filter would say.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::ExitCode;

use meshweft_core::config::{Config, schema};

const HELP: &str = "\
Usage:
  meshweft check [--env] FILE...   check configurations; - is standard input
  meshweft schema                  print the JSON Schema of the configuration
  meshweft --version               print the version
  meshweft help                    print this text

check takes every ${VARIABLE} as set, because the proxy has variables of its own;
with --env those of this environment are used. It reads JSON; the configuration in a
manifest of Istio is given alone, with yq 4:
  yq -o json '.spec.pluginConfig // .spec.wasm.pluginConfig' FILE | meshweft check -

Exit codes: 0 all is well, 1 a configuration is invalid, 2 wrong usage or a file
that cannot be read.
";

/// What is said of a manifest after its errors.
const MANIFEST: &str = "this seems to be a manifest; only what is under its pluginConfig is \
    checked, as JSON: see meshweft help";
/// A configuration is invalid.
const INVALID: u8 = 1;
/// The tool cannot do what it was asked for.
const TROUBLE: u8 = 2;

/// Whose variables `${NAME}` names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Variables {
    /// All are set, to something.
    Assumed,
    /// Those of this process.
    Real,
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match run(&arguments, &mut io::stdout().lock(), &mut io::stderr().lock()) {
        Ok(code) => ExitCode::from(code),
        // Whoever read our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(TROUBLE),
    }
}

fn run(arguments: &[OsString], out: &mut impl Write, err: &mut impl Write) -> io::Result<u8> {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_str()).collect();
    match words.as_slice() {
        [Some("check"), Some("--env"), rest @ ..] if !rest.is_empty() => {
            check(arguments.get(2..).unwrap_or_default(), Variables::Real, out, err)
        }
        [Some("check"), first, ..] if !first.is_some_and(is_option) => {
            check(arguments.get(1..).unwrap_or_default(), Variables::Assumed, out, err)
        }
        [Some("schema")] => {
            writeln!(out, "{:#}", schema())?;
            Ok(0)
        }
        [Some("--version" | "-V" | "version")] => {
            writeln!(out, "meshweft {}", env!("CARGO_PKG_VERSION"))?;
            Ok(0)
        }
        [Some("help" | "--help" | "-h")] => {
            write!(out, "{HELP}")?;
            Ok(0)
        }
        _ => {
            write!(err, "{HELP}")?;
            Ok(TROUBLE)
        }
    }
}

/// Whether `word` looks like an option; `-` alone is standard input.
fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

fn check(
    files: &[OsString],
    variables: Variables,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<u8> {
    let mut code = 0;
    for file in files {
        let name = file.to_string_lossy();
        match read(file) {
            Err(error) => {
                writeln!(err, "{name}: cannot be read: {error}")?;
                code = code.max(TROUBLE);
            }
            Ok(text) => match Config::check(&text, &|name| variable(name, variables)) {
                Ok(_) => writeln!(out, "{name}: ok")?,
                Err(errors) => {
                    for error in errors {
                        writeln!(out, "{name}: {error}")?;
                    }
                    if is_manifest(&text) {
                        writeln!(out, "{name}: {MANIFEST}")?;
                    }
                    code = code.max(INVALID);
                }
            },
        }
    }
    Ok(code)
}

/// Whether `text` is rather what holds a configuration.
fn is_manifest(text: &[u8]) -> bool {
    const KEY: &[u8] = b"pluginConfig";
    text.windows(KEY.len()).any(|window| window == KEY)
}

fn read(file: &OsString) -> io::Result<Vec<u8>> {
    if file != "-" {
        return std::fs::read(file);
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

fn variable(name: &str, variables: Variables) -> Option<String> {
    match variables {
        Variables::Assumed => Some("assumed".to_owned()),
        Variables::Real => std::env::var(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_no_files() {
        for (word, option) in [("-", false), ("--env", true), ("-x", true), ("a.json", false)] {
            assert_eq!(is_option(word), option, "{word}");
        }
    }

    #[test]
    fn variables_are_assumed_unless_asked_for() {
        let name = "MESHWEFT_TEST_NOT_SET";
        assert_eq!(variable(name, Variables::Assumed), Some("assumed".to_owned()));
        assert_eq!(variable(name, Variables::Real), None);
    }
}
