//! Any bytes as the plugin's configuration.

use meshweft_core::config::Config;

/// A configuration is refused in words or read; a read one is read again the same, also when
/// another program has written its JSON anew.
pub fn config(input: &[u8]) {
    match read(input) {
        Ok(config) => {
            let spaced = [b" \n", input, b"\t "].concat();
            assert_eq!(read(&spaced).as_ref(), Ok(&config));
            if !input.trim_ascii().is_empty() {
                let value: serde_json::Value = serde_json::from_slice(input).unwrap();
                assert_eq!(read(&serde_json::to_vec(&value).unwrap()).map(|_| ()), Ok(()));
            }
        }
        Err(errors) => {
            assert!((1..=100).contains(&errors.len()), "{errors:?}");
            for error in errors {
                assert!(error.starts_with("configuration: "), "{error}");
                assert!(!error.contains(['\n', '\r']), "{error}");
            }
        }
    }
}

fn read(json: &[u8]) -> Result<String, Vec<String>> {
    let environment = |name: &str| (name == "TOKEN").then(|| "secret".to_owned());
    let read = Config::check(json, &environment);
    assert_eq!(
        Config::parse(json, &environment)
            .map(|_| ())
            .map_err(|error| (error.problem, error.others)),
        read.as_ref().map(|_| ()).map_err(|errors| (errors[0].problem.clone(), errors.len() - 1))
    );
    read.map(|config| format!("{config:?}"))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}
