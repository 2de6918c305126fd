//! A guest whose code makes one call after the other; the registers of each are the test's.

#![allow(dead_code, reason = "the fuzz target needs less than the tests")]

#[path = "hostile.rs"]
pub mod hostile;

use hv::{
    Cpu, EntryState, Hypervisor, Kick, Platform, Stop, Vm,
    addr::Gpa,
    contract::CallBuffer,
    hw::{RDI, RSI, model::ModelCpu},
    mem::{GuestMemory, arena::Arena},
};

const CODE: u64 = 0x1_0000;
const INBOX: Gpa = Gpa(0x2_0000);
const OUTBOX: Gpa = Gpa(0x2_2000);
/// Where the outbox's payload begins.
pub const OUTBOX_PAYLOAD: Gpa = Gpa(0x2_2020);
/// Size of each box.
pub const BOX_BYTES: u64 = 0x2000;
const OTHER_BOXES: Gpa = Gpa(0x8_0000);
const TABLES: u64 = 0x4_0000;
const MEMORY: u64 = 1 << 20;
const R8: usize = 8;
const R9: usize = 9;

/// The processor of a guest.
pub struct Guest {
    cpu: Cpu<ModelCpu>,
    /// Raised all the time: every run is one call, whether or not hv answers it itself. Tests that run side by side must not take each other's.
    kick: &'static Kick,
}

impl Guest {
    /// Has the guest make a call with these values of EAX and RDI, RSI, R8, R9; [`Stop::Interrupted`] where hv answers it itself.
    pub fn call(&mut self, vm: &mut Vm, (eax, [rdi, rsi, r8, r9]): (u32, [u64; 4])) -> Stop {
        vm.vcpu_mut().jump(CODE, 0);
        vm.vcpu_mut().set_rax(eax.into());
        let registers = &mut vm.vcpu_mut().registers_mut().0;
        registers[2] = hv_abi::call::DOORBELL_PORT.into();
        (registers[RDI], registers[RSI], registers[R8], registers[R9]) = (rdi, rsi, r8, r9);
        // The first runs also fill the shadow tables.
        loop {
            self.kick.raise();
            let before = vm.vcpu().vmcb().save.rip;
            let stop = vm.run(&mut self.cpu);
            if stop != Stop::Interrupted || vm.vcpu().vmcb().save.rip != before {
                return stop;
            }
        }
    }
}

/// A VM with a call buffer, and what it runs on.
pub fn vm() -> (Vm, Guest) {
    let (mut vm, guest) = vm_without_boxes();
    give_boxes(&mut vm, INBOX, OUTBOX, BOX_BYTES);
    (vm, guest)
}

/// Gives a VM boxes of this size, at most 256 KiB, elsewhere than [`vm`] has them.
pub fn give_other_boxes(vm: &mut Vm, box_bytes: u64) {
    give_boxes(vm, OTHER_BOXES, OTHER_BOXES.wrapping_add(box_bytes), box_bytes);
}

fn give_boxes(vm: &mut Vm, inbox: Gpa, outbox: Gpa, box_bytes: u64) {
    let buffer = CallBuffer::new(inbox, outbox, box_bytes, vm.memory()).unwrap();
    vm.set_call_buffer(buffer);
}

/// A VM without a call buffer, and what it runs on.
pub fn vm_without_boxes() -> (Vm, Guest) {
    let arena = Arena::leak(256);
    let model = ModelCpu::new(arena);
    let hypervisor = Hypervisor::new(arena.frames(), &model, Platform { tsc_hertz: 1_000_000_000 }).unwrap();
    let kick: &Kick = Box::leak(Box::new(Kick::new()));
    let cpu = Cpu::enable(model, 0, kick, &hypervisor).unwrap();
    let mut memory = GuestMemory::new(arena.frames(), MEMORY).unwrap();
    let mut put = |at: u64, word: u64| memory.write(Gpa(at), &word.to_le_bytes()).unwrap();
    for level in 0..3 {
        put(TABLES + level * 0x1000, (TABLES + (level + 1) * 0x1000) | 0x23);
    }
    put(TABLES + 0x3000 + CODE / 512, CODE | 0x21);
    // OUT DX, EAX.
    memory.write(Gpa(CODE), &[0xef]).unwrap();
    let entry = EntryState::Long { rip: CODE, rsp: 0, rdi: 0, cr3: TABLES };
    (Vm::new(&hypervisor, memory, &entry).unwrap(), Guest { cpu, kick })
}

/// The first bytes of a guest's inbox.
pub fn inbox(vm: &Vm, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    vm.memory().read(INBOX, &mut bytes).unwrap();
    bytes
}
