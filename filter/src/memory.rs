//! The module's memory: a small block that is given back waits for the next of its size.
//!
//! A request takes some sixty blocks and gives most of them back at its end. Rust's allocator for
//! wasm looks for a place for each, and joins neighbours when they go, which was a third of what
//! the module does for a request. Small blocks stay with their size instead; linear memory cannot
//! shrink in any case.
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

/// Blocks that wait, by size; each holds the address of the next in its first bytes.
#[derive(Debug)]
pub(crate) struct Blocks {
    waiting: [Cell<*mut u8>; SIZES],
}

// SAFETY: a VM has one thread, and each worker has a VM of its own.
unsafe impl Sync for Blocks {}

impl Blocks {
    pub(crate) const fn new() -> Self {
        Self { waiting: [const { Cell::new(ptr::null_mut()) }; SIZES] }
    }

    /// Where blocks for `layout` wait, and what all of them are like; `None` for what is not small.
    fn size(&self, layout: Layout) -> Option<(&Cell<*mut u8>, Layout)> {
        if layout.align() > ALIGN {
            return None;
        }
        let waiting = self.waiting.get(layout.size().saturating_sub(1) / STEP)?;
        let size = layout.size().checked_next_multiple_of(STEP)?;
        Some((waiting, Layout::from_size_align(size, ALIGN).ok()?))
    }
}

// SAFETY: a block is either with whoever asked for it or in one list, and all blocks of a list have
// the size that its place says. What is not small goes to the system's allocator and back.
unsafe impl GlobalAlloc for Blocks {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (waiting, layout) = match self.size(layout) {
            Some((waiting, whole)) => (Some(waiting), whole),
            None => (None, layout),
        };
        match waiting.map(|waiting| (waiting, waiting.get())) {
            Some((waiting, block)) if !block.is_null() => {
                // SAFETY: a block that waits is ours, larger than a pointer, and aligned for one.
                waiting.set(unsafe { block.cast::<*mut u8>().read() });
                block
            }
            // SAFETY: the caller's promise; a size that is rounded up is not zero either.
            _ => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.size(layout) {
            Some((waiting, _)) => {
                // SAFETY: it was given out from here, larger than a pointer and aligned for one, and
                // its owner has gone.
                unsafe { block.cast::<*mut u8>().write(waiting.get()) };
                waiting.set(block);
            }
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
