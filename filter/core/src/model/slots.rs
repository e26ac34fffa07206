//! A table of short-lived entries that all workers of a proxy share: bounded, whatever comes.
//!
//! Shared data cannot delete a key, so there is no key per entry: an id belongs to one of a fixed
//! number of buckets, each a value under `meshweft/1/<kind>/<bucket>` with a few entries. What has
//! expired makes room; where that is not enough, the entry that would expire first goes.

use core::hash::Hasher;
use core::time::Duration;

use siphasher::sip::SipHasher13;

use super::MonoNanos;
use super::shared::{PREFIX, Shared, update_within};

/// What an entry stands under: a trace id, or the hash of something longer.
pub(crate) type SlotId = [u8; 16];

/// Entries of one bucket.
const DEPTH: usize = 8;
/// Attempts of a write. One that fails means that another worker's has succeeded, so as many
/// workers may write to one bucket at the same moment.
const ATTEMPTS: u32 = 32;
/// An entry that is to live so much longer than it could is not one of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A table of slots.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// What its keys begin with.
    prefix: String,
    buckets: u64,
    longest: Duration,
    max_payload: usize,
}

/// What stands in a slot.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Entry {
    /// From then on it counts as absent.
    pub(crate) until: MonoNanos,
    /// What is remembered.
    pub(crate) payload: Vec<u8>,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Written {
    /// The host has no shared data, others were faster each time, or the payload is too long.
    Lost,
    /// It was written; whether another entry, which had not expired, had to go for it.
    Stored {
        /// Whether one had to go.
        evicted: bool,
    },
    /// Nothing was to be changed.
    Unchanged,
}

impl Slots {
    /// A table with its own keys for `kind`, of about `capacity` slots. No entry lives for more
    /// than `longest`, or has a payload of more than `max_payload` bytes (at most 64 KiB).
    pub(crate) fn new(
        kind: &'static str,
        capacity: usize,
        longest: Duration,
        max_payload: u16,
    ) -> Self {
        let buckets = u64::try_from(capacity.div_ceil(DEPTH)).unwrap_or(u64::MAX).max(1);
        Self {
            prefix: format!("{PREFIX}{kind}/"),
            buckets,
            longest,
            max_payload: usize::from(max_payload),
        }
    }

    /// The payload that stands under `id`: one hostcall.
    pub(crate) fn get(&self, shared: &dyn Shared, id: SlotId, now: MonoNanos) -> Option<Vec<u8>> {
        let (bucket, _) = shared.get(&self.key(id))?;
        self.find(&bucket, id, now).map(|slot| slot.payload.to_vec())
    }

    /// Changes what stands under `id`: two hostcalls, and two more each time another worker was
    /// faster. `change` is then asked again: it takes the payload that stands there and gives the
    /// entry to write, or `None` to leave things as they are.
    pub(crate) fn update(
        &self,
        shared: &dyn Shared,
        id: SlotId,
        now: MonoNanos,
        mut change: impl FnMut(Option<&[u8]>) -> Option<Entry>,
    ) -> Written {
        update_within(ATTEMPTS, shared, &self.key(id), |bucket| {
            let bucket = bucket.unwrap_or_default();
            let standing = self.find(bucket, id, now);
            match change(standing.map(|slot| slot.payload)) {
                None => (None, Written::Unchanged),
                Some(entry) if entry.payload.len() > self.max_payload => (None, Written::Lost),
                Some(entry) => {
                    let (bucket, evicted) = self.with(bucket, id, &entry, now);
                    (Some(bucket), Written::Stored { evicted })
                }
            }
        })
        .unwrap_or(Written::Lost)
    }

    fn key(&self, id: SlotId) -> String {
        let [.., a, b, c, d, e, f, g, h] = id;
        let bucket = u64::from_le_bytes([a, b, c, d, e, f, g, h]).checked_rem(self.buckets);
        // By hand: this runs with every request.
        let mut digits = [b'0'; 20];
        let mut rest = bucket.unwrap_or_default();
        let mut length = 0_usize;
        for digit in digits.iter_mut().rev() {
            // A digit fits.
            *digit = b'0'.saturating_add(u8::try_from(rest % 10).unwrap_or_default());
            rest /= 10;
            length = length.saturating_add(1);
            if rest == 0 {
                break;
            }
        }
        let digits = digits.get(digits.len().saturating_sub(length)..).unwrap_or_default();
        let mut key = String::with_capacity(self.prefix.len().saturating_add(length));
        key.push_str(&self.prefix);
        key.extend(digits.iter().copied().map(char::from));
        key
    }

    /// The entry of `id`, if it is whole: somebody else may have written to it.
    fn find<'a>(&self, bucket: &'a [u8], id: SlotId, now: MonoNanos) -> Option<Slot<'a>> {
        let slot = self.living(bucket, now).find(|slot| slot.id == id)?;
        (slot.check == check(id, slot.until, slot.payload)).then_some(slot)
    }

    /// `bucket` with `entry`, and whether another one had to go.
    fn with(&self, bucket: &[u8], id: SlotId, entry: &Entry, now: MonoNanos) -> (Vec<u8>, bool) {
        let others = self.living(bucket, now).filter(|slot| slot.id != id).enumerate();
        let full = others.clone().count() >= DEPTH;
        let first = others.clone().min_by_key(|(_, slot)| slot.until).filter(|_| full);
        let first = first.map(|(place, _)| place);
        let mut written = Vec::with_capacity(
            bucket.len().saturating_add(HEAD).saturating_add(entry.payload.len()),
        );
        for (_, slot) in others.filter(|(place, _)| Some(*place) != first) {
            written.extend_from_slice(slot.bytes);
        }
        write(id, entry, &mut written);
        (written, full)
    }

    /// The entries of a bucket that have not expired; none of what no worker of ours can have
    /// written.
    fn living<'a>(
        &self,
        bucket: &'a [u8],
        now: MonoNanos,
    ) -> impl Iterator<Item = Slot<'a>> + Clone + use<'a> {
        let bucket = if self.is_ours(bucket, now) { bucket } else { &[] };
        Walk(bucket).filter(move |slot| slot.until > now)
    }

    fn is_ours(&self, bucket: &[u8], now: MonoNanos) -> bool {
        let latest = now.after(self.longest).after(CLOCK_TOLERANCE);
        let mut walk = Walk(bucket);
        let possible =
            |slot: Slot<'_>| slot.until <= latest && slot.payload.len() <= self.max_payload;
        walk.by_ref().take(DEPTH).all(possible) && walk.0.is_empty()
    }
}

/// An entry as it stands in a bucket: id, end, check, length, payload.
#[derive(Clone, Copy, Debug)]
struct Slot<'a> {
    id: SlotId,
    until: MonoNanos,
    check: [u8; 8],
    payload: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
}

/// Bytes before the payload.
const HEAD: usize = 34;

/// Entries of a bucket, up to what is none.
#[derive(Clone, Debug)]
struct Walk<'a>(&'a [u8]);

impl<'a> Iterator for Walk<'a> {
    type Item = Slot<'a>;

    fn next(&mut self) -> Option<Slot<'a>> {
        let (id, rest) = self.0.split_first_chunk()?;
        let (until, rest) = rest.split_first_chunk()?;
        let (check, rest) = rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*length));
        let payload = rest.get(..length)?;
        let until = MonoNanos(u64::from_le_bytes(*until));
        let (bytes, rest) = self.0.split_at_checked(length.saturating_add(HEAD))?;
        self.0 = rest;
        Some(Slot { id: *id, until, check: *check, payload, bytes })
    }
}

fn write(id: SlotId, entry: &Entry, bucket: &mut Vec<u8>) {
    // A payload is at most `max_payload` long, which is a `u16`.
    let length = u16::try_from(entry.payload.len()).unwrap_or_default();
    bucket.extend_from_slice(&id);
    bucket.extend_from_slice(&entry.until.0.to_le_bytes());
    bucket.extend_from_slice(&check(id, entry.until, &entry.payload));
    bucket.extend_from_slice(&length.to_le_bytes());
    bucket.extend_from_slice(&entry.payload);
}

/// What tells an entry of ours from one that somebody has damaged.
fn check(id: SlotId, until: MonoNanos, payload: &[u8]) -> [u8; 8] {
    let mut hasher = SipHasher13::new();
    hasher.write(&id);
    hasher.write(&until.0.to_le_bytes());
    hasher.write(payload);
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::shared::fake::Store;
    use super::*;

    const LONGEST: Duration = Duration::from_secs(4);
    const STORED: Written = Written::Stored { evicted: false };
    const EVICTED: Written = Written::Stored { evicted: true };

    fn slots(capacity: usize) -> Slots {
        Slots::new("test", capacity, LONGEST, 64)
    }

    /// Ids that differ in the last byte stand in different buckets, if there are as many.
    fn id(first: u8, last: u8) -> SlotId {
        let mut id = [0; 16];
        id[0] = first;
        id[8] = last;
        id
    }

    fn at(millis: u64) -> MonoNanos {
        MonoNanos(millis * 1_000_000)
    }

    fn put(store: &Store, slots: &Slots, id: SlotId, now: u64, until: u64, text: &str) -> Written {
        slots.update(store, id, at(now), |_| Some(entry(until, text)))
    }

    fn entry(until: u64, text: &str) -> Entry {
        Entry { until: at(until), payload: text.as_bytes().to_vec() }
    }

    fn get(store: &Store, slots: &Slots, id: SlotId, now: u64) -> Option<String> {
        slots.get(store, id, at(now)).map(|payload| String::from_utf8(payload).unwrap())
    }

    #[test]
    fn an_entry_lives_until_it_expires() {
        let (store, slots) = (Store::default(), slots(16));
        assert_eq!(get(&store, &slots, id(1, 0), 0), None);
        assert_eq!(put(&store, &slots, id(1, 0), 0, 1000, "one"), STORED);
        assert_eq!(get(&store, &slots, id(1, 0), 999).as_deref(), Some("one"));
        assert_eq!(get(&store, &slots, id(1, 0), 1000), None);
        assert_eq!(get(&store, &slots, id(2, 0), 0), None);
    }

    #[test]
    fn a_change_sees_what_stands_there() {
        let (store, slots) = (Store::default(), slots(16));
        let append = |now: u64, text: &str| {
            slots.update(&store, id(1, 0), at(now), |standing| {
                let standing = str::from_utf8(standing.unwrap_or_default()).unwrap();
                (standing != "ab").then(|| entry(now + 1000, &format!("{standing}{text}")))
            })
        };
        assert_eq!(append(0, "a"), STORED);
        assert_eq!(append(1, "b"), STORED);
        assert_eq!(append(2, "c"), Written::Unchanged);
        assert_eq!(get(&store, &slots, id(1, 0), 1000).as_deref(), Some("ab"));
        assert_eq!(append(1001, "c"), STORED);
        assert_eq!(get(&store, &slots, id(1, 0), 1001).as_deref(), Some("c"));
    }

    #[test]
    fn keys_are_as_many_as_buckets() {
        let (store, slots) = (Store::default(), slots(16));
        for first in 0..=255 {
            put(&store, &slots, id(first, first), 0, 1000, "x");
        }
        assert_eq!(store.keys(), ["meshweft/1/test/0", "meshweft/1/test/1"]);
        let longest = DEPTH * (HEAD + 1);
        assert_eq!(
            store.keys().iter().map(|key| store.value(key).unwrap().len()).max(),
            Some(longest)
        );
    }

    #[test]
    fn a_table_has_a_bucket_at_least() {
        let (store, slots) = (Store::default(), slots(0));
        assert_eq!(put(&store, &slots, id(1, 7), 0, 1000, "x"), STORED);
        assert_eq!(store.keys(), ["meshweft/1/test/0"]);
    }

    #[test]
    fn a_full_bucket_loses_what_would_expire_first() {
        let (store, slots) = (Store::default(), slots(8));
        for first in 1..=8 {
            let until = if first == 3 { 1000 } else { 2000 };
            assert_eq!(put(&store, &slots, id(first, 0), 0, until, "x"), STORED);
        }
        // A slot that is there is no new one.
        assert_eq!(put(&store, &slots, id(8, 0), 0, 3000, "y"), STORED);
        assert_eq!(put(&store, &slots, id(9, 0), 0, 2000, "z"), EVICTED);
        let left = (1..=9).filter(|&first| get(&store, &slots, id(first, 0), 0).is_some());
        assert_eq!(left.collect::<Vec<_>>(), [1, 2, 4, 5, 6, 7, 8, 9]);
        // What has expired makes room without a loss.
        assert_eq!(put(&store, &slots, id(10, 0), 2000, 3000, "z"), STORED);
        assert_eq!(store.value("meshweft/1/test/0").unwrap().len(), 2 * (HEAD + 1));
    }

    #[test]
    fn strangers_bytes_are_an_empty_bucket() {
        let slots = slots(8);
        let ours = {
            let store = Store::default();
            put(&store, &slots, id(1, 0), 0, 1000, "one");
            store.value("meshweft/1/test/0").unwrap()
        };
        let too_long = {
            let store = Store::default();
            let generous = Slots::new("test", 8, LONGEST, 65);
            put(&store, &generous, id(1, 0), 0, 1000, &"x".repeat(65));
            store.value("meshweft/1/test/0").unwrap()
        };
        let mut too_late = ours.clone();
        too_late[16..24].copy_from_slice(&at(5001).0.to_le_bytes());
        let garbage = [
            b"x".to_vec(),
            vec![0; 33],
            vec![0xff; 1000],
            ours[..ours.len() - 1].to_vec(),
            [&ours[..], b"x"].concat(),
            ours.repeat(9),
            too_late,
            too_long,
        ];
        for bytes in garbage {
            let store = Store::default();
            store.put("meshweft/1/test/0", &bytes);
            assert_eq!(get(&store, &slots, id(1, 0), 0), None, "{bytes:?}");
            assert_eq!(put(&store, &slots, id(2, 0), 0, 1000, "two"), STORED, "{bytes:?}");
            assert_eq!(get(&store, &slots, id(2, 0), 0).as_deref(), Some("two"));
            assert_eq!(store.value("meshweft/1/test/0").unwrap().len(), HEAD + 3, "{bytes:?}");
        }
    }

    /// Of an entry with a changed bit nothing is told, whichever bit it is.
    #[test]
    fn a_damaged_entry_is_absent() {
        let slots = slots(8);
        let store = Store::default();
        put(&store, &slots, id(1, 0), 0, 1000, "one");
        let whole = store.value("meshweft/1/test/0").unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            store.put("meshweft/1/test/0", &damaged);
            assert_eq!(get(&store, &slots, id(1, 0), 0), None, "bit {bit}");
        }
    }

    #[test]
    fn a_faster_worker_is_not_written_over() {
        let (store, slots) = (Store::default(), slots(8));
        let mut asked = 0;
        let written = slots.update(&store, id(1, 0), at(0), |_| {
            asked += 1;
            if asked < 3 {
                put(&store, &slots, id(1 + asked, 0), 0, 1000, "other");
            }
            Some(entry(1000, "mine"))
        });
        assert_eq!((written, asked), (STORED, 3));
        for (first, text) in [(1, "mine"), (2, "other"), (3, "other")] {
            assert_eq!(get(&store, &slots, id(first, 0), 0).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_cannot_be_written_is_lost_and_said_so() {
        let (store, slots) = (Store::default(), slots(8));
        put(&store, &slots, id(1, 0), 0, 1000, "one");
        store.conflicts.set(1_000_000);
        assert_eq!(put(&store, &slots, id(2, 0), 0, 1000, "two"), Written::Lost);
        assert_eq!(store.sets.get(), u64::from(ATTEMPTS) + 1);
        store.conflicts.set(0);
        assert_eq!(put(&store, &slots, id(2, 0), 0, 1000, &"x".repeat(65)), Written::Lost);
        assert_eq!(put(&store, &slots, id(2, 0), 0, 1000, &"x".repeat(64)), STORED);
        store.broken.set(true);
        assert_eq!(put(&store, &slots, id(3, 0), 0, 1000, "three"), Written::Lost);
        assert_eq!(get(&store, &slots, id(1, 0), 0), None);
    }
}
