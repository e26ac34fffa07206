//! The seam to what all workers of a proxy have in common: one small store, and one clock.

use core::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::MonoNanos;

/// Attempts of [`update`]: a conflict needs another worker within about a microsecond.
const ATTEMPTS: u32 = 4;
/// A compare-and-swap number that no value has: set only where there is none yet.
const IF_ABSENT: u32 = u32::MAX;
/// Set whatever there is.
const ALWAYS: u32 = 0;

/// What the workers of a proxy share: the host's shared data, as proxy-wasm has it: keyed by VM id,
/// one store for the whole process, without a way to delete a key, and open to every other plugin
/// of that VM id.
///
/// So keys are few, they begin with `meshweft/1/`, and what stands under them is read strictly:
/// whatever does not parse is a stranger's and is written over.
pub trait Shared {
    /// The value under `key` with its compare-and-swap number.
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)>;

    /// Sets the value under `key` if its number is still `cas`; 0 sets it in any case. A key that
    /// does not exist has no number, and is made.
    ///
    /// # Errors
    ///
    /// Says why nothing was set.
    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), SharedError>;

    /// The time, of a clock that never goes back and is the same for all workers.
    fn now(&self) -> MonoNanos;
}

/// What all keys begin with: whose they are, and the version of what stands under them.
pub(crate) const PREFIX: &str = "meshweft/1/";

/// Why nothing was set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SharedError {
    /// Another worker was faster.
    CasMismatch,
    /// The host has no shared data, or it failed.
    Unavailable,
}

/// Reads, changes and writes the value under `key`, again where another worker was faster.
///
/// `change` takes the value that stands there and gives the one to write, or `None` to leave
/// things as they are, with its outcome. The outcome of the last call is the answer; `None` if
/// others were faster each time, or the host has no shared data.
pub(crate) fn update<T>(
    shared: &dyn Shared,
    key: &str,
    change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, T),
) -> Option<T> {
    update_within(ATTEMPTS, shared, key, change)
}

/// [`update`] with a number of attempts.
pub(crate) fn update_within<T>(
    attempts: u32,
    shared: &dyn Shared,
    key: &str,
    mut change: impl FnMut(Option<&[u8]>) -> (Option<Vec<u8>>, T),
) -> Option<T> {
    for attempt in 0..attempts {
        let current = shared.get(key);
        let (value, outcome) = change(current.as_ref().map(|(value, _)| value.as_slice()));
        let Some(value) = value else { return Some(outcome) };
        let cas = match current {
            Some((_, cas)) => cas,
            None if attempt == 0 => IF_ABSENT,
            // Still absent: a host that matches numbers of what does not exist.
            None => ALWAYS,
        };
        match shared.set(key, &value, cas) {
            Ok(()) => return Some(outcome),
            Err(SharedError::CasMismatch) => {}
            Err(SharedError::Unavailable) => return None,
        }
    }
    None
}

/// A store and a clock of one process, for whoever has no host: the native tool, and tests.
#[derive(Debug, Default)]
pub struct Local {
    values: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    writes: Cell<u32>,
    /// What time it is.
    pub clock: Cell<MonoNanos>,
}

impl Local {
    /// All keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.values.borrow().keys().cloned().collect()
    }
}

impl Shared for Local {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.values.borrow().get(key).cloned()
    }

    fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), SharedError> {
        let mut values = self.values.borrow_mut();
        if cas != ALWAYS && values.get(key).is_some_and(|(_, now)| *now != cas) {
            return Err(SharedError::CasMismatch);
        }
        let number = self.writes.get().wrapping_add(1).max(1);
        self.writes.set(number);
        values.insert(key.to_owned(), (value.to_vec(), number));
        Ok(())
    }

    fn now(&self) -> MonoNanos {
        self.clock.get()
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
pub(crate) mod fake {
    //! Shared data for tests.

    use core::cell::Cell;

    use super::{Local, Shared, SharedError};
    use crate::model::MonoNanos;

    /// A store with faults to order.
    #[derive(Debug, Default)]
    pub(crate) struct Store {
        pub(crate) local: Local,
        /// Of so many compare-and-swaps in a row, all but one find that another was faster.
        pub(crate) conflicts: Cell<u32>,
        /// The host refuses everything.
        pub(crate) broken: Cell<bool>,
        pub(crate) gets: Cell<u64>,
        pub(crate) sets: Cell<u64>,
    }

    impl Store {
        pub(crate) fn put(&self, key: &str, value: &[u8]) {
            self.set(key, value, 0).unwrap();
        }

        pub(crate) fn keys(&self) -> Vec<String> {
            self.local.keys()
        }

        pub(crate) fn value(&self, key: &str) -> Option<Vec<u8>> {
            self.local.get(key).map(|(value, _)| value)
        }
    }

    impl Shared for Store {
        fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
            self.gets.set(self.gets.get() + 1);
            self.local.get(key).filter(|_| !self.broken.get())
        }

        fn set(&self, key: &str, value: &[u8], cas: u32) -> Result<(), SharedError> {
            let sets = self.sets.get() + 1;
            self.sets.set(sets);
            if self.broken.get() {
                return Err(SharedError::Unavailable);
            }
            let conflicts = u64::from(self.conflicts.get());
            let faster = conflicts > 0 && !sets.is_multiple_of(conflicts);
            if cas != 0 && faster {
                return Err(SharedError::CasMismatch);
            }
            self.local.set(key, value, cas)
        }

        fn now(&self) -> MonoNanos {
            self.local.now()
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::fake::Store;
    use super::*;

    fn append(store: &Store) -> Option<usize> {
        update(store, "k", |value| {
            let mut value = value.unwrap_or_default().to_vec();
            value.push(b'x');
            let len = value.len();
            (Some(value), len)
        })
    }

    fn value(store: &Store) -> Option<Vec<u8>> {
        store.value("k")
    }

    #[test]
    fn what_stands_there_is_changed() {
        let store = Store::default();
        assert_eq!(append(&store), Some(1));
        assert_eq!(append(&store), Some(2));
        assert_eq!(value(&store), Some(b"xx".to_vec()));
    }

    #[test]
    fn nothing_is_written_where_nothing_changes() {
        let store = Store::default();
        store.put("k", b"a");
        assert_eq!(
            update(&store, "k", |value| (None, value.map(<[u8]>::to_vec))),
            Some(value(&store))
        );
        assert_eq!(store.sets.get(), 1);
    }

    #[test]
    fn conflicts_are_tried_again_but_not_for_ever() {
        let store = Store::default();
        store.put("k", b"a");
        store.conflicts.set(4);
        assert_eq!(append(&store), Some(2));
        assert_eq!(store.gets.get(), 3);
        store.conflicts.set(1000);
        assert_eq!(append(&store), None);
        assert_eq!(store.gets.get(), 7);
        assert_eq!(value(&store), Some(b"ax".to_vec()));
    }

    /// Somebody else makes the key between the first look and the write.
    #[test]
    fn a_key_that_appears_meanwhile_is_not_written_over() {
        let store = Store::default();
        let mut seen = Vec::new();
        let done = update(&store, "k", |value| {
            seen.push(value.map(<[u8]>::to_vec));
            if value.is_none() {
                store.put("k", b"other");
            }
            (Some(b"mine".to_vec()), ())
        });
        assert_eq!((done, seen), (Some(()), vec![None, Some(b"other".to_vec())]));
        assert_eq!(value(&store), Some(b"mine".to_vec()));
    }

    /// A host that refuses to make a key under a number.
    #[test]
    fn a_key_that_stays_absent_is_made_in_any_case() {
        let store = Store::default();
        store.conflicts.set(1000);
        assert_eq!(append(&store), Some(1));
        assert_eq!(value(&store), Some(b"x".to_vec()));
    }

    #[test]
    fn without_shared_data_there_is_no_outcome() {
        let store = Store::default();
        store.broken.set(true);
        assert_eq!(append(&store), None);
        assert_eq!((store.gets.get(), store.sets.get()), (1, 1));
    }
}
