//! MOV to and from control and debug registers, and CLTS: the forms that have no memory operand (APM vol. 3, MOV CRn, MOV DRn, CLTS).

use super::length::{CodeSize, is_legacy_prefix};

/// What a control- or debug-register instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlAccess {
    /// MOV from the register `number` to the general register `gpr`.
    Read {
        /// Control or debug register.
        number: u8,
        /// General register, by its encoding.
        gpr: u8,
    },
    /// MOV from the general register `gpr` to the register `number`.
    Write {
        /// Control or debug register.
        number: u8,
        /// General register, by its encoding.
        gpr: u8,
    },
    /// CLTS.
    ClearTaskSwitched,
}

/// Decodes such an instruction; tells its length in bytes too. `None` when the bytes are another one.
pub fn control_access(size: CodeSize, bytes: &[u8]) -> Option<(ControlAccess, u64)> {
    let mut at = bytes.iter().take_while(|byte| is_legacy_prefix(**byte)).count();
    // AMD's way to CR8 outside 64-bit mode (APM vol. 3, MOV CRn).
    let locked = bytes[..at].contains(&0xf0);
    let mut rex = 0;
    if size == CodeSize::Bits64 && bytes.get(at).is_some_and(|byte| byte & 0xf0 == 0x40) {
        rex = bytes[at];
        at += 1;
    }
    if *bytes.get(at)? != 0x0f {
        return None;
    }
    let opcode = *bytes.get(at + 1)?;
    if opcode == 0x06 {
        return Some((ControlAccess::ClearTaskSwitched, at as u64 + 2));
    }
    // The mode field of ModRM is ignored: both operands are registers.
    let modrm = *bytes.get(at + 2)?;
    let mut number = (modrm >> 3 & 7) | (rex & 4) << 1;
    let gpr = (modrm & 7) | (rex & 1) << 3;
    if locked && matches!(opcode, 0x20 | 0x22) && number == 0 {
        number = 8;
    }
    let access = match opcode {
        0x20 | 0x21 => ControlAccess::Read { number, gpr },
        0x22 | 0x23 => ControlAccess::Write { number, gpr },
        _ => return None,
    };
    Some((access, at as u64 + 3))
}
