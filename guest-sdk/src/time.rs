//! Time: a monotonic clock that is read without leaving the guest, the time of day, and sleep.
//!
//! The monotonic clock goes on while the guest is halted, sleeps, or waits for the host. It begins near 0 when the guest does, never goes back,
//! and goes on where it was when the host resumes a snapshot of the guest, however long that took; the time of day is right then as well.

use core::ops::{Add, AddAssign, Sub};
pub use core::time::Duration;

use crate::backend;

/// A reading of the monotonic clock.
///
/// ```
/// use guest_sdk::time::{Duration, Instant, sleep};
///
/// let start = Instant::now();
/// sleep(Duration::from_millis(2));
/// assert!(start.elapsed() >= Duration::from_millis(2));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant(u64);

impl Instant {
    /// Reads the clock. It takes no exit.
    #[inline]
    pub fn now() -> Self {
        Self(backend::now_ns())
    }

    /// The reading that shows so many nanoseconds.
    pub(crate) const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// Returns how long ago this was; zero if it is yet to come.
    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    /// Returns how long `earlier` was before this; zero if it was not.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the time since the guest began.
    pub const fn since_start(self) -> Duration {
        Duration::from_nanos(self.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// A time that lies further ahead than the clock can show (584 years) is the last one it can.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// Lets at least so much time pass. The host may run others meanwhile.
pub fn sleep(duration: Duration) {
    sleep_until(Instant::now() + duration);
}

/// Lets time pass until then.
///
/// # Panics
/// If the host does not offer sleep.
pub fn sleep_until(then: Instant) {
    // The host cuts a sleep short when it likes.
    while Instant::now() < then {
        if let Err(status) = backend::sleep_until(then.0) {
            panic!("cannot sleep: {status}");
        }
    }
}

/// Returns the time since 1970-01-01 00:00 UTC, without leap seconds; `None` if the host does not know.
///
/// ```
/// let since = guest_sdk::time::since_1970().expect("a process knows the time of day");
/// assert!(since.as_secs() > 1_700_000_000);
/// ```
pub fn since_1970() -> Option<Duration> {
    match backend::run_info().wall_ns {
        0 => None,
        wall_ns => Some(Duration::from_nanos(wall_ns.saturating_add(backend::now_ns()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_ordered_and_saturate() {
        let (a, b) = (Instant(5), Instant(1_000_000_005));
        assert_eq!((b - a, a - b), (Duration::from_secs(1), Duration::ZERO));
        assert_eq!(a + Duration::from_secs(1), b);
        assert_eq!((a + Duration::MAX).0, u64::MAX);
    }
}
