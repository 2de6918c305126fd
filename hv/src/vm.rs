//! A virtual machine: memory, shadow tables, one virtual CPU, and the loop that runs it.

mod functions;

use crate::{
    addr::{Gpa, Gva, PAGE_SIZE},
    contract::{CallBuffer, Contract},
    error::Error,
    exit::{self, Context, Next, PortAccess, Stop},
    hw::Hw,
    mem::{GuestMemory, PageCounts},
    plant::{Bug, planted},
    shadow::{Access, Kind, ShadowMmu, translate},
    vcpu::{Cpu, EntryState, Hypervisor, Vcpu},
};
use alloc::sync::Arc;

/// A virtual machine.
pub struct Vm {
    hypervisor: Arc<Hypervisor>,
    memory: GuestMemory,
    mmu: ShadowMmu,
    vcpu: Vcpu,
    contract: Contract,
}

/// A guest-virtual address that the guest itself could not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unreadable(pub Gva);

/// Why guest memory was not written by the guest's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteError {
    /// The guest itself could not write this address.
    Unwritable(Gva),
    /// hv failed.
    Hv(Error),
}

impl Vm {
    /// Makes a VM over prepared memory, which begins at `entry`.
    ///
    /// # Errors
    /// [`Error::NoFrames`], [`Error::NoHeap`]; [`Error::OutsideMemory`] when CR3 lies outside the memory.
    pub fn new(hypervisor: &Arc<Hypervisor>, memory: GuestMemory, entry: &EntryState) -> Result<Self, Error> {
        let frames = hypervisor.frames();
        let mmu = ShadowMmu::new(frames, &memory, &entry.control().paging())?;
        let vcpu = Vcpu::new(frames, entry)?;
        Ok(Self { hypervisor: Arc::clone(hypervisor), memory, mmu, vcpu, contract: Contract::default() })
    }

    /// Gives the guest a call buffer, which its boot information block names too.
    pub const fn set_call_buffer(&mut self, buffer: CallBuffer) {
        self.contract.set_buffer(buffer);
    }

    /// Runs the guest until the embedder must take over, or is asked for by the CPU's [`crate::Kick`]. The host's interrupts are on while the guest runs, and on when this returns.
    pub fn run<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Stop {
        self.vcpu.arrive(cpu);
        if let Some(until) = self.vcpu.wake(cpu) {
            return Stop::Idle { until };
        }
        loop {
            self.vcpu.enter(cpu, &mut self.mmu, &self.hypervisor);
            let Self { hypervisor, memory, mmu, vcpu, contract } = self;
            if let Next::Break(stop) = exit::handle(&mut Context { vcpu, mmu, memory, contract, hypervisor, hw: cpu.hw() }) {
                return stop;
            }
            if cpu.is_kicked() {
                return Stop::Interrupted;
            }
        }
    }

    /// Answers a call, such as the one that [`Stop::Console`] stands for: `result` goes to RAX.
    pub fn answer(&mut self, result: u64) {
        self.vcpu.set_rax(result);
    }

    /// Answers an IN with the value that the port gave; higher bits of RAX are kept or cleared as the processor does (APM vol. 3, IN).
    pub fn answer_in(&mut self, access: PortAccess, value: u32) {
        let mask = access.width().mask();
        let kept = if mask == 0xffff_ffff || planted(Bug::InClearsTheRest) { 0 } else { self.vcpu.rax() & !mask };
        self.vcpu.set_rax(kept | u64::from(value) & mask);
    }

    /// Reads guest memory by the guest's own tables, as the guest's kernel would.
    ///
    /// # Errors
    /// The first address that the guest could not read; the bytes before it were copied.
    pub fn read(&self, start: Gva, mut into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = start;
        while !into.is_empty() {
            if !is_canonical(at) {
                return Err(Unreadable(at));
            }
            let found = translate(&self.memory, self.vcpu.paging(), at, Access::READ).map_err(|_| Unreadable(at))?;
            let count = into.len().min(PAGE_SIZE - at.page_offset());
            let (now, rest) = into.split_at_mut(count);
            self.memory.read(found.gpa, now).map_err(|_| Unreadable(at))?;
            (into, at) = (rest, at.wrapping_add(count as u64));
        }
        Ok(())
    }

    /// Writes guest memory by the guest's own tables, as the guest's kernel would, but leaves accessed and dirty bits as they are.
    ///
    /// # Errors
    /// The first address that the guest could not write, or what hv lacks; the bytes before it were written.
    pub fn write(&mut self, start: Gva, mut bytes: &[u8]) -> Result<(), WriteError> {
        let mut at = start;
        while !bytes.is_empty() {
            let found = translate(&self.memory, self.vcpu.paging(), at, Access { kind: Kind::Write, ..Access::READ });
            let found = found.ok().filter(|_| is_canonical(at)).ok_or(WriteError::Unwritable(at))?;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - at.page_offset()));
            self.write_physical(found.gpa, now).map_err(|error| match error {
                Error::OutsideMemory(_) => WriteError::Unwritable(at),
                other => WriteError::Hv(other),
            })?;
            (bytes, at) = (rest, at.wrapping_add(now.len() as u64));
        }
        Ok(())
    }

    /// Writes guest memory by guest-physical address.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`]; the bytes before were copied.
    pub fn write_physical(&mut self, start: Gpa, bytes: &[u8]) -> Result<(), Error> {
        let mut written = 0;
        while written < bytes.len() {
            let at = start.wrapping_add(written as u64);
            let count = (bytes.len() - written).min(PAGE_SIZE - at.page_offset());
            let (_, touched) = self.memory.touch_by_host(at.gfn())?;
            self.vcpu.owe(self.mmu.written(at.gfn(), touched)?);
            self.memory.write(at, &bytes[written..written + count])?;
            written += count;
        }
        Ok(())
    }

    /// What the contract keeps for the guest.
    pub const fn contract(&self) -> &Contract {
        &self.contract
    }

    /// The guest's memory.
    pub const fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Pages that were zeroed or copied for this VM so far: guest memory, shadow tables, and the virtual CPU's two.
    pub const fn page_counts(&self) -> PageCounts {
        let PageCounts { zeroed, copied } = self.memory.counts();
        PageCounts { zeroed: zeroed + self.mmu.pages_zeroed() + Vcpu::PAGES, copied }
    }

    /// The virtual CPU.
    pub const fn vcpu(&self) -> &Vcpu {
        &self.vcpu
    }

    /// The virtual CPU's registers, to change while it does not run.
    pub const fn vcpu_mut(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }
}

/// The profile offers 48 linear address bits (APM vol. 2, 1.1.3).
const fn is_canonical(address: Gva) -> bool {
    ((address.0 << 16) as i64 >> 16) as u64 == address.0
}
