//! Options as `--name value` or `--name=value`.

use std::ffi::{OsStr, OsString};

/// The options that a command knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known<'k> {
    /// Those with a value, at most once.
    pub(crate) once: &'k [&'k str],
    /// Those with a value, any number of times.
    pub(crate) often: &'k [&'k str],
    /// Those without a value.
    pub(crate) flags: &'k [&'k str],
    /// How many arguments may be no option.
    pub(crate) words: usize,
}

/// Options as they were given.
#[derive(Debug, Default)]
pub(crate) struct Args<'a> {
    options: Vec<(&'a str, &'a OsStr)>,
    /// What is no option.
    pub(crate) words: Vec<&'a OsStr>,
}

impl<'a> Args<'a> {
    /// Reads options.
    ///
    /// # Errors
    /// Says of the first argument that is wrong what is.
    pub(crate) fn parse(arguments: &'a [OsString], known: Known<'_>) -> Result<Self, String> {
        let mut args = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let option = argument.to_str().is_some_and(|word| word.starts_with("--"));
            if !option && args.words.len() < known.words {
                args.words.push(argument);
                continue;
            }
            let word = text(argument).map_err(|why| format!("{}: {why}", argument.display()))?;
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value)),
                Some(_) | None => (word, None),
            };
            let flag = known.flags.contains(&name);
            if !flag && !known.once.contains(&name) && !known.often.contains(&name) {
                return Err(format!("{name}: no such option"));
            }
            if !known.often.contains(&name) && args.flag(name) {
                return Err(format!("{name} is given twice"));
            }
            let value = match (attached, flag) {
                (None, true) => OsStr::new(""),
                (Some(_), true) => return Err(format!("{name} takes no value")),
                (Some(value), false) => OsStr::new(value),
                (None, false) => rest.next().ok_or_else(|| format!("{name} needs a value"))?,
            };
            args.options.push((name, value));
        }
        Ok(args)
    }

    /// Whether an option is given.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// The value of an option, which need not be text.
    pub(crate) fn value(&self, name: &str) -> Option<&'a OsStr> {
        self.options.iter().find(|(given, _)| *given == name).map(|(_, value)| *value)
    }

    /// The value of an option as `read` takes it.
    ///
    /// # Errors
    /// Says why it does not.
    pub(crate) fn one<T>(&self, name: &str, read: Reader<T>) -> Result<Option<T>, String> {
        self.all(name, read).map(|values| values.into_iter().next())
    }

    /// The values of an option as `read` takes them.
    ///
    /// # Errors
    /// Says why it does not take the first that it does not.
    pub(crate) fn all<T>(&self, name: &str, read: Reader<T>) -> Result<Vec<T>, String> {
        let values = self.options.iter().filter(|(given, _)| *given == name);
        let read = |value: &OsStr| text(value).and_then(read);
        values
            .map(|(_, value)| {
                read(value).map_err(|why| format!("{name} '{}': {why}", value.display()))
            })
            .collect()
    }
}

/// Takes a text, or says why it does not.
pub(crate) type Reader<T> = fn(&str) -> Result<T, String>;

fn text(argument: &OsStr) -> Result<&str, String> {
    argument.to_str().ok_or_else(|| "not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: Known<'_> = Known { once: &["--a"], often: &["--b"], flags: &["--c"], words: 0 };

    fn read(words: &[&str]) -> Result<(Option<usize>, Vec<usize>, bool), String> {
        let words: Vec<_> = words.iter().map(OsString::from).collect();
        let args = Args::parse(&words, KNOWN)?;
        let number = |text: &str| text.parse().map_err(|_| "no number".to_owned());
        Ok((args.one("--a", number)?, args.all("--b", number)?, args.flag("--c")))
    }

    #[test]
    fn values_stand_apart_or_attached() {
        assert_eq!(read(&[]), Ok((None, vec![], false)));
        assert_eq!(read(&["--b", "2", "--a=1", "--b=3"]), Ok((Some(1), vec![2, 3], false)));
        let words = ["-", "--b", "x", "y"].map(OsString::from);
        let args = Args::parse(&words, Known { words: 2, ..KNOWN }).unwrap();
        assert_eq!(args.words, ["-", "y"]);
        assert_eq!(read(&["--c", "--a", "1"]), Ok((Some(1), vec![], true)));
        for (words, why) in [
            (&["--a"][..], "--a needs a value"),
            (&["--a", "1", "--a=2"], "--a is given twice"),
            (&["--a", "x=y"], "--a 'x=y': no number"),
            (&["--b", "1", "--b", "--c"], "--b '--c': no number"),
            (&["--c=1"], "--c takes no value"),
            (&["--c", "--c"], "--c is given twice"),
            (&["--d", "1"], "--d: no such option"),
            (&["a=b"], "a=b: no such option"),
        ] {
            assert_eq!(read(words), Err(why.to_owned()), "{words:?}");
        }
    }
}
