//! What an instance that goes leaves to those that stay.
//!
//! Envoy tells an old instance to go. Then it either lets its ticks go on, where the VM serves
//! another configuration too, or ends the VM at once, with all that waits in it; nothing tells
//! which. So what is unsent is left in shared data. An instance that wakes again takes it back; of
//! one that does not within [`LEASE`] any instance that sends to the same place takes it over,
//! each batch once. What nobody has taken within [`PATIENCE`] is counted as lost.
//!
//! One value lists what is left, and each body has a value of its own, of a fixed number. A
//! compare-and-swap of the list decides who has a batch.

use core::hash::Hasher;
use core::time::Duration;
use std::rc::Rc;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

use super::queue::Load;
use crate::config::Export;
use crate::model::shared::update_within;
use crate::model::{MonoNanos, Shared, SharedError};

/// How long an instance has to wake: two of its ticks at least.
const LEASE: Duration = Duration::from_secs(2);
/// How long what is left waits for somebody to take it.
const PATIENCE: Duration = Duration::from_secs(30);
/// What all that is left takes at most, for all workers of a proxy.
pub(super) const MAX_BYTES: usize = 16 << 20;
/// Bodies at most.
const SLOTS: u16 = 256;
/// Batches that are listed at most, with those that have no body there.
const MAX_ENTRIES: usize = 1024;
/// What an entry stands for at most: no queue holds more.
const MOST: Load = Load { spans: 1_000_000, bytes: 256 << 20 };
/// Attempts of a write: all workers are told to go at about the same time.
const ATTEMPTS: u32 = 64;
/// An entry that is younger than it could be is not one of ours.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

const LIST: &str = "meshweft/1/handover";

/// Whom a batch is for: whoever sends to the same collectors in the same manner, credentials
/// included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    name: u64,
    key: (u64, u64),
}

/// A batch that is to be left, or was.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) load: Load,
    /// The body of its request; `None` where there is no room for it.
    pub(super) body: Option<Rc<[u8]>>,
}

/// Names a parcel on the list.
pub(super) type Mark = u64;

/// What [`claim`] found.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// To be sent.
    pub(super) parcels: Vec<Parcel>,
    /// What can never be sent.
    pub(super) lost: Vec<Load>,
}

impl Address {
    pub(super) fn of(config: &Export) -> Self {
        let mut hasher = SipHasher128::new();
        let mut part = |text: &str| {
            hasher.write_usize(text.len());
            hasher.write(text.as_bytes());
        };
        part(config.protocol.name());
        part(config.compression.name());
        part(config.scheme.name());
        part(&config.path);
        for collector in &config.collectors {
            part(&collector.cluster);
            part(&collector.authority);
        }
        // What follows are headers.
        part("");
        for (name, value) in &config.headers {
            part(name);
            part(value);
        }
        let hash = hasher.finish128();
        let key = (hash.h1, hash.h2);
        let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
        hasher.write(b"name");
        Self { name: hasher.finish(), key }
    }

    /// What only those can make that a parcel is for.
    fn mark(&self, entry: &Entry, body: &[u8]) -> Mark {
        let mut hasher = SipHasher13::new_with_keys(self.key.0, self.key.1);
        hasher.write(&Entry { slot: None, mark: 0, ..*entry }.bytes());
        hasher.write(body);
        hasher.finish()
    }

    /// Leaves `parcels`, the most important one first, as long as there is room; gives a mark for
    /// each, in their order. One without room for its body is listed all the same, alone or with
    /// others under one mark, so that it is counted if its owner does not wake; `None` if not even
    /// that is possible.
    pub(super) fn leave(
        &self,
        parcels: &[Parcel],
        shared: &dyn Shared,
        now: MonoNanos,
    ) -> Vec<Option<Mark>> {
        if parcels.is_empty() {
            return Vec::new();
        }
        let mut made: Vec<_> =
            parcels.iter().map(|parcel| (self.entry(parcel, now), parcel)).collect();
        let written = update_within(ATTEMPTS, shared, LIST, |value| {
            let mut list = value.and_then(|value| read(value, now)).unwrap_or_default();
            // Sizes that a stranger wrote are no reason to run over.
            let sizes = list.iter().filter(|entry| entry.slot.is_some()).map(Entry::size);
            let mut bytes = sizes.fold(0, usize::saturating_add);
            let mut free = (0..SLOTS).filter(|slot| list.iter().all(|e| e.slot != Some(*slot)));
            for (entry, parcel) in &mut made {
                entry.slot = None;
                let Some(body) = &parcel.body else { continue };
                let total = bytes.saturating_add(body.len());
                if total <= MAX_BYTES
                    && let Some(slot) = free.next()
                {
                    bytes = total;
                    entry.slot = Some(slot);
                }
            }
            let room = MAX_ENTRIES.saturating_sub(list.len());
            // What has no place of its own shares the last one, so that it is counted.
            let listed = if made.len() > room { room.saturating_sub(1) } else { made.len() };
            let beyond = made.get(listed..).unwrap_or_default().iter();
            let load = beyond.fold(Load::default(), |sum, (entry, _)| Load {
                spans: sum.spans.saturating_add(entry.load.spans).min(MOST.spans),
                bytes: sum.bytes.saturating_add(entry.load.bytes).min(MOST.bytes),
            });
            let rest =
                (load.spans > 0 && room > 0).then(|| self.entry(&Parcel { load, body: None }, now));
            list.extend(made.iter().take(listed).map(|(entry, _)| *entry).chain(rest));
            (Some(write(&list)), (listed, rest.map(|entry| entry.mark)))
        });
        let (listed, beyond) = written.unwrap_or_default();
        for (entry, parcel) in made.iter().take(listed) {
            if let (Some(slot), Some(body)) = (entry.slot, &parcel.body) {
                // What could not be written is found missing, and counted.
                let _ = shared.set(&key(slot), body, 0);
            }
        }
        made.iter()
            .enumerate()
            .map(|(at, (entry, _))| if at < listed { Some(entry.mark) } else { beyond })
            .collect()
    }

    fn entry(&self, parcel: &Parcel, now: MonoNanos) -> Entry {
        let mut entry = Entry {
            slot: None,
            load: parcel.load,
            size: u32::try_from(parcel.body.as_ref().map_or(0, |body| body.len()))
                .unwrap_or(u32::MAX),
            from: now.after(LEASE),
            to: self.name,
            mark: 0,
        };
        entry.mark = self.mark(&entry, parcel.body.as_deref().unwrap_or_default());
        entry
    }
}

/// Takes back what was left under `marks`; gives those that nobody else has taken. Of a list that
/// is not there or not to be changed nobody can take anything.
pub(super) fn take_back(marks: &[Mark], shared: &dyn Shared, now: MonoNanos) -> Vec<Mark> {
    let mut slots = Vec::new();
    let mine = update_within(ATTEMPTS, shared, LIST, |value| {
        let Some(list) = value.and_then(|value| read(value, now)) else { return (None, None) };
        let (mine, others): (Vec<_>, Vec<_>) =
            list.into_iter().partition(|entry| marks.contains(&entry.mark));
        slots = mine.iter().filter_map(|entry| entry.slot).map(|slot| seen(slot, shared)).collect();
        let change = (!mine.is_empty()).then(|| write(&others));
        (change, Some(mine.iter().map(|entry| entry.mark).collect()))
    });
    slots.into_iter().for_each(|slot| clear(slot, shared));
    mine.flatten().unwrap_or_else(|| marks.to_vec())
}

/// Takes what is there for `address`, as far as there is room for it, and what nobody can or will
/// take any more. Whatever is given is gone from the list: it is this caller's alone.
pub(super) fn claim(
    address: Option<&Address>,
    room: Load,
    shared: &dyn Shared,
    now: MonoNanos,
) -> Claimed {
    for _ in 0..ATTEMPTS {
        let Some((value, cas)) = shared.get(LIST) else { break };
        let Some(list) = read(&value, now) else { break };
        let (mut claimed, mut slots, mut room) = (Claimed::default(), Vec::new(), room);
        let others: Vec<_> = list
            .into_iter()
            .filter(|entry| {
                // Its owner may wake.
                if now < entry.from {
                    return true;
                }
                let Some(slot) = entry.slot else {
                    claimed.lost.push(entry.load);
                    return false;
                };
                let is_mine = address.filter(|address| {
                    address.name == entry.to
                        && entry.load.spans <= room.spans
                        && entry.load.bytes <= room.bytes
                });
                let is_over = now >= entry.from.after(PATIENCE);
                if is_mine.is_none() && !is_over {
                    return true;
                }
                let found = seen(slot, shared);
                match is_mine.filter(|address| address.mark(entry, &found.body) == entry.mark) {
                    Some(_) => {
                        room.spans = room.spans.saturating_sub(entry.load.spans);
                        room.bytes = room.bytes.saturating_sub(entry.load.bytes);
                        let body = Some(found.body.as_slice().into());
                        claimed.parcels.push(Parcel { load: entry.load, body });
                    }
                    None => claimed.lost.push(entry.load),
                }
                slots.push(found);
                false
            })
            .collect();
        if claimed.parcels.is_empty() && claimed.lost.is_empty() {
            break;
        }
        match shared.set(LIST, &write(&others), cas) {
            Ok(()) => {
                slots.into_iter().for_each(|slot| clear(slot, shared));
                return claimed;
            }
            Err(SharedError::CasMismatch) => {}
            Err(SharedError::Unavailable) => break,
        }
    }
    Claimed::default()
}

/// A body as it was found.
struct Found {
    slot: u16,
    body: Vec<u8>,
    cas: Option<u32>,
}

fn seen(slot: u16, shared: &dyn Shared) -> Found {
    let (body, cas) = shared.get(&key(slot)).unzip();
    Found { slot, body: body.unwrap_or_default(), cas }
}

/// Frees what a body takes, unless another one is there by now.
fn clear(found: Found, shared: &dyn Shared) {
    if let Some(cas) = found.cas {
        let _ = shared.set(&key(found.slot), &[], cas);
    }
}

fn key(slot: u16) -> String {
    format!("{LIST}/{slot}")
}

/// A line of the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Entry {
    /// Where its body is.
    slot: Option<u16>,
    load: Load,
    /// Of the body.
    size: u32,
    /// From then on others may take it.
    from: MonoNanos,
    to: u64,
    mark: Mark,
}

/// Bytes of an entry.
const ENTRY: usize = 38;
/// What stands for no slot.
const NONE: u16 = u16::MAX;

impl Entry {
    fn size(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    fn bytes(&self) -> [u8; ENTRY] {
        let short = |amount: usize| u32::try_from(amount).unwrap_or(u32::MAX).to_le_bytes();
        let parts: [&[u8]; 7] = [
            &self.slot.unwrap_or(NONE).to_le_bytes(),
            &short(self.load.spans),
            &short(self.load.bytes),
            &self.size.to_le_bytes(),
            &self.from.0.to_le_bytes(),
            &self.to.to_le_bytes(),
            &self.mark.to_le_bytes(),
        ];
        let mut bytes = [0; ENTRY];
        for (byte, part) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *byte = *part;
        }
        bytes
    }

    /// The entry that stands for these bytes, if it can be one of ours.
    fn read(bytes: &[u8], now: MonoNanos) -> Option<Self> {
        let mut rest = bytes;
        let slot = u16::from_le_bytes(next(&mut rest)?);
        let mut amount = || Some(u32::from_le_bytes(next(&mut rest)?));
        let (spans, load, size) = (amount()?, amount()?, amount()?);
        let mut number = || Some(u64::from_le_bytes(next(&mut rest)?));
        let (from, to, mark) = (MonoNanos(number()?), number()?, number()?);
        let possible =
            (slot < SLOTS || slot == NONE) && from <= now.after(LEASE).after(CLOCK_TOLERANCE);
        let length = |amount| usize::try_from(amount).unwrap_or(usize::MAX);
        let possible = possible && length(spans) <= MOST.spans && length(load) <= MOST.bytes;
        possible.then_some(Self {
            slot: (slot != NONE).then_some(slot),
            load: Load { spans: length(spans), bytes: length(load) },
            size,
            from,
            to,
            mark,
        })
    }
}

fn next<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// The list that a value stands for; `None` if no worker of ours can have written it.
fn read(value: &[u8], now: MonoNanos) -> Option<Vec<Entry>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let (sum, entries) = value.split_first_chunk()?;
    let is_whole = *sum == check(entries)
        && entries.len().is_multiple_of(ENTRY)
        && entries.len() <= MAX_ENTRIES.saturating_mul(ENTRY);
    if !is_whole {
        return None;
    }
    let mut taken = [false; SLOTS as usize];
    let mut entry = |bytes| {
        let entry = Entry::read(bytes, now)?;
        let place = entry.slot.and_then(|slot| taken.get_mut(usize::from(slot)));
        let is_free = place.is_none_or(|taken| !core::mem::replace(taken, true));
        is_free.then_some(entry)
    };
    entries.chunks_exact(ENTRY).map(&mut entry).collect()
}

fn write(list: &[Entry]) -> Vec<u8> {
    if list.is_empty() {
        return Vec::new();
    }
    let entries: Vec<u8> = list.iter().flat_map(Entry::bytes).collect();
    [&check(&entries)[..], &entries].concat()
}

/// What tells a list of ours from one that somebody has damaged.
fn check(entries: &[u8]) -> [u8; 8] {
    let mut hasher = SipHasher13::new();
    hasher.write(entries);
    hasher.finish().to_le_bytes()
}

#[cfg(test)]
mod tests {
    #[cfg(all(target_family = "wasm", target_os = "unknown"))]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::config::Config;
    use crate::model::shared::fake::Store;

    fn address() -> Address {
        let config = Config::parse(br#"{"export": {"cluster": "c"}}"#, &|_| None).unwrap();
        Address::of(&config.export.unwrap())
    }

    fn at(seconds: u64) -> MonoNanos {
        MonoNanos(1).after(Duration::from_secs(seconds))
    }

    fn parcel(spans: usize, body: &str) -> Parcel {
        Parcel { load: Load { spans, bytes: 10 }, body: Some(body.as_bytes().into()) }
    }

    const ROOM: Load = Load { spans: 100, bytes: 1_000 };

    /// Leaves batches of so many spans.
    fn leave(store: &Store, spans: &[usize]) -> Vec<Option<Mark>> {
        let parcels: Vec<_> = spans.iter().map(|spans| parcel(*spans, "body")).collect();
        address().leave(&parcels, store, at(0))
    }

    /// Spans that are claimed, and that are lost.
    fn claimed(store: &Store, seconds: u64) -> (Vec<usize>, Vec<usize>) {
        let claimed = claim(Some(&address()), ROOM, store, at(seconds));
        let sent = claimed.parcels.iter().map(|parcel| parcel.load.spans).collect();
        (sent, claimed.lost.iter().map(|load| load.spans).collect())
    }

    #[test]
    fn an_idle_tick_is_one_look() {
        let store = Store::default();
        assert_eq!(claimed(&store, 0), (vec![], vec![]));
        assert_eq!((store.gets.get(), store.sets.get()), (1, 0));
        assert_eq!(address().leave(&[], &store, at(0)), []);
        assert_eq!((store.gets.get(), store.sets.get()), (1, 0));
    }

    #[test]
    fn faster_workers_cost_attempts_and_nothing_else() {
        let store = Store::default();
        store.conflicts.set(4);
        assert_eq!(leave(&store, &[1, 2]).iter().flatten().count(), 2);
        assert_eq!(leave(&store, &[3]).iter().flatten().count(), 1);
        assert_eq!(claimed(&store, 2), (vec![1, 2, 3], vec![]));
        assert_eq!(claimed(&store, 2), (vec![], vec![]));
    }

    /// Another worker takes a batch between a look at the list and its change.
    #[test]
    fn a_batch_that_another_has_taken_is_not_claimed() {
        let store = Store::default();
        leave(&store, &[1, 2]);
        store.conflicts.set(1_000_000);
        assert_eq!(claimed(&store, 2), (vec![], vec![]));
        store.conflicts.set(0);
        assert_eq!(claimed(&store, 2), (vec![1, 2], vec![]));
    }

    #[test]
    fn a_host_that_refuses_leaves_all_with_its_owner() {
        let store = Store::default();
        let marks: Vec<_> = leave(&store, &[1]).into_iter().flatten().collect();
        store.broken.set(true);
        assert_eq!(leave(&store, &[2, 3]), [None, None]);
        assert_eq!(take_back(&marks, &store, at(1)), marks);
        assert_eq!(claimed(&store, 2), (vec![], vec![]));
        store.broken.set(false);
        assert_eq!(take_back(&marks, &store, at(1)), marks);
        assert_eq!(take_back(&marks, &store, at(1)), Vec::<Mark>::new());
        // Nor is anything gone with a list that somebody has written over.
        store.put(LIST, b"x");
        assert_eq!(take_back(&marks, &store, at(1)), marks);
    }

    #[test]
    fn what_is_taken_back_or_claimed_takes_no_room() {
        let store = Store::default();
        let marks: Vec<_> = leave(&store, &[1, 2]).into_iter().flatten().collect();
        take_back(&marks, &store, at(1));
        leave(&store, &[3]);
        claimed(&store, 2);
        let values = store.keys().into_iter().filter_map(|key| store.value(&key));
        assert_eq!(values.map(|value| value.len()).sum::<usize>(), 0);
        assert_eq!(store.keys().len(), 3, "{:?}", store.keys());
    }

    /// A body that another batch needs by now is not wiped out.
    #[test]
    fn a_body_is_cleared_only_as_it_was_seen() {
        let store = Store::default();
        leave(&store, &[1]);
        let found = seen(0, &store);
        store.put(&key(0), b"another one");
        clear(found, &store);
        assert_eq!(store.value(&key(0)).unwrap(), b"another one");
    }

    #[test]
    fn all_that_is_left_is_bounded() {
        let store = Store::default();
        let body: Rc<[u8]> = vec![b'x'; MAX_BYTES / 2].into();
        let half = Parcel { body: Some(body), ..parcel(1, "") };
        address().leave(&[half.clone(), half.clone(), half.clone()], &store, at(0));
        let kept = store.keys().len() - 1;
        assert_eq!(kept, 2);
        let many = (0..MAX_ENTRIES)
            .map(|bytes| Parcel { load: Load { spans: 1, bytes }, ..parcel(1, "x") });
        let many: Vec<_> = many.collect();
        let marks = address().leave(&many, &store, at(0));
        // Those that have no place of their own share the last one.
        assert_eq!(marks.iter().flatten().count(), MAX_ENTRIES);
        let last = &marks[MAX_ENTRIES - 5..];
        assert!(last[0] != last[1] && last[1..].iter().all(|mark| *mark == last[1]), "{last:?}");
        assert_eq!(address().leave(&[parcel(1, "x")], &store, at(0)), [None]);
        let room = Load { spans: MAX_ENTRIES, bytes: 1 << 30 };
        let claimed = claim(Some(&address()), room, &store, at(2));
        // Two bodies take all the room.
        assert_eq!((claimed.parcels.len(), claimed.lost.len()), (2, MAX_ENTRIES - 2));
        // Of three, two and the many no span is forgotten.
        let lost: usize = claimed.lost.iter().map(|load| load.spans).sum();
        assert_eq!(lost, 1 + MAX_ENTRIES);
    }

    /// Of a list with a changed bit nothing is believed, whichever bit it is.
    #[test]
    fn a_damaged_list_is_none() {
        let store = Store::default();
        leave(&store, &[1, 2]);
        let whole = store.value(LIST).unwrap();
        assert_eq!(read(&whole, at(0)).map(|list| list.len()), Some(2));
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read(&damaged, at(0)), None);
        }
        for length in 1..whole.len() {
            assert_eq!(read(&whole[..length], at(0)), None);
        }
    }

    /// What is whole and yet impossible: made by somebody who knows how.
    #[test]
    fn a_list_that_cannot_be_ours_is_none() {
        let good = address().entry(&parcel(1, "body"), at(0));
        let good = Entry { slot: Some(1), ..good };
        assert_eq!(read(&write(&[good]), at(0)), Some(vec![good]));
        let too_late = Entry { from: at(4), ..good };
        let beyond = Entry { slot: Some(SLOTS), ..good };
        let too_heavy = |spans, bytes| Entry { load: Load { spans, bytes }, ..good };
        let heavy = too_heavy(MOST.spans, MOST.bytes);
        assert_eq!(read(&write(&[heavy]), at(0)), Some(vec![heavy]));
        let spans = too_heavy(MOST.spans + 1, 1);
        let bytes = too_heavy(1, MOST.bytes + 1);
        let too_many = vec![Entry { slot: None, ..good }; MAX_ENTRIES + 1];
        for list in [&[good, good][..], &[too_late], &[beyond], &[spans], &[bytes], &too_many] {
            assert_eq!(read(&write(list), at(0)), None);
        }
    }

    /// Whole lists with entries of any content: nothing of them is sent, and nothing breaks.
    #[test]
    fn no_list_of_a_stranger_is_believed() {
        let mut rng = SmallRng::seed_from_u64(7);
        for _ in 0..2_000 {
            let store = Store::default();
            leave(&store, &[1, 2, 3]);
            let mut list = store.value(LIST).unwrap().split_off(8);
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..list.len());
                list[at] = if rng.random() { rng.random() } else { [0, 1, 0x7f, 0xff][at % 4] };
            }
            store.put(LIST, &[&check(&list)[..], &list].concat());
            let untouched = |spans: &[usize]| spans.iter().all(|spans| [1, 2, 3].contains(spans));
            assert!(untouched(&claimed(&store, 2).0));
            let marks: Vec<_> = leave(&store, &[4]).into_iter().flatten().collect();
            assert_eq!(take_back(&marks, &store, at(1)), marks);
            claimed(&store, 100);
        }
    }

    #[test]
    fn only_who_sends_to_the_same_place_can_make_a_mark() {
        let store = Store::default();
        leave(&store, &[1]);
        let [entry] = read(&store.value(LIST).unwrap(), at(2)).unwrap()[..] else { panic!() };
        // The words are right, and the key is not.
        let other = Config::parse(br#"{"export": {"cluster": "d"}}"#, &|_| None).unwrap();
        let other = Address { name: address().name, ..Address::of(&other.export.unwrap()) };
        let forged = Entry { mark: other.mark(&entry, b"body"), ..entry };
        store.put(LIST, &write(&[forged]));
        assert_eq!(claimed(&store, 2), (vec![], vec![1]));
    }
}
