//! Why `run` returned to the embedder.

use super::{GuestBytes, InvalidState, PanicAt, PortAccess};
use crate::{
    addr::{Gpa, Gva},
    error::Error,
    insn::{Transfer, Unsupported, Way},
    shadow::Kind,
    svm::ExitCode,
    vcpu::Vcpu,
    x86::{Exception, PageFaultCode, Vector},
};
use core::fmt;
use hv_abi::{
    call::Stream,
    function::{Answer, Types},
};

/// Why `run` returned to the embedder.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Stop {
    /// The guest writes to its console. The embedder reads the bytes, then answers the call with how many it took, or with a status.
    Console {
        /// Which stream.
        stream: Stream,
        /// Where the bytes are.
        bytes: GuestBytes,
    },
    /// The guest reads its input. The embedder writes at least a byte, or none at the input's end, then answers the call with how many there were, or with a status.
    Read(GuestBytes),
    /// The guest waits until its time stamp counter reads this, or for less. The embedder answers the call with 0, or with 1 where that is not reached.
    Sleep {
        /// The time stamp; any number at all.
        until: u64,
    },
    /// The guest is ready for its first request ([`crate::Vm::request`]).
    Ready,
    /// The guest answered the last request, and is ready for the next ([`crate::Vm::request`]); the payload is in its outbox ([`crate::Vm::read_outbox`]).
    Answered(Answer),
    /// The guest calls a function of the host; the embedder reads its outbox ([`crate::Vm::read_outbox`]) and responds ([`crate::Vm::respond`]).
    HostCall {
        /// `hv_abi::function::id` of its name.
        function: u64,
        /// Its types, as the guest knows them.
        types: Types,
        /// Length of the request in bytes.
        len: usize,
    },
    /// The guest is done; its exit code.
    Exit(i32),
    /// The guest panicked; where its report lies.
    Panic(PanicAt),
    /// The guest accessed a port that is not hv's; RIP is behind the instruction. After an IN, the embedder answers with the value.
    Io {
        /// Port, direction, width.
        access: PortAccess,
        /// What an OUT wrote.
        value: u32,
    },
    /// The guest accessed something outside of its memory that no attached device answers for. After a read, the embedder answers with what is there
    /// ([`crate::Vm::answer_mmio`]); the same stop comes again until it does.
    Mmio(Transfer),
    /// The guest executes INS or OUTS. For OUTS, the elements are [`crate::Vm::port_bytes`]. For INS, the embedder puts there as many as it has
    /// ([`crate::Vm::port_bytes_mut`]) and answers with their number ([`crate::Vm::answer_ins`]); RIP and registers move at the next run.
    IoString {
        /// Port, direction, width.
        access: PortAccess,
        /// How many elements there are, or how many are wanted at the most.
        elements: u32,
    },
    /// The guest accessed something outside of its memory with an instruction that is not emulated; RIP is at it.
    NotEmulated(Unsupported),
    /// The host had an interrupt or NMI and has served it. The guest may go on.
    Interrupted,
    /// The guest could take an interrupt now, which the embedder wanted to know ([`Vcpu::request_window`]).
    InterruptWindow,
    /// The processor reports a machine check, which is the host's to handle. The guest may go on.
    MachineCheck,
    /// The guest sleeps in a HLT until its local APIC's timer wakes it, and need not be run before; an interrupt that is injected wakes it too. Until then it
    /// is this again and again.
    Idle {
        /// When that is, by the host's time stamp counter; it may be past.
        until: u64,
    },
    /// The guest halted, and nothing waits that would wake it. It goes on behind the HLT if it is run again.
    Halt,
    /// The guest's tables led an access outside its memory; RIP is at the instruction.
    OutsideMemory {
        /// Where the access led.
        gpa: Gpa,
        /// The address that was accessed.
        address: Gva,
    },
    /// The guest's tables allow an access that the host forbids ([`crate::mem::HostRights`]); RIP is at the instruction.
    Denied {
        /// Where the access led.
        gpa: Gpa,
        /// The address that was accessed.
        address: Gva,
        /// What it would have done.
        kind: Kind,
    },
    /// The guest has shut down: an exception that it could not take.
    Shutdown {
        /// The exception, where it is known.
        cause: Option<Cause>,
        /// Where the guest was.
        rip: u64,
    },
    /// The processor refused the VMCB. The VM cannot go on.
    InvalidState(InvalidState),
    /// The host ran out of something; the guest may go on once there is more.
    Host(Error),
    /// The guest did what this platform does not offer.
    Unhandled(Unhandled),
}

/// An exception that nobody took.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cause {
    /// The exception.
    pub exception: Exception,
    /// For a page fault, the address that was accessed.
    pub address: Gva,
}

/// An exit that hv has no handler for; the virtual CPU's registers are as the guest left them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unhandled {
    /// EXITCODE.
    pub code: ExitCode,
    /// EXITINFO1.
    pub info_1: u64,
    /// EXITINFO2.
    pub info_2: u64,
    /// Where the guest was.
    pub rip: u64,
}

pub(super) fn unhandled(vcpu: &Vcpu) -> Stop {
    let (control, save) = (&vcpu.vmcb().control, &vcpu.vmcb().save);
    let code = ExitCode(control.exit_code as u32);
    Stop::Unhandled(Unhandled { code, info_1: control.exit_info_1, info_2: control.exit_info_2, rip: save.rip })
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.exception.vector != Vector::PF {
            return write!(f, "{}", self.exception);
        }
        let code = PageFaultCode::from_bits_truncate(self.exception.code.unwrap_or(0));
        let verb = if code.contains(PageFaultCode::FETCH) {
            "execute"
        } else if code.contains(PageFaultCode::WRITE) {
            "write to"
        } else {
            "read"
        };
        let why = if code.contains(PageFaultCode::RESERVED) {
            "whose page-table entry has reserved bits set"
        } else if code.contains(PageFaultCode::PRESENT) {
            "which is mapped without that right"
        } else {
            "which is not mapped"
        };
        write!(f, "page fault (code {:#x}): it tried to {verb} address {}, {why}", code.bits(), self.address)
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Console { bytes, .. } => write!(f, "writes {} bytes to its console", bytes.len),
            Self::Read(bytes) => write!(f, "reads {} bytes of its input", bytes.len),
            Self::Sleep { until } => write!(f, "sleeps until time stamp {until}"),
            Self::Ready => f.write_str("ready for its first request"),
            Self::Answered(answer) => write!(f, "answers a request: {:?}, {} bytes", answer.kind, answer.len),
            Self::HostCall { function, len, .. } => write!(f, "calls function {function:#x} of the host with {len} bytes"),
            Self::Exit(code) => write!(f, "exit with code {code}"),
            Self::Panic(_) => f.write_str("panic"),
            Self::Io { access, .. } => {
                write!(
                    f,
                    "{:?} access of {} bytes to port {:#x}, which nobody owns",
                    access.direction(),
                    access.width() as u8,
                    access.port()
                )
            }
            Self::Mmio(access) => {
                let verb = if access.way == Way::Read { "read" } else { "write" };
                write!(f, "{verb} of {} bytes at {}, outside its memory, which nobody answers", access.bytes, access.gpa)
            }
            Self::IoString { access, elements } => write!(
                f,
                "string {:?} of {elements} elements of {} bytes at port {:#x}, which nobody owns",
                access.direction(),
                access.width() as u8,
                access.port()
            ),
            Self::NotEmulated(found) => {
                let bytes = &found.bytes[..usize::from(found.count)];
                write!(
                    f,
                    "access outside its memory by an instruction that is not emulated: {bytes:02x?} at rip {:#x}",
                    found.rip
                )
            }
            Self::Interrupted => f.write_str("interrupted by the host"),
            Self::InterruptWindow => f.write_str("ready for an interrupt"),
            Self::MachineCheck => f.write_str("stopped by a machine check"),
            Self::Idle { until } => write!(f, "sleeps until the time stamp {until}"),
            Self::Halt => f.write_str("halt with nothing to wake it"),
            Self::OutsideMemory { gpa, address } => {
                write!(f, "access to address {address}, which leads to {gpa}, outside its memory")
            }
            Self::Denied { gpa, address, kind } => {
                let verb = match kind {
                    Kind::Read => "read",
                    Kind::Write => "write to",
                    Kind::Fetch => "execute",
                };
                write!(f, "it tried to {verb} address {address}, which leads to {gpa}, where the host forbids that")
            }
            Self::Shutdown { cause: Some(cause), rip } => write!(f, "unhandled {cause}, at rip {rip:#x}"),
            Self::Shutdown { cause: None, rip } => write!(f, "triple fault at rip {rip:#x}"),
            Self::InvalidState(state) => write!(f, "the processor refused its state {state}"),
            Self::Host(error) => write!(f, "the host failed it: {error}"),
            Self::Unhandled(exit) => write!(
                f,
                "{} exit ({:#x}, info {:#x}, {:#x}) at rip {:#x}, which this platform does not offer",
                exit.code.name(),
                exit.code.0,
                exit.info_1,
                exit.info_2,
                exit.rip
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn page_faults_say_what_was_tried_and_why_it_failed() {
        let cause =
            |code, address| Cause { exception: Exception { vector: Vector::PF, code: Some(code) }, address: Gva(address) };
        let cases = [
            (cause(0, 0x10), "page fault (code 0x0): it tried to read address 0x10, which is not mapped"),
            (cause(3, 0x1000), "page fault (code 0x3): it tried to write to address 0x1000, which is mapped without that right"),
            (
                cause(0x11, 0x2000),
                "page fault (code 0x11): it tried to execute address 0x2000, which is mapped without that right",
            ),
            (
                cause(9, 0x2000),
                "page fault (code 0x9): it tried to read address 0x2000, whose page-table entry has reserved bits set",
            ),
        ];
        for (cause, text) in cases {
            assert_eq!(cause.to_string(), text);
        }
        let stop = Stop::Shutdown { cause: Some(Cause { exception: Exception::GP0, address: Gva(0) }), rip: 0x10 };
        assert_eq!(stop.to_string(), "unhandled general protection fault (error code 0x0), at rip 0x10");
    }
}
