//! `check`: whether the filter would take configurations.

use std::ffi::OsString;
use std::io::{self, Write};

use meshweft_core::config::Config;

use crate::input::{Variables, compile, read};
use crate::{INVALID, TROUBLE};

/// What is said of a manifest after its errors.
const MANIFEST: &str = "this seems to be a manifest; only what is under its pluginConfig is \
    checked, as JSON: see meshweft help";

/// Says of each file whether it is a configuration, and of one that is not all that is wrong.
pub(crate) fn check(
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
            Ok(text) => match Config::check(&text, &|name| variables.get(name)) {
                Ok(mut config) => {
                    writeln!(out, "{name}: ok")?;
                    if let Some(note) = compile(&mut config) {
                        writeln!(out, "{name}: {note}")?;
                    }
                }
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
