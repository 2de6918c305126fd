//! A virtual CPU as the emulator sees it.

use super::cr;
use crate::{
    addr::{Gpa, Gva, PAGE_SIZE},
    hw::Hw,
    insn::{Alignment, Broken, CodeBits, Fault, MAX_BYTES, Machine, Mode, Place, Protection, SegmentName, Touch},
    mem::GuestMemory,
    shadow::{Access, FlushDuty, Kind, Outcome, PageFault, ShadowMmu, translate},
    svm::{Segment, attributes},
    vcpu::{CodeMode, SegmentRegister, Vcpu},
    x86::{Cr0Flags, Entry, Exception, RFlags},
};

/// What the fault that led here has found out already: a page, and where it leads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    page: Gva,
    kind: Kind,
    place: Gpa,
}

impl Hint {
    /// Nothing: its page is no page's address.
    pub(super) const NONE: Self = Self { page: Gva(u64::MAX), kind: Kind::Read, place: Gpa(0) };

    /// An access of `kind` to `address` leads to `gpa`, outside of memory.
    pub(super) const fn outside(address: Gva, gpa: Gpa, kind: Kind) -> Self {
        Self { page: address.page_base(), kind, place: gpa.page_base() }
    }

    #[inline]
    fn find(&self, address: Gva, touch: Touch) -> Option<Gpa> {
        let allowed = self.kind == Kind::Write || (self.kind == Kind::Read && touch == Touch::Read);
        (allowed && self.page == address.page_base()).then_some(Gpa(self.place.0 | address.page_offset() as u64))
    }
}

/// The machine that an instruction is emulated on.
pub(super) struct Guest<'a> {
    vcpu: &'a mut Vcpu,
    mmu: &'a mut ShadowMmu,
    memory: &'a mut GuestMemory,
    hw: &'a mut dyn Hw,
    hint: Hint,
}

/// Makes the machine out of a context, but for its devices.
macro_rules! guest {
    ($context:expr, $hint:expr) => {
        $crate::exit::emulated::Guest::new($context.vcpu, $context.mmu, $context.memory, $context.hw, $hint)
    };
}
pub(super) use guest;

impl<'a> Guest<'a> {
    #[inline]
    pub(super) fn new(
        vcpu: &'a mut Vcpu,
        mmu: &'a mut ShadowMmu,
        memory: &'a mut GuestMemory,
        hw: &'a mut dyn Hw,
        hint: Hint,
    ) -> Self {
        Self { vcpu, mmu, memory, hw, hint }
    }

    /// Makes an access by the guest's tables, as far as that goes without the processor.
    fn access(&mut self, address: Gva, kind: Kind) -> Result<Place, Broken> {
        let privilege = self.vcpu.privilege();
        let access = Access { kind, privilege, smap: self.vcpu.smap(privilege) };
        if let Some(place) = self.find(address, access) {
            return Ok(place);
        }
        let (outcome, duty) = match self.mmu.fill_any(self.memory, self.vcpu.paging(), address, access) {
            Ok(found) => found,
            Err(error) => {
                self.vcpu.owe(FlushDuty::Asid);
                return Err(Broken::Host(error));
            }
        };
        self.vcpu.owe(duty);
        match outcome {
            Outcome::Outside(gpa) => Ok(Place::Device(gpa)),
            // What no leaf can express, hv itself can do: the guest's tables allow it.
            Outcome::Inexpressible(gpa) => Ok(Place::Memory(gpa)),
            Outcome::Guest(fault) => Err(broken(fault)),
            Outcome::Denied(gpa) => Err(Broken::Denied(gpa, address)),
            Outcome::Filled => {
                let found = translate(self.memory, self.vcpu.paging(), address, access).map_err(broken)?;
                Ok(Place::Memory(found.gpa))
            }
        }
    }

    /// Where an access leads for which nothing has to be set, brought in or refused.
    fn find(&self, address: Gva, access: Access) -> Option<Place> {
        let found = translate(self.memory, self.vcpu.paging(), address, access).ok()?;
        let used = if access.kind == Kind::Write { Entry::ACCESSED | Entry::DIRTY } else { Entry::ACCESSED };
        let gfn = found.gpa.gfn();
        let frame = self.memory.present(gfn);
        let allowed = frame.is_some_and(|frame| match access.kind {
            Kind::Read => true,
            Kind::Write => frame.takes_writes(),
            Kind::Fetch => frame.takes_fetches(),
        });
        if !found.leaf().contains(used) {
            None
        } else if allowed {
            Some(Place::Memory(found.gpa))
        } else {
            (!self.memory.contains(gfn)).then_some(Place::Device(found.gpa))
        }
    }

    /// Fetches what the quick way does not: across pages, from pages that are not there yet, with the reason where it ends.
    #[cold]
    fn fetch_slowly(&mut self, into: &mut [u8; 16]) -> (usize, Option<Broken>) {
        let mut count = 0;
        while count < MAX_BYTES {
            let mut at = self.vcpu.code_address().wrapping_add(count as u64);
            if self.vcpu.code_mode() != CodeMode::Bits64 {
                at.0 &= 0xffff_ffff;
            }
            let gpa = match self.access(at, Kind::Fetch) {
                Ok(Place::Memory(gpa)) => gpa,
                Ok(Place::Device(gpa)) => return (count, Some(Broken::Outside(gpa))),
                Err(broken) => return (count, Some(broken)),
            };
            let end = MAX_BYTES.min(count + PAGE_SIZE - at.page_offset());
            if self.memory.read(gpa, &mut into[count..end]).is_err() {
                return (count, Some(Broken::Outside(gpa)));
            }
            count = end;
        }
        (count, None)
    }
}

fn broken(fault: PageFault) -> Broken {
    Broken::Fault(Fault { exception: fault.exception(), address: fault.address })
}

impl Machine for Guest<'_> {
    #[inline]
    fn mode(&self) -> Mode {
        let vcpu = &*self.vcpu;
        let (control, rflags) = (vcpu.control(), vcpu.rflags());
        let big = |segment: Segment| segment.attributes & attributes::DEFAULT_32 != 0;
        let code = vcpu.code_mode().bits();
        let stack = match code {
            CodeBits::Bits64 => CodeBits::Bits64,
            _ if big(vcpu.segment(SegmentRegister::Ss)) => CodeBits::Bits32,
            _ => CodeBits::Bits16,
        };
        let protection = if rflags & RFlags::VIRTUAL_8086_MODE.bits() != 0 {
            Protection::Virtual8086
        } else if control.is_protected() {
            Protection::Protected
        } else {
            Protection::Real
        };
        let checked =
            rflags & RFlags::ALIGNMENT_CHECK.bits() != 0 && control.cr0 & Cr0Flags::ALIGNMENT_MASK.bits() != 0 && vcpu.cpl() == 3;
        Mode { code, stack, protection, alignment: if checked { Alignment::Checked } else { Alignment::Free } }
    }

    #[inline]
    fn register(&self, number: u8) -> u64 {
        self.vcpu.register(number)
    }

    #[inline]
    fn set_register(&mut self, number: u8, value: u64) {
        self.vcpu.set_register(number, value);
    }

    #[inline]
    fn rip(&self) -> u64 {
        self.vcpu.rip()
    }

    #[inline]
    fn set_rip(&mut self, rip: u64) {
        self.vcpu.advance_to(rip);
    }

    #[inline]
    fn rflags(&self) -> u64 {
        self.vcpu.rflags()
    }

    #[inline]
    fn set_rflags(&mut self, rflags: u64) {
        self.vcpu.set_rflags(rflags);
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.vcpu.segment(name.into())
    }

    fn cr0(&self) -> u64 {
        self.vcpu.control().cr0
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Broken> {
        let fault = |exception| Broken::Fault(Fault::of(exception));
        if self.vcpu.cpl() != 0 {
            return Err(fault(Exception::GP0));
        }
        let mut control = *self.vcpu.control();
        let (cs, memory) = (self.vcpu.segment(SegmentRegister::Cs), &*self.memory);
        let cached = control.set_cr0(value, &cs, |at| memory.load(Gpa(at)).unwrap_or(u64::MAX)).map_err(fault)?;
        cr::take_effect(self.vcpu, self.mmu, &control, cached).map_err(Broken::Host)
    }

    fn vector(&mut self, number: u8) -> u128 {
        self.vcpu.vector(self.hw, number)
    }

    fn set_vector(&mut self, number: u8, value: u128) {
        self.vcpu.set_vector(self.hw, number, value);
    }

    #[inline]
    fn fetch(&mut self, into: &mut [u8; 16]) -> (usize, Option<Broken>) {
        match self.vcpu.code_window(self.mmu, self.memory) {
            Some(bytes) => {
                *into = bytes;
                (MAX_BYTES, None)
            }
            None => self.fetch_slowly(into),
        }
    }

    #[inline]
    fn translate(&mut self, address: Gva, touch: Touch) -> Result<Place, Broken> {
        if let Some(gpa) = self.hint.find(address, touch) {
            return Ok(Place::Device(gpa));
        }
        self.access(address, if touch == Touch::Write { Kind::Write } else { Kind::Read })
    }

    fn load(&self, at: Gpa, into: &mut [u8]) {
        if self.memory.read(at, into).is_err() {
            // `translate` has found memory there.
            into.fill(0xff);
        }
    }

    fn store(&mut self, at: Gpa, from: &[u8]) {
        // `translate` has readied the frame, so that nothing here can fail; what hv writes, its shadow tables must hear of.
        if let Ok((_, touched)) = self.memory.touch_by_host(at.gfn()) {
            self.vcpu.owe(self.mmu.written(at.gfn(), touched));
            let _there = self.memory.write(at, from);
        }
    }
}
