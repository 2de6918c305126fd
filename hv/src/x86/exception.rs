//! Exceptions, and what becomes of one that is raised while another is being delivered (APM vol. 2, 8.2).

use core::fmt;

/// An exception's vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Vector(pub u8);

impl Vector {
    /// Divide error.
    pub const DE: Self = Self(0);
    /// Debug.
    pub const DB: Self = Self(1);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// Invalid opcode.
    pub const UD: Self = Self(6);
    /// Double fault.
    pub const DF: Self = Self(8);
    /// Invalid TSS.
    pub const TS: Self = Self(10);
    /// Segment not present.
    pub const NP: Self = Self(11);
    /// Stack fault.
    pub const SS: Self = Self(12);
    /// General protection.
    pub const GP: Self = Self(13);
    /// Page fault.
    pub const PF: Self = Self(14);
    /// Alignment check.
    pub const AC: Self = Self(17);
    /// Machine check.
    pub const MC: Self = Self(18);

    /// Tells whether the processor pushes an error code (APM vol. 2, table 8-1).
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }

    const fn is_contributory(self) -> bool {
        matches!(self.0, 0 | 10..=13)
    }

    /// The name the manuals use, such as "page fault".
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "divide error",
            1 => "debug exception",
            2 => "non-maskable interrupt",
            3 => "breakpoint",
            4 => "overflow",
            5 => "bound range exceeded",
            6 => "invalid opcode",
            7 => "device not available",
            8 => "double fault",
            10 => "invalid TSS",
            11 => "segment not present",
            12 => "stack fault",
            13 => "general protection fault",
            14 => "page fault",
            16 => "x87 floating-point error",
            17 => "alignment check",
            18 => "machine check",
            19 => "SIMD floating-point error",
            21 => "control protection fault",
            _ => "reserved exception",
        }
    }
}

/// An exception as it is delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Which one.
    pub vector: Vector,
    /// The error code, for those vectors that have one.
    pub code: Option<u32>,
}

impl Exception {
    /// An exception that has no error code.
    pub const fn plain(vector: Vector) -> Self {
        Self { vector, code: None }
    }

    /// A general protection fault with error code 0.
    pub const GP0: Self = Self { vector: Vector::GP, code: Some(0) };
    /// An invalid-opcode exception.
    pub const UD: Self = Self::plain(Vector::UD);
    /// A double fault.
    pub const DF: Self = Self { vector: Vector::DF, code: Some(0) };
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.vector.name())?;
        self.code.map_or(Ok(()), |code| write!(f, " (error code {code:#x})"))
    }
}

/// What the processor does with two exceptions, the second raised while the first was being delivered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// It delivers this one. (After a benign pair the first is raised again when its instruction is executed again.)
    Deliver(Exception),
    /// It shuts down.
    Shutdown,
}

/// Combines two exceptions (APM vol. 2, table 8-3, and 8.2.9 for a fault in the delivery of #DF).
pub fn combine(first: Exception, second: Exception) -> Combined {
    let (a, b) = (first.vector, second.vector);
    if a == Vector::DF && (b.is_contributory() || b == Vector::PF) {
        return Combined::Shutdown;
    }
    let doubles = (a.is_contributory() && b.is_contributory()) || (a == Vector::PF && (b.is_contributory() || b == Vector::PF));
    Combined::Deliver(if doubles { Exception::DF } else { second })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vector: u8) -> Exception {
        let vector = Vector(vector);
        Exception { vector, code: vector.has_error_code().then_some(0) }
    }

    #[test]
    fn pairs_combine_as_the_manual_lists_them() {
        let contributory = [0, 10, 11, 12, 13];
        for a in contributory {
            for b in contributory {
                assert_eq!(combine(of(a), of(b)), Combined::Deliver(Exception::DF), "{a} then {b}");
            }
            assert_eq!(combine(of(a), of(14)), Combined::Deliver(of(14)), "a page fault in a contributory one is served first");
            assert_eq!(combine(of(14), of(a)), Combined::Deliver(Exception::DF));
            assert_eq!(combine(of(8), of(a)), Combined::Shutdown);
        }
        assert_eq!(combine(of(14), of(14)), Combined::Deliver(Exception::DF));
        assert_eq!(combine(of(8), of(14)), Combined::Shutdown);
        assert_eq!(combine(of(6), of(13)), Combined::Deliver(of(13)), "benign first");
        assert_eq!(combine(of(13), of(6)), Combined::Deliver(of(6)), "benign second");
    }
}
