//! What an exit is counted under.

use core::fmt;

use hv::{
    hw::{RCX, RDI, RDX, Registers},
    svm::{ExitCode, Vmcb},
    x86::Vector,
};
use hv_abi::call::{DOORBELL_PORT, Number};

/// What an exit is counted under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A call, by its number; numbers that no call has are one kind.
    Call(u32),
    /// IN from a port.
    PortRead(u16),
    /// OUT to a port.
    PortWrite(u16),
    /// RDMSR, by index.
    MsrRead(u32),
    /// WRMSR, by index.
    MsrWrite(u32),
    /// A page fault, by what its error code says (APM vol. 2, 8.4.2).
    PageFault {
        /// It was a write.
        write: bool,
        /// It was an instruction fetch.
        fetch: bool,
        /// The shadow tables had the page, with other rights.
        present: bool,
    },
    /// Another exit, by its code.
    Other(u32),
    /// Kinds that came when there was no room left to tell them apart.
    Further,
}

/// The number under which calls are counted that do not exist.
const NO_CALL: u32 = u32::MAX;

impl Kind {
    /// Reads the exit that a VMCB holds, and what else is worth telling about it ([`Kind::detail`]).
    pub fn decode(vmcb: &Vmcb, registers: &Registers) -> (Self, u64) {
        let (control, rax) = (&vmcb.control, vmcb.save.rax);
        let info = control.exit_info_1;
        match control.exit_code as u32 {
            ExitCode::IOIO => {
                // EXITINFO1: the direction in bit 0, the port in bits 31:16 (APM vol. 2, 15.10.2).
                match ((info >> 16) as u16, info & 1) {
                    (DOORBELL_PORT, 0) => {
                        let number = Number::from_raw(rax as u32).map_or(NO_CALL, |number| number as u32);
                        (Self::Call(number), if number == NO_CALL { rax } else { registers.0[RDI] })
                    }
                    (port, 0) => (Self::PortWrite(port), rax),
                    (port, _) => (Self::PortRead(port), 0),
                }
            }
            // EXITINFO1: 1 for WRMSR (APM vol. 2, 15.11).
            ExitCode::MSR if info == 0 => (Self::MsrRead(registers.0[RCX] as u32), 0),
            ExitCode::MSR => (Self::MsrWrite(registers.0[RCX] as u32), registers.0[RDX] << 32 | rax & 0xffff_ffff),
            ExitCode::PAGE_FAULT => {
                let bit = |number: u32| info >> number & 1 != 0;
                (Self::PageFault { write: bit(1), fetch: bit(4), present: bit(0) }, control.exit_info_2)
            }
            code @ ExitCode::CPUID => (Self::Other(code), rax & 0xffff_ffff),
            code => (Self::Other(code), info),
        }
    }

    /// Tells whether a page was touched that the shadow tables did not have.
    pub const fn is_absent_page(self) -> bool {
        matches!(self, Self::PageFault { present: false, .. })
    }

    /// Names what an exit of this kind is recorded with; nothing where it is empty.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Call(NO_CALL) => "number",
            Self::Call(_) => "rdi",
            Self::PortWrite(_) | Self::MsrWrite(_) => "value",
            Self::PortRead(_) | Self::MsrRead(_) | Self::Further => "",
            Self::PageFault { .. } => "address",
            Self::Other(ExitCode::CPUID) => "leaf",
            Self::Other(_) => "info1",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Call(number) => match Number::from_raw(number) {
                Some(call) => write!(f, "call {call:?}"),
                None => write!(f, "call without a meaning"),
            },
            Self::PortRead(port) => write!(f, "IN from port {port:#x}"),
            Self::PortWrite(port) => write!(f, "OUT to port {port:#x}"),
            Self::MsrRead(index) => write!(f, "RDMSR {index:#x}"),
            Self::MsrWrite(index) => write!(f, "WRMSR {index:#x}"),
            Self::PageFault { write, fetch, present } => {
                let access = if fetch {
                    "fetch"
                } else if write {
                    "write"
                } else {
                    "read"
                };
                write!(f, "page fault, {access}, {}", if present { "rights" } else { "absent" })
            }
            Self::Other(code @ ExitCode::EXCEPTION_0..=ExitCode::EXCEPTION_31) => {
                write!(f, "{}", Vector((code - ExitCode::EXCEPTION_0) as u8).name())
            }
            Self::Other(code) => write!(f, "{}", ExitCode(code).name()),
            Self::Further => write!(f, "further kinds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use zerocopy::FromZeros;

    /// What an exit is called, with its detail, where RAX is 1, RCX 0xc000_0080, RDX 2 and RDI 0x3000.
    fn told(code: u32, info_1: u64, info_2: u64) -> (alloc::string::String, &'static str, u64) {
        let mut vmcb = Vmcb::new_zeroed();
        (vmcb.control.exit_code, vmcb.control.exit_info_1, vmcb.control.exit_info_2) = (u64::from(code), info_1, info_2);
        vmcb.save.rax = 1;
        let mut registers = Registers::default();
        (registers.0[RCX], registers.0[RDX], registers.0[RDI]) = (0xc000_0080, 2, 0x3000);
        let (kind, detail) = Kind::decode(&vmcb, &registers);
        (kind.to_string(), kind.detail(), detail)
    }

    #[test]
    fn exits_have_names_and_details() {
        let cases = [
            ((ExitCode::IOIO, 0x4856_0040, 0), ("call ConsoleWrite", "rdi", 0x3000)),
            ((ExitCode::IOIO, 0x4856_0041, 0), ("IN from port 0x4856", "", 0)),
            ((ExitCode::IOIO, 0x03f8_0010, 0), ("OUT to port 0x3f8", "value", 1)),
            ((ExitCode::MSR, 0, 0), ("RDMSR 0xc0000080", "", 0)),
            ((ExitCode::MSR, 1, 0), ("WRMSR 0xc0000080", "value", 0x2_0000_0001)),
            ((ExitCode::PAGE_FAULT, 0b00010, 0x5008), ("page fault, write, absent", "address", 0x5008)),
            ((ExitCode::PAGE_FAULT, 0b10000, 0x5008), ("page fault, fetch, absent", "address", 0x5008)),
            ((ExitCode::PAGE_FAULT, 0b00001, 0x5008), ("page fault, read, rights", "address", 0x5008)),
            ((ExitCode::CPUID, 0, 0), ("CPUID", "leaf", 1)),
            ((ExitCode::EXCEPTION_0 + 13, 9, 0), ("general protection fault", "info1", 9)),
            ((ExitCode::HLT, 0, 0), ("HLT", "info1", 0)),
        ];
        for ((code, info_1, info_2), (name, what, detail)) in cases {
            assert_eq!(told(code, info_1, info_2), (name.to_string(), what, detail));
        }
    }

    #[test]
    fn calls_that_do_not_exist_are_one_kind() {
        assert_eq!(Kind::Call(NO_CALL).to_string(), "call without a meaning");
        assert_eq!(Number::from_raw(NO_CALL), None);
    }
}
