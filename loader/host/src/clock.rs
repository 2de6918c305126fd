//! Time: the time stamp counter, and how fast it counts.
#![expect(unsafe_code, reason = "RDTSC")]

use crate::ports::IoPort;

/// Frequency of the 8254's counters in hertz.
const PIT_HERTZ: u64 = 1_193_182;
/// Shortest length of one measurement, in ticks of the 8254: about 2 ms.
const WINDOW: u16 = 2386;
/// How often the counter is read before the 8254 is given up; a reading takes about a microsecond.
const PATIENCE: u32 = 1_000_000;
/// Mode word: counter 0, both bytes, mode 2, in which it counts round and round.
const COUNTER_0_RATE: u8 = 0b0011_0100;
/// Mode word: latch counter 0.
const COUNTER_0_LATCH: u8 = 0;

/// Reads the time stamp counter.
pub(crate) fn now() -> u64 {
    // SAFETY: every processor with long mode has the instruction, and the host does not forbid it (CR4.TSD = 0).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Measures the frequency of the time stamp counter in hertz, against counter 0 of the 8254; `None` where there is no 8254.
pub(crate) fn measure() -> Option<u64> {
    IoPort::PIT_MODE.write(COUNTER_0_RATE);
    // 0 stands for 65536.
    IoPort::PIT_COUNTER_0.write(0);
    IoPort::PIT_COUNTER_0.write(0);
    // A delay between the two readings makes a measurement too high or too low; the middle one of three is neither.
    let mut hertz = [measure_once()?, measure_once()?, measure_once()?];
    hertz.sort_unstable();
    Some(hertz[1])
}

fn measure_once() -> Option<u64> {
    let (start, first) = (now(), count());
    for _ in 0..PATIENCE {
        let (end, passed) = (now(), first.wrapping_sub(count()));
        if passed >= WINDOW {
            return (end - start).checked_mul(PIT_HERTZ).map(|ticks| ticks / u64::from(passed));
        }
    }
    None
}

/// Reads counter 0, which counts down.
fn count() -> u16 {
    IoPort::PIT_MODE.write(COUNTER_0_LATCH);
    let low = IoPort::PIT_COUNTER_0.read();
    u16::from_le_bytes([low, IoPort::PIT_COUNTER_0.read()])
}
