//! Scripted guests: bare accesses and single instructions instead of code, so that tests can drive the run loop and the shadow MMU step by step.
//!
//! An access goes through the model's TLB and walks, and faults until hv lets it through or delivers an event. An instruction
//! exits as the processor would make it exit; its bytes must lie at its RIP in the guest's memory, because hv may read them.
//! When the script has run out, a physical interrupt comes, and [`crate::Vm::run`] returns.

use super::{
    ModelCpu, leave,
    tlb::{Access, Kind, Privilege},
};
use crate::{
    addr::{Gva, Hpa},
    hw::{RCX, RDX, Registers},
    svm::{Event, ExitCode, Features, Intercepts1, Segment, Vmcb, virtual_interrupt::V_IRQ},
    x86::{EferFlags, PageFaultCode},
};
use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use spin::Mutex;

/// How often a step may come back before the model says that it never ends.
const MAX_ATTEMPTS: u32 = 100;
/// RFLAGS.IF.
const IF: u64 = 1 << 9;

/// One thing that a scripted guest does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Reads, fetches or writes memory.
    Access {
        /// Where, a linear address.
        address: Gva,
        /// How.
        access: Access,
        /// How many bytes, 1 to 8.
        bytes: u8,
        /// What to write.
        value: u64,
    },
    /// Executes an instruction at CPL 0 that exits.
    Execute {
        /// Which.
        instruction: Instruction,
        /// Where its bytes lie: RIP, with CS at 0.
        rip: u64,
        /// The register or address that it reads.
        operand: u64,
        /// How many prefixes without meaning stand before it.
        prefixes: u8,
    },
    /// Loads CS with that descriptor, as a far jump would.
    LoadCode(Segment),
    /// CLI.
    DisableInterrupts,
    /// STI: interrupts come behind the next step (APM vol. 3, STI).
    EnableInterrupts,
    /// Does nothing.
    Nop,
}

/// An instruction that exits. Its operand is RAX, or the memory that RAX points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// MOV CRn, RAX.
    WriteControl(u8),
    /// MOV RAX, CRn.
    ReadControl(u8),
    /// INVLPG \[RAX\].
    Invlpg,
    /// WRMSR of that register, with the operand in EDX:EAX.
    WriteMsr(u32),
    /// RDMSR of that register.
    ReadMsr(u32),
    /// CPUID.
    Cpuid,
    /// HLT.
    Halt,
}

impl Instruction {
    /// The instruction's bytes, the same in 32- and 64-bit code (CR0 to CR7).
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::WriteControl(n) => alloc::vec![0x0f, 0x22, 0xc0 | n << 3],
            Self::ReadControl(n) => alloc::vec![0x0f, 0x20, 0xc0 | n << 3],
            Self::Invlpg => alloc::vec![0x0f, 0x01, 0x38],
            Self::WriteMsr(_) => alloc::vec![0x0f, 0x30],
            Self::ReadMsr(_) => alloc::vec![0x0f, 0x32],
            Self::Cpuid => alloc::vec![0x0f, 0xa2],
            Self::Halt => alloc::vec![0xf4],
        }
    }

    /// Where the next one begins.
    fn end(self, rip: u64, prefixes: u8) -> u64 {
        rip + u64::from(prefixes) + self.bytes().len() as u64
    }

    /// Exit code, EXITINFO1 with decode assists (APM vol. 2, 15.8.1 and 15.10), and EXITINFO1 without.
    fn exit(self, operand: u64) -> (u32, u64, u64) {
        const MOV: u64 = 1 << 63;
        match self {
            Self::WriteControl(n) => (0x10 + u32::from(n), MOV, 0),
            Self::ReadControl(n) => (u32::from(n), MOV, 0),
            Self::Invlpg => (ExitCode::INVLPG, operand, 0),
            Self::WriteMsr(_) => (ExitCode::MSR, 1, 1),
            Self::ReadMsr(_) => (ExitCode::MSR, 0, 0),
            Self::Cpuid => (ExitCode::CPUID, 0, 0),
            Self::Halt => (ExitCode::HLT, 0, 0),
        }
    }

    /// Tells whether the VMCB intercepts it.
    fn is_intercepted(self, vmcb: &Vmcb) -> bool {
        let control = &vmcb.control;
        match self {
            Self::WriteControl(n) => control.intercept_cr_writes & 1 << n != 0,
            Self::ReadControl(n) => control.intercept_cr_reads & 1 << n != 0,
            Self::Invlpg => control.intercepts_1 & 1 << 25 != 0,
            Self::WriteMsr(_) | Self::ReadMsr(_) => control.intercepts_1 & 1 << 28 != 0,
            Self::Cpuid => control.intercepts_1 & 1 << 18 != 0,
            Self::Halt => control.intercepts_1 & 1 << 24 != 0,
        }
    }
}

/// What became of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The access was made: where its first byte lies, and what was read.
    Accessed(Hpa, u64),
    /// The instruction was carried out, or the step needs no more.
    Done,
    /// hv delivered an event; with CR2. An exception is delivered instead of the step, an interrupt before it, and disables further ones.
    Event(Event, u64),
    /// hv returned to its embedder instead, and the test said to go on behind the step.
    Skipped,
}

/// The test's handle to a scripted guest.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    steps: VecDeque<Step>,
    outcomes: Vec<Outcome>,
    attempts: u32,
    /// The instruction has exited.
    exited: bool,
}

impl Script {
    /// Adds a step.
    pub fn push(&self, step: Step) {
        self.0.lock().steps.push_back(step);
    }

    /// Takes what became of the steps so far.
    pub fn outcomes(&self) -> Vec<Outcome> {
        core::mem::take(&mut self.0.lock().outcomes)
    }

    /// Gives up the current step, after hv returned to its embedder in it.
    pub fn skip(&self) {
        self.0.lock().finish(Outcome::Skipped);
    }
}

impl State {
    /// Tells whether the current step is an instruction that has exited, and that RIP is behind now.
    fn is_carried_out(&self, vmcb: &Vmcb) -> bool {
        match self.steps.front() {
            Some(&Step::Execute { instruction, rip, prefixes, .. }) => {
                self.exited && vmcb.save.rip == instruction.end(rip, prefixes)
            }
            _ => false,
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.steps.pop_front().is_some() {
            self.outcomes.push(outcome);
        }
        (self.attempts, self.exited) = (0, false);
    }
}

/// Carries out the script until something exits.
pub(super) fn until_exit(cpu: &mut ModelCpu, script: &Script, vmcb: &mut Vmcb, registers: &mut Registers, injected: u64) {
    let state = &mut *script.0.lock();
    match Event::decode(injected) {
        Some(event @ Event::Exception(_)) => state.finish(Outcome::Event(event, vmcb.save.cr2)),
        Some(event) => {
            // An instruction that has been carried out comes before what is delivered behind it.
            if state.is_carried_out(vmcb) {
                state.finish(Outcome::Done);
            }
            state.outcomes.push(Outcome::Event(event, vmcb.save.cr2));
            vmcb.save.rflags &= !IF;
        }
        None => {}
    }
    while let Some(step) = state.steps.front().copied() {
        if takes_virtual_interrupt(vmcb) {
            return leave(vmcb, ExitCode::VINTR, 0, 0);
        }
        cpu.tsc += 1;
        if step != Step::EnableInterrupts && !matches!(step, Step::Execute { .. }) {
            vmcb.control.interrupt_shadow = 0;
        }
        state.attempts += 1;
        assert!(state.attempts < MAX_ATTEMPTS, "{step:x?} never ends");
        match step {
            Step::Access { address, access, bytes, value } => match accessed(cpu, vmcb, address, access, bytes, value) {
                Ok(outcome) => state.finish(outcome),
                Err((address, code)) => return page_fault(vmcb, address, access, code),
            },
            Step::Execute { .. } if state.is_carried_out(vmcb) => state.finish(Outcome::Done),
            Step::Execute { instruction, rip, operand, prefixes } => {
                assert!(!state.exited || vmcb.save.rip == rip, "{instruction:x?} at {rip:#x} ended at {:#x}", vmcb.save.rip);
                state.exited = true;
                assert!(instruction.is_intercepted(vmcb), "{instruction:x?} is not intercepted");
                (vmcb.save.rip, vmcb.save.rax) = (rip, operand);
                match instruction {
                    Instruction::WriteMsr(msr) => (registers.0[RCX], registers.0[RDX]) = (msr.into(), operand >> 32),
                    Instruction::ReadMsr(msr) => registers.0[RCX] = msr.into(),
                    _ => {}
                }
                set_cpl(vmcb, Privilege::Supervisor);
                let (code, assisted, plain) = instruction.exit(operand);
                let info_1 = if cpu.offers(Features::DECODE_ASSISTS) { assisted } else { plain };
                if cpu.offers(Features::NRIP_SAVE) {
                    vmcb.control.next_rip = instruction.end(rip, prefixes);
                }
                return leave(vmcb, code, info_1, 0);
            }
            Step::LoadCode(cs) => {
                vmcb.save.cs = cs;
                state.finish(Outcome::Done);
            }
            Step::DisableInterrupts => {
                vmcb.save.rflags &= !IF;
                state.finish(Outcome::Done);
            }
            Step::EnableInterrupts => {
                vmcb.control.interrupt_shadow = u64::from(vmcb.save.rflags & IF == 0);
                vmcb.save.rflags |= IF;
                state.finish(Outcome::Done);
            }
            Step::Nop => state.finish(Outcome::Done),
        }
    }
    leave(vmcb, ExitCode::INTR, 0, 0);
}

/// Tells whether the guest would take a virtual interrupt now, and hv wants to know (APM vol. 2, 15.21.4).
fn takes_virtual_interrupt(vmcb: &Vmcb) -> bool {
    let control = &vmcb.control;
    let is_there = control.virtual_interrupt & V_IRQ != 0 && control.intercepts_1 & Intercepts1::VINTR.bits() != 0;
    is_there && vmcb.save.rflags & IF != 0 && control.interrupt_shadow & 1 == 0
}

fn accessed(
    cpu: &mut ModelCpu,
    vmcb: &Vmcb,
    address: Gva,
    access: Access,
    bytes: u8,
    value: u64,
) -> Result<Outcome, (Gva, PageFaultCode)> {
    let mut places = Vec::new();
    for offset in 0..bytes.into() {
        let at = linear(vmcb, address.wrapping_add(offset));
        // One translation for each page: the bytes of an access do not see different ones.
        let place = match places.last() {
            Some(&Hpa(last)) if at.page_offset() != 0 => Hpa(last + 1),
            _ => cpu.translate(vmcb, at, access).map_err(|code| (at, code))?,
        };
        places.push(place);
    }
    let mut seen = 0;
    for (offset, &place) in places.iter().enumerate() {
        if access.kind == Kind::Write {
            cpu.arena.set_byte(place, (value >> (8 * offset)) as u8);
        } else {
            seen |= (cpu.physical(place.0 & !7) >> (place.0 % 8 * 8) & 0xff) << (8 * offset);
        }
    }
    Ok(Outcome::Accessed(places[0], seen))
}

/// Linear addresses have 32 bits outside long mode.
fn linear(vmcb: &Vmcb, address: Gva) -> Gva {
    if vmcb.save.efer & EferFlags::LONG_MODE_ACTIVE.bits() != 0 { address } else { Gva(address.0 & 0xffff_ffff) }
}

fn page_fault(vmcb: &mut Vmcb, address: Gva, access: Access, code: PageFaultCode) {
    assert_ne!(vmcb.control.intercept_exceptions & 1 << 14, 0, "page faults are not intercepted");
    set_cpl(vmcb, access.privilege);
    leave(vmcb, ExitCode::PAGE_FAULT, code.bits().into(), address.0);
}

/// Sets CPL and RFLAGS.AC as whoever makes the access has them.
fn set_cpl(vmcb: &mut Vmcb, privilege: Privilege) {
    const AC: u64 = 1 << 18;
    const DPL_SHIFT: u16 = 5;
    // An access of the processor itself is told from one of code only where CPL is 3.
    let cpl = if matches!(privilege, Privilege::User | Privilege::System) { 3 } else { 0 };
    vmcb.save.cpl = cpl;
    vmcb.save.ss.attributes = vmcb.save.ss.attributes & !(3 << DPL_SHIFT) | u16::from(cpl) << DPL_SHIFT;
    vmcb.save.rflags = vmcb.save.rflags & !AC | if privilege == Privilege::SupervisorWithAc { AC } else { 0 };
}
