//! Expressions of CEL, which the host compiles and evaluates.

use super::Match;
use super::error::{ConfigError, Problem};

/// An expression of CEL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expression {
    /// As the configuration has it.
    pub text: String,
    /// Its place in the configuration, from `$`.
    pub path: String,
    /// The host's name for it, once it is compiled.
    pub token: Option<u32>,
}

/// Why the host has not compiled an expression.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CelError {
    /// It is none.
    NotCompiled,
    /// The host knows no expressions.
    Unsupported,
}

/// The host, as it compiles the text of an expression.
pub type Compiler<'a> = dyn FnMut(&str) -> Result<u32, CelError> + 'a;

impl Match {
    /// Has the host compile all expressions.
    pub(super) fn compile(&mut self, compiler: &mut Compiler<'_>) -> Result<(), ConfigError> {
        let mut next = Some(self);
        while let Some(matches) = next {
            if let Some(expression) = &mut matches.cel {
                let token = compiler(&expression.text).map_err(|reason| {
                    ConfigError::new(&*expression.path, Problem::Cel { reason })
                })?;
                expression.token = Some(token);
            }
            next = matches.not.as_deref_mut();
        }
        Ok(())
    }

    /// All expressions.
    pub(super) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let all = core::iter::successors(Some(self), |matches| matches.not.as_deref());
        all.filter_map(|matches| matches.cel.as_ref())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::config::Config;

    const CONFIG: &str = r#"{
        "propagation": {"trust": [{"match": {"cel": "a"}, "trust": "link"}]},
        "sampling": {"rules": [
            {"name": "plain", "match": {"path": "/"}},
            {"name": "deep", "match": {"cel": "b", "not": {"path": "/", "not": {"cel": "c"}}}}]}}"#;

    fn config() -> Config {
        Config::parse(CONFIG.as_bytes(), &|_| None).unwrap()
    }

    #[test]
    fn the_host_compiles_each_once() {
        let mut config = config();
        let mut compiled = Vec::new();
        let mut compiler = |text: &str| {
            compiled.push(text.to_owned());
            Ok(u32::try_from(compiled.len()).unwrap())
        };
        assert_eq!(config.compile(&mut compiler), Ok(()));
        assert_eq!(compiled, ["a", "b", "c"]);
        let told: Vec<_> = config.expressions().map(|e| (&*e.path, &*e.text, e.token)).collect();
        assert_eq!(
            told,
            [
                ("$.propagation.trust[0].match.cel", "a", Some(1)),
                ("$.sampling.rules[1].match.cel", "b", Some(2)),
                ("$.sampling.rules[1].match.not.not.cel", "c", Some(3)),
            ]
        );
    }

    #[test]
    fn what_the_host_refuses_is_an_error_with_its_place() {
        let refused = |at: &str, reason| {
            let mut compiler = |text: &str| if text == at { Err(reason) } else { Ok(7) };
            config().compile(&mut compiler).unwrap_err().to_string()
        };
        assert_eq!(
            refused("c", CelError::NotCompiled),
            "configuration: $.sampling.rules[1].match.not.not.cel: the expression does not compile: \
             allowed is CEL as Envoy has it (a line \"expr_create\" of its log says why, at the \
             level info of the logger wasm)"
        );
        assert_eq!(
            refused("a", CelError::Unsupported),
            "configuration: $.propagation.trust[0].match.cel: this host evaluates no expressions: \
             allowed is cel where Envoy has the foreign functions expr_create and expr_evaluate"
        );
    }
}
