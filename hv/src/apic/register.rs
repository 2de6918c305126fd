//! The registers of a local APIC, by their number: the offset in the page divided by 16, and the distance from the first MSR (APM vol. 2, tables 16-2 and 16-6).

/// The first of the x2APIC MSRs.
pub const MSR_FIRST: u32 = 0x800;
/// The last MSR that is reserved for x2APIC registers.
pub const MSR_LAST: u32 = 0x83f;
/// The size in bytes of the page of registers.
pub const PAGE_BYTES: u64 = 4096;

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Register {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    RemoteRead,
    LogicalDestination,
    DestinationFormat,
    Spurious,
    /// 32 vectors of the in-service register, from 32 times the number on.
    InService(u8),
    /// The same of the trigger mode register.
    TriggerMode(u8),
    /// The same of the request register.
    Request(u8),
    ErrorStatus,
    Command,
    CommandHigh,
    Local(Lvt),
    InitialCount,
    CurrentCount,
    Divide,
    SelfInterrupt,
}

impl Register {
    /// The register with that number; in which of the faces it exists is up to the access.
    #[inline]
    pub(super) const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0a => Self::ProcessorPriority,
            0x0b => Self::EndOfInterrupt,
            0x0c => Self::RemoteRead,
            0x0d => Self::LogicalDestination,
            0x0e => Self::DestinationFormat,
            0x0f => Self::Spurious,
            0x10..=0x17 => Self::InService(number as u8 & 7),
            0x18..=0x1f => Self::TriggerMode(number as u8 & 7),
            0x20..=0x27 => Self::Request(number as u8 & 7),
            0x28 => Self::ErrorStatus,
            0x30 => Self::Command,
            0x31 => Self::CommandHigh,
            0x32 => Self::Local(Lvt::Timer),
            0x33 => Self::Local(Lvt::Thermal),
            0x34 => Self::Local(Lvt::Performance),
            0x35 => Self::Local(Lvt::Int0),
            0x36 => Self::Local(Lvt::Int1),
            0x37 => Self::Local(Lvt::Error),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3e => Self::Divide,
            0x3f => Self::SelfInterrupt,
            _ => return None,
        })
    }
}

/// A local vector: what an event inside the processor, or at one of its pins, becomes (APM vol. 2, 16.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    Performance,
    Int0,
    Int1,
    Error,
}

impl Lvt {
    /// How many there are.
    pub(super) const COUNT: usize = 6;
    /// Bit 16: masked.
    pub(super) const MASKED: u32 = 1 << 16;

    /// The bits that software sets: vector and mask, the message type where there is one, the timer's mode, and the pins' polarity and trigger mode.
    pub(super) const fn writable(self) -> u32 {
        const VECTOR_AND_MASK: u32 = 0xff | Lvt::MASKED;
        match self {
            Self::Timer => VECTOR_AND_MASK | 3 << 17,
            Self::Thermal | Self::Performance => VECTOR_AND_MASK | 7 << 8,
            Self::Int0 | Self::Int1 => VECTOR_AND_MASK | 7 << 8 | 1 << 13 | 1 << 15,
            Self::Error => VECTOR_AND_MASK,
        }
    }
}
