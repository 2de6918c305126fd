//! A virtual machine: memory, shadow tables, one virtual CPU, and the loop that runs it.

mod functions;

use crate::{
    addr::{Gfn, Gpa, Gva, PAGE_SIZE},
    contract::{CallBuffer, Contract},
    error::Error,
    exit::{self, Context, Device, Devices, Next, Outside, PortAccess, Stop, Work},
    hw::Hw,
    mem::{GuestMemory, HostRights, PageCounts},
    plant::{Bug, planted},
    shadow::{Access, FlushDuty, Kind, ShadowMmu, translate},
    vcpu::{Cpu, EntryState, Hypervisor, Vcpu},
};
use alloc::{boxed::Box, sync::Arc};
use core::ops::Range;

/// A virtual machine.
pub struct Vm {
    hypervisor: Arc<Hypervisor>,
    memory: GuestMemory,
    mmu: ShadowMmu,
    vcpu: Vcpu,
    contract: Contract,
    devices: Devices,
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
    /// [`Error::NoFrames`], [`Error::NoHeap`].
    pub fn new(hypervisor: &Arc<Hypervisor>, memory: GuestMemory, entry: &EntryState) -> Result<Self, Error> {
        let frames = hypervisor.frames();
        let mmu = ShadowMmu::new(frames, &memory, &entry.control().paging())?;
        let vcpu = Vcpu::new(frames, entry)?;
        Ok(Self { hypervisor: Arc::clone(hypervisor), memory, mmu, vcpu, contract: Contract::default(), devices: Devices::new() })
    }

    /// Gives the guest a call buffer, which its boot information block names too.
    pub const fn set_call_buffer(&mut self, buffer: CallBuffer) {
        self.contract.set_buffer(buffer);
    }

    /// Runs the guest until the embedder must take over, or is asked for by the CPU's [`crate::Kick`]. The host's interrupts are on while the guest runs, and on when this returns.
    ///
    /// A VM may move between CPUs; [`Cpu::release`] on the one comes before the run on the other, or there is [`Error::HeldByCpu`] as [`Stop::Host`].
    pub fn run<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Stop {
        if let Err(holder) = self.vcpu.arrive(cpu) {
            return Stop::Host(Error::HeldByCpu(holder));
        }
        if let Some(until) = self.vcpu.wake(cpu) {
            return Stop::Idle { until };
        }
        if self.devices.has_work()
            && let Next::Break(stop) = self.resume(cpu)
        {
            return stop;
        }
        loop {
            self.vcpu.enter(cpu, &mut self.mmu, &self.hypervisor);
            let Self { hypervisor, memory, mmu, vcpu, contract, devices } = self;
            let hw = cpu.hw_mut();
            if let Next::Break(stop) = exit::handle(&mut Context { vcpu, mmu, memory, contract, devices, hypervisor, hw }) {
                return stop;
            }
            if cpu.is_kicked() {
                return Stop::Interrupted;
            }
        }
    }

    /// Goes on with an access to a device that the guest stopped at.
    #[cold]
    fn resume<H: Hw>(&mut self, cpu: &mut Cpu<H>) -> Next {
        let Self { hypervisor, memory, mmu, vcpu, contract, devices } = self;
        exit::resume(&mut Context { vcpu, mmu, memory, contract, devices, hypervisor, hw: cpu.hw_mut() })
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

    /// Answers the read that [`Stop::Mmio`] stands for with the bytes that are there, little-endian; does nothing if there is none.
    pub fn answer_mmio(&mut self, value: u128) {
        self.devices.answer(&mut self.vcpu, value);
    }

    /// Says what becomes of accesses outside of memory; at first, they are emulated.
    pub const fn set_outside(&mut self, outside: Outside) {
        self.devices.outside = outside;
    }

    /// Has `device` answer for a range of guest-physical addresses that is outside of memory, so that accesses to it do not return to the embedder.
    ///
    /// # Errors
    /// [`Error::DeviceRange`] when the range is empty or overlaps another one; [`Error::NoHeap`].
    pub fn attach(&mut self, range: Range<Gpa>, device: Box<dyn Device>) -> Result<(), Error> {
        self.devices.attach(range, device)
    }

    /// The elements of the last OUTS ([`Stop::IoString`]), one behind the other from the first byte on.
    pub fn port_bytes(&self) -> &[u8] {
        self.devices.bytes()
    }

    /// Where the elements for an INS go ([`Stop::IoString`]), one behind the other from the first byte on.
    pub fn port_bytes_mut(&mut self) -> &mut [u8] {
        self.devices.bytes_mut()
    }

    /// Answers INS: the first `elements` elements of [`Vm::port_bytes_mut`] have come. Fewer than were wanted are all right; the instruction repeats.
    pub fn answer_ins(&mut self, access: PortAccess, elements: u32) {
        let bytes = elements as usize * access.width() as usize;
        self.devices.work = if bytes == 0 { Work::None } else { Work::Ports(bytes) };
    }

    /// Reads guest memory by the guest's own tables, as the guest's kernel would.
    ///
    /// # Errors
    /// The first address that the guest could not read; the bytes before it were copied.
    pub fn read(&self, start: Gva, mut into: &mut [u8]) -> Result<(), Unreadable> {
        let mut at = start;
        while !into.is_empty() {
            if !at.is_canonical() {
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
            let found = found.ok().filter(|_| at.is_canonical()).ok_or(WriteError::Unwritable(at))?;
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
            let (frame, touched) = self.memory.touch_by_host(at.gfn())?;
            self.vcpu.owe(self.mmu.written(at.gfn(), touched));
            written += self.memory.view_frame(frame).write(at.page_offset(), &bytes[written..]);
        }
        Ok(())
    }

    /// Changes what the host lets the guest do with frames, whatever the guest's own tables say: an access that it is refused ends in [`Stop::Denied`]. May
    /// come at any time; frames in the range that nobody has touched are touched for it.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`], [`Error::NoFrames`]; the frames before were changed.
    pub fn restrict(&mut self, frames: Range<Gfn>, rights: HostRights) -> Result<(), Error> {
        let changed = self.mmu.restrict(&mut self.memory, frames, rights);
        self.vcpu.owe(changed.unwrap_or(FlushDuty::Asid));
        changed.map(drop)
    }

    /// Takes a range out of guest memory: what was there is lost, its frames go back to the host, and accesses lead outside of memory from now on. May come
    /// at any time.
    ///
    /// # Errors
    /// [`Error::MemoryRange`] when the range does not begin and end at multiples of 2 MiB or the end of memory, or is not all memory; [`Error::NoHeap`].
    /// Nothing has changed then.
    pub fn unmap(&mut self, range: Range<Gpa>) -> Result<(), Error> {
        self.vcpu.owe(self.mmu.unmap(&mut self.memory, &range)?);
        Ok(())
    }

    /// Makes a range guest memory again, all zero, that was a hole from the beginning or was taken out.
    ///
    /// # Errors
    /// As [`Vm::unmap`], of a range that is not all outside of memory.
    pub fn map(&mut self, range: Range<Gpa>) -> Result<(), Error> {
        self.vcpu.owe(self.mmu.map(&mut self.memory, &range)?);
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
