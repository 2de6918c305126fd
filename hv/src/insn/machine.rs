//! What an emulated instruction needs of its virtual CPU.

use crate::{
    addr::{Gpa, Gva},
    error::Error,
    svm::Segment,
    x86::{Exception, Vector},
};

/// Default size of operands and addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodeBits {
    /// 16 bits.
    Bits16,
    /// 32 bits.
    Bits32,
    /// 64-bit mode: addresses have 64 bits, operands 32.
    Bits64,
}

impl CodeBits {
    /// Bytes of an address.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }
}

/// Which checks segments are subject to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protection {
    /// Real mode.
    Real,
    /// Virtual-8086 mode.
    Virtual8086,
    /// Protected or long mode.
    Protected,
}

/// Whether misaligned operands are faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alignment {
    /// CR0.AM and RFLAGS.AC are set, and CPL is 3 (APM vol. 2, 8.2.18).
    Checked,
    /// They are not.
    Free,
}

/// How instructions are read and checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mode {
    /// Of the code segment.
    pub code: CodeBits,
    /// Of the stack pointer.
    pub stack: CodeBits,
    /// Of segments.
    pub protection: Protection,
    /// Of operands.
    pub alignment: Alignment,
}

/// A segment register, by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "registers, by their names in the manual")]
pub enum SegmentName {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

impl SegmentName {
    /// The register with that encoding; 6 and 7 name none.
    pub const fn from_encoding(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Es,
            1 => Self::Cs,
            2 => Self::Ss,
            3 => Self::Ds,
            4 => Self::Fs,
            5 => Self::Gs,
            _ => return None,
        })
    }
}

/// What an instruction is going to do with an operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Touch {
    /// Reads it.
    Read,
    /// Writes it, perhaps after reading it.
    Write,
}

/// Where an address leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// To memory, which is there, and writable if it was to be written.
    Memory(Gpa),
    /// Outside of it: to a device, or to nothing.
    Device(Gpa),
}

/// An exception that an instruction raises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The exception.
    pub exception: Exception,
    /// What CR2 shall say, if it is a page fault.
    pub address: Gva,
}

impl Fault {
    /// A fault that leaves CR2 as it is.
    pub const fn of(exception: Exception) -> Self {
        Self { exception, address: Gva(0) }
    }

    /// A general protection fault, or a stack fault where SS was used, with error code 0.
    pub(super) const fn segment(name: SegmentName) -> Self {
        let vector = if matches!(name, SegmentName::Ss) { Vector::SS } else { Vector::GP };
        Self::of(Exception { vector, code: Some(0) })
    }
}

/// Why a machine cannot give what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// The guest gets an exception.
    Fault(Fault),
    /// The host has no memory.
    Host(Error),
    /// An instruction was to be fetched outside of memory.
    Outside(Gpa),
    /// The guest's tables allow a write to an address, and the host forbids it.
    Denied(Gpa, Gva),
}

/// A virtual CPU and its memory.
pub trait Machine {
    /// How instructions are read and checked now.
    fn mode(&self) -> Mode;

    /// A general register, by its encoding (0 to 15).
    fn register(&self, number: u8) -> u64;

    /// Sets a general register.
    fn set_register(&mut self, number: u8, value: u64);

    /// RIP.
    fn rip(&self) -> u64;

    /// Goes on at another address; an interrupt shadow ends.
    fn set_rip(&mut self, rip: u64);

    /// RFLAGS.
    fn rflags(&self) -> u64;

    /// Sets RFLAGS.
    fn set_rflags(&mut self, rflags: u64);

    /// A segment register, hidden part included.
    fn segment(&self, name: SegmentName) -> Segment;

    /// CR0, as the guest wrote it.
    fn cr0(&self) -> u64;

    /// Writes CR0, with all that comes of it.
    ///
    /// # Errors
    /// #GP(0) above CPL 0, or for a combination that the manual forbids; or what the host lacks.
    fn set_cr0(&mut self, value: u64) -> Result<(), Broken>;

    /// An SSE register, by its encoding (0 to 15).
    fn vector(&mut self, number: u8) -> u128;

    /// Sets an SSE register.
    fn set_vector(&mut self, number: u8, value: u128);

    /// Fetches the bytes at RIP, by the guest's rights. Tells how many there are, and why not more if there are fewer than 15.
    fn fetch(&mut self, into: &mut [u8; 16]) -> (usize, Option<Broken>);

    /// Translates a linear address by the guest's rights, as an access of the current privilege does: sets accessed and dirty bits, readies memory for a write.
    ///
    /// # Errors
    /// The page fault, or what the host lacks.
    fn translate(&mut self, address: Gva, touch: Touch) -> Result<Place, Broken>;

    /// Reads memory inside one page that [`Machine::translate`] has found.
    fn load(&self, at: Gpa, into: &mut [u8]);

    /// Writes memory inside one page that [`Machine::translate`] has found for [`Touch::Write`].
    fn store(&mut self, at: Gpa, from: &[u8]);
}
