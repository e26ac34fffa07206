//! The native tool `meshweft`: says of configurations what the filter would say and do.
#![forbid(unsafe_code)]

mod args;
mod check;
mod explain;
mod input;
mod outcome;
mod request;
mod simulate;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use meshweft_core::config::schema;

use check::check;
use explain::explain;
use input::Variables;
use simulate::simulate;

const HELP: &str = "\
Usage:
  meshweft check [--env] FILE...   check configurations; - is standard input
  meshweft explain --config FILE --request 'METHOD /path' [OPTION...]
                                   say what becomes of a request, and why
  meshweft simulate --config FILE [LOG]
                                   say how many traces of a log would be kept
  meshweft schema                  print the JSON Schema of the configuration
  meshweft --version               print the version
  meshweft help                    print this text

Options of explain:
  --host NAME                      host of the request
  --header 'NAME: VALUE'           one more header of the request
  --source SOURCE                  the peer: an address, or a URI of its certificate
  --direction inbound|outbound     direction of the listener, for the mode auto
  --cel 'true|false: EXPRESSION'   whether an expression holds, which only Envoy can
                                   evaluate; unknown without it, and then its rule
                                   is for no request
  --property NAME=VALUE            a property of Envoy, such as xds.route_name=r
  --status N                       how it ended, for sampling.keep: the status; 200 without it
  --duration TIME                  the time that it took, such as 700ms
  --grpc-status STATUS             the gRPC status, such as UNAVAILABLE or 14
  --response-flags FLAGS           Envoy's response flags, such as UF,URX
  --trace-id ID                    the id of a new trace, for an answer that is always
                                   the same; without it ids are random
  --now TIME                       the time by which rules expire (RFC 3339); now without it
  --json                           print JSON

LOG is an access log or OTLP traces, as lines of JSON; without it standard input is read.

All take every ${VARIABLE} as set, because the proxy has variables of its own; with
check --env those of this environment are used. Limits and adaptive rates are
explained as they are at the start, before any load and any answer of sampling.remote.
A configuration is JSON; that in a manifest of Istio is given alone, with yq 4:
  yq -o json '.spec.pluginConfig // .spec.wasm.pluginConfig' FILE | meshweft check -

Exit codes: 0 all is well, 1 a configuration is invalid, 2 wrong usage or a file
that cannot be read.
";

/// A configuration is invalid.
const INVALID: u8 = 1;
/// The tool cannot do what it was asked for.
const TROUBLE: u8 = 2;

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
        [Some("explain"), _, ..] => explain(arguments.get(1..).unwrap_or_default(), out, err),
        [Some("simulate"), _, ..] => simulate(arguments.get(1..).unwrap_or_default(), out, err),
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

/// Says what is wrong with the arguments of a command.
fn usage(command: &str, why: &str, err: &mut impl Write) -> io::Result<u8> {
    writeln!(err, "meshweft {command}: {why}\nmeshweft help says what it takes.")?;
    Ok(TROUBLE)
}

/// Whether `word` looks like an option; `-` alone is standard input.
fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
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
}
