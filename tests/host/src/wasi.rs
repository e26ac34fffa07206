//! The part of WASI preview 1 that Envoy provides and the module may use.

use crate::abi::Status;
use crate::guest::Guest;

/// The names of the functions.
pub(crate) const NAMES: &[&str] = &[
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_write",
    "proc_exit",
    "random_get",
    "sched_yield",
];

const STREAMS: [u32; 2] = [1, 2];
const BAD_DESCRIPTOR: Errno = Errno(8);
const FAULT: Errno = Errno(21);
const NOT_SUPPORTED: Errno = Errno(52);

/// An error of WASI.
#[derive(Debug)]
pub(crate) struct Errno(pub(crate) u32);

impl From<Status> for Errno {
    fn from(_: Status) -> Self {
        FAULT
    }
}

/// Makes a call; `proc_exit` is the linker's.
pub(crate) fn call(guest: &mut Guest<'_, '_>, name: &str, args: &[u64]) -> Result<(), Errno> {
    let arg = |index: usize| -> u32 {
        let wide = args.get(index).copied().expect("the linker checked the signature");
        u32::try_from(wide & u64::from(u32::MAX)).expect("masked")
    };
    match name {
        "clock_time_get" => {
            let clock = guest.state().clock;
            Ok(guest.write_u64(arg(2), clock)?)
        }
        "environ_get" => {
            let (mut slot, mut at) = (arg(0), arg(1));
            for entry in environment(guest) {
                guest.write_u32(slot, at)?;
                guest.write(at, &entry)?;
                let size = u32::try_from(entry.len()).map_err(|_| FAULT)?;
                at = at.checked_add(size).ok_or(FAULT)?;
                slot = slot.checked_add(4).ok_or(FAULT)?;
            }
            Ok(())
        }
        "environ_sizes_get" => {
            let entries = environment(guest);
            let count = u32::try_from(entries.len()).map_err(|_| FAULT)?;
            let size = u32::try_from(entries.iter().flatten().count()).map_err(|_| FAULT)?;
            guest.write_u32(arg(0), count)?;
            Ok(guest.write_u32(arg(1), size)?)
        }
        "fd_write" => {
            if !STREAMS.contains(&arg(0)) {
                return Err(BAD_DESCRIPTOR);
            }
            let mut written = 0_u32;
            let mut at = arg(1);
            for _ in 0..arg(2) {
                let (start, size) = (guest.read_u32(at)?, guest.read_u32(at.saturating_add(4))?);
                let bytes = guest.read(start, size)?;
                guest.state().output.extend(bytes);
                written = written.saturating_add(size);
                at = at.saturating_add(8);
            }
            Ok(guest.write_u32(arg(3), written)?)
        }
        "random_get" => {
            let bytes: Vec<u8> = (0..arg(1)).map(|_| next(&mut guest.state().seed)).collect();
            Ok(guest.write(arg(0), &bytes)?)
        }
        "sched_yield" => Ok(()),
        _ => Err(NOT_SUPPORTED),
    }
}

fn environment(guest: &mut Guest<'_, '_>) -> Vec<Vec<u8>> {
    let entries = guest.state().environment.iter();
    entries.map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

/// One byte of a fixed sequence (an LCG's upper bits): runs repeat, ids differ.
fn next(seed: &mut u64) -> u8 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    seed.to_be_bytes().first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_repeats_with_its_seed() {
        let bytes = |mut seed| -> Vec<u8> { (0..16).map(|_| next(&mut seed)).collect() };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
        assert_ne!(bytes(1), [0; 16]);
    }
}
