//! How time is read off the time stamp counter, without a call.
//!
//! The monotonic clock counts nanoseconds: `offset + (RDTSC - zero) * scale / 2^32`. Scale and offset stand in the run block
//! ([`crate::boot::RunInfo`]) and change only when the host resumes a snapshot.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Binary digits behind the point of [`Clock::scale`].
const SCALE_BITS: u32 = 32;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// What makes nanoseconds of time stamps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Clock {
    /// The time stamp at which the clock shows [`Clock::offset_ns`].
    pub zero: u64,
    /// Nanoseconds per tick, times 2^32.
    pub scale: u64,
    /// What the clock shows at [`Clock::zero`], in nanoseconds: 0, or more after a snapshot was resumed.
    pub offset_ns: u64,
}

impl Clock {
    /// Makes a clock that shows 0 at the time stamp `zero`, of a counter with this frequency.
    pub const fn new(zero: u64, tsc_hertz: u64) -> Self {
        let hertz = if tsc_hertz == 0 { 1 } else { tsc_hertz };
        let scale = ((NS_PER_SECOND as u128) << SCALE_BITS) / hertz as u128;
        Self { zero, scale: if scale > u64::MAX as u128 { u64::MAX } else { scale as u64 }, offset_ns: 0 }
    }

    /// The nanoseconds that the clock shows at a time stamp; one before [`Clock::zero`] counts as that.
    #[inline]
    pub const fn ns(&self, tsc: u64) -> u64 {
        let passed = (tsc.saturating_sub(self.zero) as u128 * self.scale as u128) >> SCALE_BITS;
        (self.offset_ns as u128 + passed) as u64
    }

    /// The first time stamp at which the clock shows `ns` or more; the last one there is, if it would lie behind it.
    pub const fn tsc(&self, ns: u64) -> u64 {
        let ns = ns.saturating_sub(self.offset_ns) as u128;
        let scale = if self.scale == 0 { 1 } else { self.scale as u128 };
        let ticks = (ns << SCALE_BITS).div_ceil(scale);
        if ticks > (u64::MAX - self.zero) as u128 { u64::MAX } else { self.zero + ticks as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_of_a_nanosecond_is_exact() {
        let clock = Clock::new(1000, NS_PER_SECOND);
        assert_eq!((clock.ns(1000), clock.ns(1001), clock.ns(0)), (0, 1, 0));
        assert_eq!(clock.ns(1000 + (1 << 60)), 1 << 60);
        assert_eq!(clock.tsc(7), 1007);
    }

    #[test]
    fn stamps_and_nanoseconds_round_trip_at_any_frequency() {
        for hertz in [1_000_000, 999_999_937, 2_400_000_000, 5_700_000_001] {
            let clock = Clock { offset_ns: 77, ..Clock::new(123_456_789, hertz) };
            for ns in [77, 78, 1_000, 1_000_000_007, 86_400_000_000_000] {
                let tsc = clock.tsc(ns);
                assert!(clock.ns(tsc) >= ns, "{hertz} Hz, {ns} ns");
                assert!(tsc == clock.zero || clock.ns(tsc - 1) < ns, "{hertz} Hz, {ns} ns: not the first");
            }
            // A day's error is below a millisecond.
            let day = clock.ns(clock.zero + 86_400 * hertz) - 77;
            assert!(day.abs_diff(86_400 * NS_PER_SECOND) < 1_000_000, "{hertz} Hz: {day}");
        }
    }

    #[test]
    fn extremes_neither_wrap_nor_divide_by_zero() {
        let clock = Clock::new(u64::MAX - 1, 0);
        assert_eq!(clock.tsc(u64::MAX), u64::MAX);
        assert_eq!(Clock::default().tsc(1), 1 << SCALE_BITS);
        assert_eq!(Clock::default().ns(u64::MAX), 0);
    }
}
