//! The clock of a thread, stopped and moved by hand: quiche and BoringSSL read the time themselves, so that a schedule can run on
//! virtual time only if what they call answers with it.
#![allow(unsafe_code, reason = "this takes the place of the C library's clock_gettime in this test program")]

use std::cell::Cell;
use std::time::Duration;

thread_local! {
    /// Nanoseconds since boot, while this thread's clock is stopped.
    static STOPPED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `case` on virtual time, which starts at the real one and moves by [`advance`] alone.
pub fn on_virtual_time<T>(case: impl FnOnce() -> T) -> T {
    struct Restart;
    impl Drop for Restart {
        fn drop(&mut self) {
            STOPPED.set(None);
        }
    }
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    real(libc::CLOCK_MONOTONIC, &mut now);
    let _restart = Restart;
    STOPPED.set(Some(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64));
    case()
}

/// Moves this thread's virtual time.
pub fn advance(by: Duration) {
    STOPPED.set(STOPPED.get().map(|t| t + by.as_nanos() as u64));
}

fn real(clock: libc::clockid_t, out: &mut libc::timespec) -> libc::c_int {
    // SAFETY: `out` is a live timespec, which is all that this system call writes to.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, std::ptr::from_mut(out)) as libc::c_int }
}

/// What `Instant::now` calls: the linker prefers a program's own function to the C library's. `SystemTime` goes on by the real
/// clock: certificates live for an hour, and no case for half a minute.
///
/// # Safety
/// As the C library's: `out` points to a timespec that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, out: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise.
    let Some(out) = (unsafe { out.as_mut() }) else { return -1 };
    // A thread that is ending has no clock of its own any more.
    match STOPPED.try_with(Cell::get).ok().flatten().filter(|_| clock == libc::CLOCK_MONOTONIC) {
        Some(t) => {
            out.tv_sec = (t / 1_000_000_000) as libc::time_t;
            out.tv_nsec = (t % 1_000_000_000) as libc::c_long;
            0
        }
        None => real(clock, out),
    }
}

#[test]
fn virtual_time_moves_by_hand_alone() {
    on_virtual_time(|| {
        let start = std::time::Instant::now();
        std::thread::sleep(Duration::from_millis(3));
        assert_eq!(start.elapsed(), Duration::ZERO);
        advance(Duration::from_secs(9));
        assert_eq!(start.elapsed(), Duration::from_secs(9));
    });
    let start = std::time::Instant::now();
    std::thread::sleep(Duration::from_millis(3));
    assert!(start.elapsed() >= Duration::from_millis(3));
}
