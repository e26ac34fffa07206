//! What the kernel says of a process.

use std::fs;

/// Nanoseconds that all threads of a process have run so far, by the scheduler's own account:
/// it counts every switch, where `utime` and `stime` count in hundredths of a second.
///
/// # Panics
/// If there is no such process: a benchmark of one that died has no result.
#[must_use]
pub fn cpu_nanos(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    let ran = |thread: fs::DirEntry| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    threads.filter_map(|thread| ran(thread.ok()?)).sum()
}

/// Bytes of a process that are in memory.
///
/// # Panics
/// If there is no such process.
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of kB");
    kib * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_both() {
        let pid = std::process::id();
        let before = cpu_nanos(pid);
        let mut block = vec![1_u8; 8 << 20];
        let mut turns = 0_u32;
        while cpu_nanos(pid) < before + 5_000_000 {
            block.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31));
            turns += 1;
            assert!(turns < 100_000, "the account does not move");
        }
        assert!(resident_bytes(pid) >= 8 << 20);
    }
}
