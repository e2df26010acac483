//! What this thread holds of the heap: every allocation of the process passes here and is counted.
//!
//! A peer can make a library keep far more than it sent: a one-byte STREAM frame behind a gap costs quiche some 160 bytes, and flow
//! control counts one. What counts is what is allocated, so that is what is measured (docs/decisions/0011).
//! The allocator is installed here, not by who links this crate, so that no build of it goes without.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

#[cfg(feature = "mimalloc")]
type Inner = mimalloc::MiMalloc;
#[cfg(feature = "mimalloc")]
const INNER: Inner = mimalloc::MiMalloc;
#[cfg(not(feature = "mimalloc"))]
type Inner = std::alloc::System;
#[cfg(not(feature = "mimalloc"))]
const INNER: Inner = std::alloc::System;

#[global_allocator]
static ALLOCATOR: Counting = Counting(INNER);

thread_local! {
    /// Needs neither a first use nor an end, so that it may be read from within an allocation at any time.
    static HELD: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated less those that it has released: the difference of two readings is what the code between
/// them keeps. Negative where it released what another thread, or an earlier reading, had allocated. As asked for: what an
/// allocator adds is not in it.
pub fn held() -> i64 {
    HELD.with(Cell::get)
}

fn count(bytes: usize, sign: i64) {
    HELD.with(|h| h.set(h.get().wrapping_add(sign * bytes as i64)));
}

struct Counting(Inner);

// SAFETY: each call is passed on unchanged, and what it gives comes from the allocator that will be asked to release it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's promise.
        unsafe { self.0.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(layout.size(), -1);
        count(new_size, 1);
        // SAFETY: the caller's promise.
        unsafe { self.0.realloc(ptr, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::held;

    #[test]
    fn what_is_kept_is_counted_until_it_is_released() {
        let before = held();
        let mut kept: Vec<Vec<u8>> = (0..10).map(|_| Vec::with_capacity(1_000)).collect();
        let outer = (kept.capacity() * size_of::<Vec<u8>>()) as i64;
        assert_eq!(held() - before, 10_000 + outer);
        kept.iter_mut().for_each(|v| v.reserve_exact(3_000));
        assert_eq!(held() - before, 30_000 + outer);
        drop(kept);
        assert_eq!(held(), before);
    }

    #[test]
    fn what_another_thread_allocates_is_not_counted_here() {
        let before = held();
        let made = std::thread::scope(|s| s.spawn(|| vec![1u8; 1 << 20]).join().unwrap());
        let after = held();
        assert!((after - before).abs() < 10_000, "{before} {after}");
        drop(made);
    }
}
