//! What arithmetic instructions make of their operands, as pure functions. Operands and results are cut to their size.

use super::{
    flags::{AF, CF, OF, STATUS, ZF, add, extend, mask, of_result, sign, subtract, when},
    opcode::Operation,
};

/// A result, and RFLAGS after it.
type Result = (u64, u64);

/// ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST.
pub fn binary(operation: Operation, a: u64, b: u64, bytes: u8, rflags: u64) -> Result {
    use Operation as Op;
    let carry = rflags & CF;
    let (result, status) = match operation {
        Op::Add => add(a, b, 0, bytes),
        Op::Adc => add(a, b, carry, bytes),
        Op::Sub | Op::Cmp => subtract(a, b, 0, bytes),
        Op::Sbb => subtract(a, b, carry, bytes),
        Op::Or => logic(a | b, bytes),
        Op::Xor => logic(a ^ b, bytes),
        // AND and TEST.
        _ => logic(a & b, bytes),
    };
    (result, rflags & !STATUS | status)
}

/// AF is undefined after logic; processors clear it.
const fn logic(result: u64, bytes: u8) -> Result {
    (result, of_result(result, bytes))
}

/// NOT, NEG, INC, DEC.
pub fn unary(operation: Operation, a: u64, bytes: u8, rflags: u64) -> Result {
    let (result, status, changed) = match operation {
        Operation::Not => return (!a & mask(bytes), rflags),
        Operation::Neg => {
            let (result, status) = subtract(0, a, 0, bytes);
            (result, status, STATUS)
        }
        Operation::Inc => {
            let (result, status) = add(a, 1, 0, bytes);
            (result, status, STATUS & !CF)
        }
        _ => {
            let (result, status) = subtract(a, 1, 0, bytes);
            (result, status, STATUS & !CF)
        }
    };
    (result, rflags & !changed | status & changed)
}

/// ROL, ROR, RCL, RCR, SHL, SHR, SAR by `count`, of which 5 bits count, 6 for 64-bit operands.
pub fn shift(operation: Operation, a: u64, count: u8, bytes: u8, rflags: u64) -> Result {
    let count = u32::from(count) & if bytes == 8 { 63 } else { 31 };
    if count == 0 {
        return (a, rflags);
    }
    match operation {
        Operation::Rol | Operation::Ror => rotate(operation, a, count, bytes, rflags),
        Operation::Rcl | Operation::Rcr => rotate_through_carry(operation, a, count, bytes, rflags),
        _ => shift_out(operation, a, count, bytes, rflags),
    }
}

fn rotate(operation: Operation, a: u64, count: u32, bytes: u8, rflags: u64) -> Result {
    let bits = 8 * u32::from(bytes);
    let left = if operation == Operation::Rol { count % bits } else { (bits - count % bits) % bits };
    let result = if left == 0 { a } else { (a << left | a >> (bits - left)) & mask(bytes) };
    let top = result & sign(bytes) != 0;
    let (carry, overflow) = if operation == Operation::Rol {
        let carry = result & 1 != 0;
        (carry, top != carry)
    } else {
        (top, top != (result & sign(bytes) >> 1 != 0))
    };
    (result, rflags & !(CF | OF) | when(carry, CF) | when(overflow, OF))
}

fn rotate_through_carry(operation: Operation, a: u64, count: u32, bytes: u8, rflags: u64) -> Result {
    let bits = 8 * u32::from(bytes);
    let count = count % (bits + 1);
    // The operand with the carry above it is one bit longer than a word at the most.
    let wide = u128::from(rflags & CF) << bits | u128::from(a);
    let left = if operation == Operation::Rcl { count } else { (bits + 1 - count) % (bits + 1) };
    let turned = if left == 0 { wide } else { wide << left | wide >> (bits + 1 - left) };
    let (result, carry) = (turned as u64 & mask(bytes), turned >> bits & 1 != 0);
    if count == 0 {
        return (result, rflags);
    }
    let top = result & sign(bytes) != 0;
    let overflow = if operation == Operation::Rcl { top != carry } else { top != (result & sign(bytes) >> 1 != 0) };
    (result, rflags & !(CF | OF) | when(carry, CF) | when(overflow, OF))
}

fn shift_out(operation: Operation, a: u64, count: u32, bytes: u8, rflags: u64) -> Result {
    let bits = 8 * u32::from(bytes);
    let (result, carry, overflow) = match operation {
        Operation::Shl => {
            let wide = u128::from(a) << count;
            let (result, carry) = (wide as u64 & mask(bytes), wide >> bits & 1 != 0);
            (result, carry, (result & sign(bytes) != 0) != carry)
        }
        Operation::Shr => {
            let result = if count < bits { a >> count } else { 0 };
            let carry = count <= bits && a >> (count - 1) & 1 != 0;
            (result, carry, a & sign(bytes) != 0)
        }
        _ => {
            let wide = extend(a, bytes) as i64;
            ((wide >> count) as u64 & mask(bytes), wide >> (count - 1) & 1 != 0, false)
        }
    };
    let status = of_result(result, bytes) | when(carry, CF) | when(overflow, OF);
    (result, rflags & !STATUS | status)
}

/// SHLD and SHRD: shifts `a`, with the bits of `b` coming in. For 16-bit operands, counts above 16 are undefined.
pub fn double_shift(operation: Operation, a: u64, b: u64, count: u8, bytes: u8, rflags: u64) -> Result {
    let count = u32::from(count) & if bytes == 8 { 63 } else { 31 };
    if count == 0 {
        return (a, rflags);
    }
    let bits = 8 * u32::from(bytes);
    let (wide, carry) = if operation == Operation::Shld {
        // As processors do with counts above 16: the destination comes in again behind the source.
        let wide = (u128::from(a) << ((2 * bits) % 128)) | u128::from(b) << bits | u128::from(a);
        let wide = if bytes == 8 { u128::from(a) << 64 | u128::from(b) } else { wide };
        let total = if bytes == 8 { 2 * bits } else { 3 * bits };
        (wide >> (total - bits - count), wide >> (total - count) & 1 != 0)
    } else {
        let wide = u128::from(b) << bits | u128::from(a);
        let wide = if bytes == 8 { wide } else { u128::from(a) << (2 * bits) | wide };
        (wide >> count, wide >> (count - 1) & 1 != 0)
    };
    let result = wide as u64 & mask(bytes);
    let overflow = (result ^ a) & sign(bytes) != 0;
    (result, rflags & !STATUS | of_result(result, bytes) | when(carry, CF) | when(overflow, OF))
}

/// BT, BTS, BTR, BTC of bit `bit` of `a`, the bit being inside the operand.
pub fn bit(operation: Operation, a: u64, bit: u32, rflags: u64) -> Result {
    let one = 1 << bit;
    let result = match operation {
        Operation::Bts => a | one,
        Operation::Btr => a & !one,
        Operation::Btc => a ^ one,
        _ => a,
    };
    (result, rflags & !CF | when(a & one != 0, CF))
}

/// BSF, BSR, POPCNT. No result for BSF and BSR of 0, which leave their destination alone.
pub fn scan(operation: Operation, a: u64, rflags: u64) -> (Option<u64>, u64) {
    match operation {
        Operation::Popcnt => (Some(u64::from(a.count_ones())), rflags & !STATUS | when(a == 0, ZF)),
        _ if a == 0 => (None, rflags | ZF),
        Operation::Bsf => (Some(u64::from(a.trailing_zeros())), rflags & !ZF),
        _ => (Some(u64::from(63 - a.leading_zeros())), rflags & !ZF),
    }
}

/// IMUL with two operands: the product's low part.
pub fn multiply_signed(a: u64, b: u64, bytes: u8, rflags: u64) -> Result {
    let product = i128::from(extend(a, bytes) as i64) * i128::from(extend(b, bytes) as i64);
    let low = product as u64 & mask(bytes);
    let cut = i128::from(extend(low, bytes) as i64) != product;
    (low, rflags & !STATUS | product_flags(low, cut, bytes))
}

/// SF, ZF, AF and PF are undefined after a multiplication; these are what processors set for the low part.
const fn product_flags(low: u64, cut: bool, bytes: u8) -> u64 {
    of_result(low, bytes) & !AF | when(cut, CF | OF)
}

/// MUL and one-operand IMUL: low and high part of the product.
pub fn multiply(operation: Operation, a: u64, b: u64, bytes: u8, rflags: u64) -> ((u64, u64), u64) {
    let bits = 8 * u32::from(bytes);
    let product = if operation == Operation::Imul {
        (i128::from(extend(a, bytes) as i64) * i128::from(extend(b, bytes) as i64)) as u128
    } else {
        u128::from(a) * u128::from(b)
    };
    let (low, high) = (product as u64 & mask(bytes), (product >> bits) as u64 & mask(bytes));
    let unsurprising = if operation == Operation::Imul && low & sign(bytes) != 0 { mask(bytes) } else { 0 };
    let cut = high != unsurprising;
    ((low, high), rflags & !STATUS | product_flags(low, cut, bytes))
}

/// DIV and IDIV of `high:low`: quotient and remainder, or `None` for #DE.
pub fn divide(operation: Operation, high: u64, low: u64, by: u64, bytes: u8) -> Option<(u64, u64)> {
    let bits = 8 * u32::from(bytes);
    let dividend = u128::from(high) << bits | u128::from(low);
    if operation == Operation::Div {
        let (quotient, rest) = (dividend.checked_div(by.into())?, dividend.checked_rem(by.into())?);
        return (quotient <= mask(bytes).into()).then_some((quotient as u64, rest as u64));
    }
    let unused = 128 - 2 * bits;
    let dividend = (dividend << unused) as i128 >> unused;
    let by = i128::from(extend(by, bytes) as i64);
    let (quotient, rest) = (dividend.checked_div(by)?, dividend.checked_rem(by)?);
    let fits = i128::from(extend(quotient as u64 & mask(bytes), bytes) as i64) == quotient;
    fits.then_some((quotient as u64 & mask(bytes), rest as u64 & mask(bytes)))
}
