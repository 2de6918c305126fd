//! RFLAGS, and how results set them (APM vol. 1, 3.1.4).

pub const CF: u64 = 1 << 0;
pub const PF: u64 = 1 << 2;
pub const AF: u64 = 1 << 4;
pub const ZF: u64 = 1 << 6;
pub const SF: u64 = 1 << 7;
pub const TF: u64 = 1 << 8;
pub const DF: u64 = 1 << 10;
pub const OF: u64 = 1 << 11;
pub const RF: u64 = 1 << 16;
pub const VM: u64 = 1 << 17;
/// The flags that arithmetic sets.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The low `bytes` bytes, 1 to 8.
#[inline(always)]
pub const fn mask(bytes: u8) -> u64 {
    u64::MAX >> (64 - 8 * bytes as u32)
}

/// The sign bit of an operand.
#[inline(always)]
pub const fn sign(bytes: u8) -> u64 {
    1 << (8 * bytes as u32 - 1)
}

/// Sign-extends an operand to 64 bits.
#[inline(always)]
pub const fn extend(value: u64, bytes: u8) -> u64 {
    let unused = 64 - 8 * bytes as u32;
    ((value << unused) as i64 >> unused) as u64
}

/// `flag` if `is`, else nothing.
#[inline(always)]
pub const fn when(is: bool, flag: u64) -> u64 {
    if is { flag } else { 0 }
}

/// SF, ZF and PF of a result, which is cut to its size.
#[inline]
pub const fn of_result(result: u64, bytes: u8) -> u64 {
    when(result == 0, ZF) | when(result & sign(bytes) != 0, SF) | when((result as u8).count_ones() & 1 == 0, PF)
}

/// The status flags of `a + b + carry`, with the sum.
#[inline]
pub const fn add(a: u64, b: u64, carry: u64, bytes: u8) -> (u64, u64) {
    let result = a.wrapping_add(b).wrapping_add(carry) & mask(bytes);
    // Carries into each bit; the one out of the top is found by the majority of the three.
    let carries = (a & b) | ((a | b) & !result);
    let overflow = (a ^ result) & (b ^ result);
    (result, arithmetic(result, a ^ b ^ result, carries, overflow, bytes))
}

/// The status flags of `a - b - borrow`, with the difference.
#[inline]
pub const fn subtract(a: u64, b: u64, borrow: u64, bytes: u8) -> (u64, u64) {
    let result = a.wrapping_sub(b).wrapping_sub(borrow) & mask(bytes);
    let borrows = (!a & b) | ((!a | b) & result);
    let overflow = (a ^ b) & (a ^ result);
    (result, arithmetic(result, a ^ b ^ result, borrows, overflow, bytes))
}

const fn arithmetic(result: u64, half: u64, carries: u64, overflow: u64, bytes: u8) -> u64 {
    of_result(result, bytes) | when(carries & sign(bytes) != 0, CF) | when(overflow & sign(bytes) != 0, OF) | half & AF
}

/// Tells whether a condition of SETcc, CMOVcc and Jcc holds, by its encoding.
pub const fn holds(condition: u8, flags: u64) -> bool {
    let less = (flags & SF != 0) != (flags & OF != 0);
    let is = match condition >> 1 & 7 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => less || flags & ZF != 0,
    };
    is != (condition & 1 != 0)
}
