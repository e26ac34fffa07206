//! The allocator of the module, natively: its file is a part of this test.
#![expect(unsafe_code, reason = "an allocator")]
#![expect(clippy::unwrap_used, reason = "test code")]

use std::alloc::{GlobalAlloc, Layout};
use std::collections::BTreeSet;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

#[path = "../../../filter/src/memory.rs"]
mod memory;

use memory::Blocks;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 1).unwrap()
}

/// A block of which every byte was written.
fn take(blocks: &Blocks, layout: Layout, byte: u8) -> *mut u8 {
    // SAFETY: no layout here is empty, and the block is as large as the layout says.
    unsafe {
        let block = blocks.alloc(layout);
        assert!(!block.is_null() && block.addr().is_multiple_of(layout.align()));
        block.write_bytes(byte, layout.size());
        block
    }
}

fn give_back(blocks: &Blocks, block: *mut u8, layout: Layout) {
    // SAFETY: it was taken with this layout.
    unsafe { blocks.dealloc(block, layout) };
}

#[test]
fn a_small_block_that_is_given_back_is_the_next_of_its_size() {
    let blocks = Blocks::new();
    for (size, same, other) in [(1, 16, 17), (17, 32, 33), (1_009, 1_024, 1_008)] {
        let first = take(&blocks, layout(size), 1);
        let second = take(&blocks, layout(size), 2);
        give_back(&blocks, first, layout(size));
        give_back(&blocks, second, layout(size));
        let others = take(&blocks, layout(other), 3);
        let again = [take(&blocks, layout(same), 4), take(&blocks, layout(same), 5)];
        assert_eq!(again, [second, first], "{size}");
        give_back(&blocks, others, layout(other));
        again.into_iter().for_each(|block| give_back(&blocks, block, layout(same)));
    }
}

#[test]
fn a_block_grows_in_its_place_up_to_its_size_and_keeps_its_bytes_beyond() {
    let blocks = Blocks::new();
    for (from, to, stays) in
        [(1, 16, true), (20, 17, true), (16, 17, false), (1_024, 1_025, false), (2_000, 9, false)]
    {
        let block = take(&blocks, layout(from), 7);
        // SAFETY: it was taken with this layout, and the new size is not zero.
        let moved = unsafe { blocks.realloc(block, layout(from), to) };
        assert_eq!(moved == block, stays, "{from} {to}");
        // SAFETY: that much of it was written, and is copied.
        let bytes = unsafe { std::slice::from_raw_parts(moved, from.min(to)) };
        assert!(bytes.iter().all(|byte| *byte == 7), "{from} {to}");
        give_back(&blocks, moved, layout(to));
    }
}

#[test]
fn what_is_aligned_to_more_is_aligned() {
    let blocks = Blocks::new();
    for align in [1, 8, 16, 64] {
        let layout = Layout::from_size_align(24, align).unwrap();
        let block = take(&blocks, layout, 1);
        give_back(&blocks, block, layout);
    }
}

/// Whatever is taken, grown and given back in whatever order: no two blocks overlap, and none
/// loses a byte.
#[test]
fn blocks_are_nobody_elses() {
    let blocks = Blocks::new();
    let mut rng = SmallRng::seed_from_u64(1);
    let mut held: Vec<(*mut u8, Layout, u8)> = Vec::new();
    for turn in 0..20_000_u32 {
        let byte = turn.to_le_bytes()[0];
        let size = rng.random_range(1..=if turn % 16 == 0 { 5_000 } else { 200 });
        if rng.random_bool(0.5) || held.is_empty() {
            held.push((take(&blocks, layout(size), byte), layout(size), byte));
            continue;
        }
        let (block, old, byte) = held.swap_remove(rng.random_range(0..held.len()));
        // SAFETY: it was taken with this layout, and all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(block, old.size()) };
        assert!(bytes.iter().all(|found| *found == byte), "{turn}");
        if rng.random_bool(0.5) {
            // SAFETY: it was taken with this layout, and the new size is not zero.
            let block = unsafe { blocks.realloc(block, old, size) };
            // SAFETY: that much of it is ours.
            unsafe { block.write_bytes(byte, size) };
            held.push((block, layout(size), byte));
        } else {
            give_back(&blocks, block, old);
        }
    }
    let places: BTreeSet<_> = held.iter().map(|(block, ..)| *block).collect();
    assert_eq!(places.len(), held.len());
    held.into_iter().for_each(|(block, layout, _)| give_back(&blocks, block, layout));
}
