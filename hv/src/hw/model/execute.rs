//! Guest code: as many instructions of 64-bit mode as the scenarios need.

use super::{
    ModelCpu, leave,
    tlb::{Access, Kind, Privilege},
};
use crate::{
    addr::Gva,
    hw::Registers,
    svm::{ExitCode, Features, Vmcb},
    x86::{Exception, PageFaultCode, Vector},
};
use alloc::vec::Vec;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// Longest instruction (APM vol. 3, 1.2).
const MAX_INSTRUCTION_BYTES: u64 = 15;

/// Why an instruction did not complete.
enum Trap {
    /// An intercept: exit code, EXITINFO1, EXITINFO2.
    Exit(u32, u64, u64),
    /// An exception.
    Raise(Exception),
}

type Done = Result<(), Trap>;

/// One instruction's view of the machine.
struct Step<'a> {
    cpu: &'a mut ModelCpu,
    vmcb: &'a mut Vmcb,
    registers: &'a mut Registers,
}

/// Executes guest code until something exits.
pub(super) fn until_exit(cpu: &mut ModelCpu, vmcb: &mut Vmcb, registers: &mut Registers) {
    for _ in 0..cpu.interrupt_after {
        cpu.tsc += 1;
        let mut step = Step { cpu, vmcb, registers };
        match step.one() {
            Ok(()) => {}
            Err(Trap::Exit(code, info_1, info_2)) => return leave(vmcb, code, info_1, info_2),
            Err(Trap::Raise(exception)) => return raise(vmcb, exception),
        }
    }
    leave(vmcb, ExitCode::INTR, 0, 0);
}

/// An exception exits if it is intercepted; else the guest, which has no IDT, shuts down.
fn raise(vmcb: &mut Vmcb, exception: Exception) {
    if vmcb.control.intercept_exceptions & 1 << exception.vector.0 != 0 {
        return leave(vmcb, ExitCode::EXCEPTION_0 + u32::from(exception.vector.0), exception.code.unwrap_or(0).into(), 0);
    }
    assert_eq!(vmcb.save.idtr.limit, 0, "the model delivers no events");
    vmcb.control.exit_int_info = crate::svm::Event::Exception(exception).encode();
    leave(vmcb, ExitCode::SHUTDOWN, 0, 0);
}

impl Step<'_> {
    fn one(&mut self) -> Done {
        let rip = self.vmcb.save.rip;
        let bytes = self.fetch(Gva(rip))?;
        let instruction = Decoder::with_ip(64, &bytes, rip, DecoderOptions::AMD).decode();
        if instruction.is_invalid() {
            return Err(Trap::Raise(Exception::UD));
        }
        self.intercepts(&instruction)?;
        let next = self.carry_out(&instruction)?;
        self.vmcb.save.rip = next;
        Ok(())
    }

    fn fetch(&mut self, at: Gva) -> Result<Vec<u8>, Trap> {
        let mut bytes = Vec::new();
        for offset in 0..MAX_INSTRUCTION_BYTES {
            match self.read_bytes(at.wrapping_add(offset), 1, Kind::Fetch) {
                Ok(byte) => bytes.push(byte as u8),
                // A fault matters only if the instruction reaches that far.
                Err(trap) => {
                    let whole = Decoder::new(64, &bytes, DecoderOptions::AMD).decode();
                    if whole.is_invalid() {
                        return Err(trap);
                    }
                    break;
                }
            }
        }
        Ok(bytes)
    }

    fn intercepts(&mut self, instruction: &Instruction) -> Done {
        let (one, two) = (self.vmcb.control.intercepts_1, self.vmcb.control.intercepts_2);
        let next = instruction.next_ip();
        let registers = self.registers.0;
        let exit = match instruction.mnemonic() {
            Mnemonic::Cpuid => (one & 1 << 18 != 0).then_some((ExitCode::CPUID, 0, 0)),
            Mnemonic::Hlt => (one & 1 << 24 != 0).then_some((ExitCode::HLT, 0, 0)),
            Mnemonic::Rdmsr | Mnemonic::Wrmsr => {
                let write = instruction.mnemonic() == Mnemonic::Wrmsr;
                let open = !write && self.passes(registers[1] as u32);
                (!open).then_some((ExitCode::MSR, write.into(), 0))
            }
            Mnemonic::Out | Mnemonic::In => Some((ExitCode::IOIO, self.port_info(instruction), next)),
            Mnemonic::Vmmcall => (two & 1 << 1 != 0).then_some((ExitCode::VMMCALL, 0, 0)),
            Mnemonic::Vmrun => (two & 1 != 0).then_some((ExitCode::VMRUN, 0, 0)),
            Mnemonic::Stgi => (two & 1 << 4 != 0).then_some((ExitCode::STGI, 0, 0)),
            _ => None,
        };
        let Some((code, info_1, info_2)) = exit else { return Ok(()) };
        if self.cpu.offers(Features::NRIP_SAVE) {
            self.vmcb.control.next_rip = next;
        }
        Err(Trap::Exit(code, info_1, info_2))
    }

    /// Reads the MSR permission map (APM vol. 2, 15.11); MSRs outside its ranges always exit.
    fn passes(&self, msr: u32) -> bool {
        let (range, index) = match msr {
            0..0x2000 => (0, msr),
            0xc000_0000..0xc000_2000 => (0x800, msr - 0xc000_0000),
            0xc001_0000..0xc001_2000 => (0x1000, msr - 0xc001_0000),
            _ => return false,
        };
        let bit = u64::from(range * 8 + index * 2);
        self.cpu.physical(self.vmcb.control.msrpm_base + bit / 64 * 8) >> (bit % 64) & 1 == 0
    }

    /// EXITINFO1 of a port access (APM vol. 2, 15.10.2).
    fn port_info(&self, instruction: &Instruction) -> u64 {
        let input = instruction.mnemonic() == Mnemonic::In;
        let (port, data) = if input { (1, 0) } else { (0, 1) };
        let port = match instruction.op_kind(port) {
            OpKind::Immediate8 => u64::from(instruction.immediate8()),
            _ => self.registers.0[2] & 0xffff,
        };
        let size = match instruction.op_register(data) {
            Register::AL => 1 << 4,
            Register::AX => 1 << 5,
            _ => 1 << 6,
        };
        port << 16 | size | u64::from(input)
    }

    fn carry_out(&mut self, instruction: &Instruction) -> Result<u64, Trap> {
        let next = instruction.next_ip();
        match instruction.mnemonic() {
            Mnemonic::Nop => {}
            Mnemonic::Mov => {
                let value = self.operand(instruction, 1)?;
                self.set_operand(instruction, value)?;
            }
            Mnemonic::Lea => {
                let address = self.address(instruction);
                self.set_operand(instruction, address)?;
            }
            Mnemonic::Xor | Mnemonic::Add => {
                let (a, b) = (self.operand(instruction, 0)?, self.operand(instruction, 1)?);
                let value = if instruction.mnemonic() == Mnemonic::Xor { a ^ b } else { a.wrapping_add(b) };
                self.set_operand(instruction, value)?;
            }
            Mnemonic::Jmp => return Ok(self.target(instruction)),
            Mnemonic::Ud2 => return Err(Trap::Raise(Exception::UD)),
            Mnemonic::Rdmsr => {
                assert_eq!(self.registers.0[1] as u32, crate::x86::msr::FS_BASE, "the model passes through FS only");
                self.vmcb.save.rax = self.vmcb.save.fs.base & 0xffff_ffff;
                self.registers.0[2] = self.vmcb.save.fs.base >> 32;
            }
            other => {
                panic!("the model does not know {other:?} ({:?}) at {:#x}", instruction.code(), instruction.ip())
            }
        }
        Ok(next)
    }

    fn target(&self, instruction: &Instruction) -> u64 {
        match instruction.op0_kind() {
            OpKind::Register => self.register(instruction.op0_register()),
            _ => instruction.near_branch_target(),
        }
    }

    fn operand(&mut self, instruction: &Instruction, index: u32) -> Result<u64, Trap> {
        match instruction.op_kind(index) {
            OpKind::Register => Ok(self.register(instruction.op_register(index))),
            OpKind::Memory => {
                let address = self.address(instruction);
                self.read_bytes(Gva(address), instruction.memory_size().size(), Kind::Read)
            }
            _ => Ok(instruction.immediate(index)),
        }
    }

    fn set_operand(&mut self, instruction: &Instruction, value: u64) -> Done {
        match instruction.op0_kind() {
            OpKind::Register => {
                let register = instruction.op0_register();
                let value = match register.size() {
                    8 => value,
                    4 => value & 0xffff_ffff,
                    size => panic!("the model writes no {size}-byte registers"),
                };
                *self.register_mut(register) = value;
                Ok(())
            }
            _ => {
                let address = self.address(instruction);
                self.write_bytes(Gva(address), instruction.memory_size().size(), value)
            }
        }
    }

    fn address(&self, instruction: &Instruction) -> u64 {
        let operand = (0..instruction.op_count()).find(|&index| instruction.op_kind(index) == OpKind::Memory).unwrap_or(0);
        let value = |register: Register| if register.is_segment_register() { 0 } else { self.register(register) };
        instruction.virtual_address(operand, 0, |register, _, _| Some(value(register))).expect("every register has a value")
    }

    fn register(&self, register: Register) -> u64 {
        let mask = u64::MAX >> (64 - 8 * register.size());
        let full = match register.full_register() {
            Register::RAX => self.vmcb.save.rax,
            Register::RSP => self.vmcb.save.rsp,
            other => self.registers.0[other.number()],
        };
        full & mask
    }

    fn register_mut(&mut self, register: Register) -> &mut u64 {
        match register.full_register() {
            Register::RAX => &mut self.vmcb.save.rax,
            Register::RSP => &mut self.vmcb.save.rsp,
            other => &mut self.registers.0[other.number()],
        }
    }

    fn place(&mut self, at: Gva, kind: Kind) -> Result<crate::addr::Hpa, Trap> {
        const AC: u64 = 1 << 18;
        let privilege = match self.vmcb.save.cpl {
            3 => Privilege::User,
            _ if self.vmcb.save.rflags & AC != 0 => Privilege::SupervisorWithAc,
            _ => Privilege::Supervisor,
        };
        let access = Access { kind, privilege };
        self.cpu.translate(self.vmcb, at, access).map_err(|code| self.page_fault(at, code))
    }

    /// A page fault exits with the address in EXITINFO2 if it is intercepted, and it always is.
    fn page_fault(&self, at: Gva, code: PageFaultCode) -> Trap {
        assert_ne!(self.vmcb.control.intercept_exceptions & 1 << Vector::PF.0, 0, "page faults are not intercepted");
        Trap::Exit(ExitCode::PAGE_FAULT, code.bits().into(), at.0)
    }

    fn read_bytes(&mut self, at: Gva, count: usize, kind: Kind) -> Result<u64, Trap> {
        (0..count as u64).try_fold(0, |value, offset| {
            let place = self.place(at.wrapping_add(offset), kind)?;
            let byte = self.cpu.physical(place.0 & !7) >> (place.0 % 8 * 8) & 0xff;
            Ok(value | byte << (8 * offset))
        })
    }

    fn write_bytes(&mut self, at: Gva, count: usize, value: u64) -> Done {
        // Both pages are probed before the first byte is written.
        self.place(at, Kind::Write)?;
        self.place(at.wrapping_add(count as u64 - 1), Kind::Write)?;
        for offset in 0..count as u64 {
            let place = self.place(at.wrapping_add(offset), Kind::Write)?;
            self.cpu.arena.set_byte(place, (value >> (8 * offset)) as u8);
        }
        Ok(())
    }
}
