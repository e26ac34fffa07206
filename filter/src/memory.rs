//! The module's memory: a small block that is given back waits for the next of its size.
//!
//! A request takes some sixty blocks and gives most of them back at its end. Rust's allocator for
//! wasm looks for a place for each, and joins neighbours when they go, which was a third of what
//! the module does for a request. Some small blocks of each size stay here instead. Clients choose
//! sizes, so all others go back, to serve any size.
//!
//! `tests/host/tests/memory.rs` tests this file natively.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr;
use std::alloc::System;

/// Sizes are rounded up to multiples of this: 16, 32, up to 1,024 bytes.
const STEP: usize = 16;
const SIZES: usize = 64;
/// What all small blocks are aligned to.
const ALIGN: usize = 8;
/// Bytes that wait at most, of each size: 2 MiB in all.
const MOST: usize = 32 << 10;

/// Blocks that wait, by size.
#[derive(Debug)]
pub(crate) struct Blocks([Waiting; SIZES]);

/// Blocks of one size that wait; each holds the address of the next in its first bytes.
#[derive(Debug)]
struct Waiting {
    first: Cell<*mut u8>,
    bytes: Cell<usize>,
}

// SAFETY: a VM has one thread, and each worker has a VM of its own.
unsafe impl Sync for Blocks {}

impl Blocks {
    pub(crate) const fn new() -> Self {
        Self([const { Waiting { first: Cell::new(ptr::null_mut()), bytes: Cell::new(0) } }; SIZES])
    }

    /// Where blocks for `layout` wait, and what all of them are like; `None` for what is not small.
    fn size(&self, layout: Layout) -> Option<(&Waiting, Layout)> {
        if layout.align() > ALIGN {
            return None;
        }
        let waiting = self.0.get(layout.size().saturating_sub(1) / STEP)?;
        let size = layout.size().checked_next_multiple_of(STEP)?;
        Some((waiting, Layout::from_size_align(size, ALIGN).ok()?))
    }
}

// SAFETY: a block is either with whoever asked for it or in one list, and all blocks of a list have
// the size that its place says. What is not small goes to the system's allocator and back.
unsafe impl GlobalAlloc for Blocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((waiting, whole)) = self.size(layout) else {
            // SAFETY: the caller's promise.
            return unsafe { System.alloc(layout) };
        };
        let block = waiting.first.get();
        if block.is_null() {
            // SAFETY: the caller's promise; a size that is rounded up is not zero either.
            return unsafe { System.alloc(whole) };
        }
        // SAFETY: a block that waits is ours, larger than a pointer, and aligned for one.
        waiting.first.set(unsafe { block.cast::<*mut u8>().read() });
        waiting.bytes.update(|bytes| bytes.saturating_sub(whole.size()));
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.size(layout) {
            Some((waiting, whole)) if waiting.bytes.get() < MOST => {
                // SAFETY: it was given out from here, larger than a pointer and aligned for one, and
                // its owner has gone.
                unsafe { block.cast::<*mut u8>().write(waiting.first.get()) };
                waiting.first.set(block);
                waiting.bytes.update(|bytes| bytes.saturating_add(whole.size()));
            }
            // SAFETY: `alloc` has taken it from there with this layout.
            Some((_, whole)) => unsafe { System.dealloc(block, whole) },
            // SAFETY: the caller's promise; `alloc` has taken it from there.
            None => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise: the size is not zero, and fits the alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (self.size(layout), self.size(new)) {
            (Some((old, _)), Some((new, _))) if ptr::eq(old, new) => block,
            // SAFETY: the caller's promise; `alloc` has taken it from there.
            (None, None) => unsafe { System.realloc(block, layout, size) },
            _ => {
                // SAFETY: the caller's promise; the two blocks are not the same, and both have the
                // bytes that are copied.
                unsafe {
                    let fresh = self.alloc(new);
                    if !fresh.is_null() {
                        ptr::copy_nonoverlapping(block, fresh, size.min(layout.size()));
                        self.dealloc(block, layout);
                    }
                    fresh
                }
            }
        }
    }
}
