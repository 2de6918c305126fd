//! Reading the instruction at RIP, as the guest's own tables lead to it: what processors without NRIP-save and decode assists leave to software.

use super::{CodeMode, Vcpu};
use crate::{
    addr::{Gva, PAGE_SIZE},
    insn::{MAX_BYTES, Opcode},
    mem::{GuestFrame, GuestMemory},
    plant::{Bug, planted},
    shadow::{Access, Kind, ShadowMmu, translate},
    svm::Features,
};

/// A page that instruction bytes were read from.
pub(super) struct Fetch {
    page: Gva,
    epoch: u64,
    frame: GuestFrame,
}

/// The bytes of an instruction, as many as could be read.
pub(crate) struct InstructionBytes {
    /// One more than an instruction has.
    bytes: [u8; MAX_BYTES + 1],
    count: usize,
}

impl InstructionBytes {
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.count]
    }

    /// The bytes with zeros behind them: of an instruction that the processor has decoded, all were there.
    pub(crate) const fn padded(&self) -> &[u8; MAX_BYTES + 1] {
        &self.bytes
    }
}

impl Vcpu {
    /// Linear address of the instruction at RIP.
    pub(crate) fn code_address(&self) -> Gva {
        self.code_address_in(self.code_mode())
    }

    #[inline(always)]
    fn code_address_in(&self, mode: CodeMode) -> Gva {
        let save = &self.vmcb.save;
        if mode == CodeMode::Bits64 { Gva(save.rip) } else { Gva(save.cs.base.wrapping_add(save.rip) & 0xffff_ffff) }
    }

    /// The address `length` bytes behind RIP, as the code's size wraps it.
    pub(crate) fn rip_behind(&self, length: u64) -> u64 {
        self.code_mode().wrap(self.vmcb.save.rip.wrapping_add(length))
    }

    /// The address of the instruction behind the one at RIP, which is known to have `opcode`: from the processor where it tells, else by measuring.
    ///
    /// `None` when its bytes cannot be read through the guest's own tables, or are another instruction's.
    #[inline(always)]
    pub fn next_rip(&mut self, opcode: Opcode, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<u64> {
        if self.features.contains(Features::NRIP_SAVE) {
            return Some(self.vmcb.control.next_rip);
        }
        let mode = self.code_mode();
        let address = self.code_address_in(mode);
        let frame = self.fetch_frame(address, mmu, memory)?;
        let plain = memory.view_frame(frame).load_unaligned(address.page_offset()).and_then(|bytes| opcode.plain_length(bytes));
        let length = match plain {
            Some(length) => length,
            None => self.length_with_prefixes(opcode, mmu, memory)?,
        };
        Some(mode.wrap(self.vmcb.save.rip.wrapping_add(length)))
    }

    /// The same for an instruction without prefixes in 64-bit code, which lies in the page that the guest fetched from last; `None` says nothing. For handlers that are
    /// functions of their own: nothing in here is one that would have them keep registers.
    #[inline(always)]
    pub fn plain_next_rip(&self, opcode: Opcode, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<u64> {
        if self.features.contains(Features::NRIP_SAVE) {
            return Some(self.vmcb.control.next_rip);
        }
        let save = &self.vmcb.save;
        let address = Gva(save.rip);
        let known = self.fetch.as_ref().filter(|known| known.page == address.page_base() && known.epoch == mmu.epoch())?;
        let bytes = memory.view_frame(known.frame).load_unaligned(address.page_offset())?;
        let length = opcode.plain_length(bytes)?;
        (save.cs.attributes & self.long_attribute != 0).then(|| save.rip.wrapping_add(length))
    }

    #[cold]
    fn length_with_prefixes(&mut self, opcode: Opcode, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<u64> {
        crate::insn::length(opcode, self.code_mode().bits(), self.instruction(mmu, memory).as_slice())
    }

    /// Reads the four bytes at RIP, if they lie in one page.
    #[inline]
    pub(crate) fn first_bytes(&mut self, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<u32> {
        let address = self.code_address();
        let frame = self.fetch_frame(address, mmu, memory)?;
        memory.view_frame(frame).load_unaligned(address.page_offset())
    }

    /// Reads the bytes at RIP, across a page boundary if the next page can be read too.
    #[inline]
    pub(crate) fn instruction(&mut self, mmu: &ShadowMmu, memory: &GuestMemory) -> InstructionBytes {
        let address = self.code_address();
        let Some(frame) = self.fetch_frame(address, mmu, memory) else {
            return InstructionBytes { bytes: [0; MAX_BYTES + 1], count: 0 };
        };
        match memory.view_frame(frame).load_16(address.page_offset()) {
            Some(bytes) => InstructionBytes { bytes, count: MAX_BYTES },
            None => self.instruction_at_page_end(frame, address, mmu, memory),
        }
    }

    #[cold]
    fn instruction_at_page_end(
        &mut self,
        frame: GuestFrame,
        address: Gva,
        mmu: &ShadowMmu,
        memory: &GuestMemory,
    ) -> InstructionBytes {
        let mut read = InstructionBytes { bytes: [0; MAX_BYTES + 1], count: 0 };
        read.count = memory.view_frame(frame).read(address.page_offset(), &mut read.bytes[..MAX_BYTES]);
        if read.count < MAX_BYTES {
            let next = address.page_base().wrapping_add(PAGE_SIZE as u64);
            let next = if self.code_mode() == CodeMode::Bits64 { next } else { Gva(next.0 & 0xffff_ffff) };
            if let Some(frame) = self.fetch_frame(next, mmu, memory) {
                read.count += memory.view_frame(frame).read(0, &mut read.bytes[read.count..MAX_BYTES]);
            }
        }
        read
    }

    /// The 16 bytes from RIP on, if they lie in one page that the guest fetched from before.
    #[inline(always)]
    pub(crate) fn code_window(&mut self, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<[u8; 16]> {
        let address = self.code_address();
        if address.page_offset() > PAGE_SIZE - 16 {
            return None;
        }
        let frame = self.fetch_frame(address, mmu, memory)?;
        memory.view_frame(frame).load_16(address.page_offset())
    }

    /// The frame that code at `address` lies in. The last answer is kept for as long as no translation was taken away; the bytes never are.
    #[inline(always)]
    fn fetch_frame(&mut self, address: Gva, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<GuestFrame> {
        match &self.fetch {
            Some(fetch)
                if fetch.page == address.page_base() && (fetch.epoch == mmu.epoch() || planted(Bug::FetchPageIsNotCompared)) =>
            {
                Some(fetch.frame)
            }
            _ => self.find_fetch_frame(address, mmu, memory),
        }
    }

    #[cold]
    fn find_fetch_frame(&mut self, address: Gva, mmu: &ShadowMmu, memory: &GuestMemory) -> Option<GuestFrame> {
        let epoch = mmu.epoch();
        // A guest that switches between two address spaces comes back to the page before.
        core::mem::swap(&mut self.fetch, &mut self.fetched_before);
        if let Some(Fetch { frame, .. }) =
            self.fetch.as_ref().filter(|known| known.page == address.page_base() && known.epoch == epoch)
        {
            return Some(*frame);
        }
        let privilege = self.privilege();
        let access = Access { kind: Kind::Fetch, privilege, smap: self.smap(privilege) };
        let found = translate(memory, &self.paging, address, access).ok()?;
        let frame = memory.present(found.gpa.gfn())?;
        self.fetch = Some(Fetch { page: address.page_base(), epoch, frame });
        Some(frame)
    }
}
