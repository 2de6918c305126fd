//! Section 2: SVM is switched on and off, CPU by CPU.

use crate::stage::{LONG, QUIET, hypervisor, puppet, vm};
use hv::{Cpu, Error, Stop, error::NoSvm, hw::Hw, mem::arena::Arena, x86::msr};

/// The tests of this section.
pub const TESTS: &[fn()] =
    &[on_and_off_leaves_no_trace, any_order_will_do, twice_at_once_is_refused, without_frames_nothing_happens];

/// EFER as a 64-bit host has it; with SVME.
const OFF: u64 = 0xd00;
const ON: u64 = 0x1d00;

#[test]
fn on_and_off_leaves_no_trace() {
    let arena = Arena::leak(64);
    let hypervisor = hypervisor(arena);
    let before = arena.live();
    let (mut puppet, _strings) = puppet(arena);
    for _ in 0..3 {
        let cpu = Cpu::enable(&mut puppet, 0, &QUIET, &hypervisor).unwrap();
        assert_eq!(cpu.hw().read_msr(msr::EFER), ON);
        assert!(arena.is_live(hv::addr::Hpa(cpu.hw().read_msr(msr::VM_HSAVE_PA))), "the save area is a frame of ours");
        drop(cpu);
        assert_eq!((puppet.read_msr(msr::EFER), puppet.read_msr(msr::VM_HSAVE_PA), arena.live()), (OFF, 0, before));
    }
}

#[test]
fn any_order_will_do() {
    let arena = Arena::leak(256);
    let hypervisor = hypervisor(arena);
    let before = arena.live();
    for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
        let mut cpus: Vec<_> = (0..3).map(|number| Cpu::enable(puppet(arena).0, number, &QUIET, &hypervisor).ok()).collect();
        let mut areas: Vec<_> = cpus.iter().flatten().map(|cpu| cpu.hw().read_msr(msr::VM_HSAVE_PA)).collect();
        areas.sort_unstable();
        areas.dedup();
        assert_eq!(areas.len(), 3, "each has a save area of its own");
        let mut guest = vm(&hypervisor, &LONG);
        for last in order {
            for cpu in cpus.iter_mut().flatten() {
                assert_eq!(guest.run(cpu), Stop::Interrupted, "those that are left still run guests");
                cpu.release();
            }
            cpus[last] = None;
        }
        drop(guest);
        assert_eq!(arena.live(), before);
    }
}

#[test]
fn twice_at_once_is_refused() {
    let arena = Arena::leak(64);
    let hypervisor = hypervisor(arena);
    let (mut puppet, _strings) = puppet(arena);
    puppet.model.set_msr(msr::EFER, ON);
    assert_eq!(Cpu::enable(&mut puppet, 0, &QUIET, &hypervisor).err(), Some(Error::NoSvm(NoSvm::InUse)));
    assert_eq!(puppet.read_msr(msr::EFER), ON, "somebody else's SVM stays on");
}

#[test]
fn without_frames_nothing_happens() {
    let arena = Arena::leak(6);
    let hypervisor = hypervisor(arena);
    let (mut puppet, _strings) = puppet(arena);
    assert_eq!(Cpu::enable(&mut puppet, 0, &QUIET, &hypervisor).err(), Some(Error::NoFrames));
    assert_eq!((puppet.read_msr(msr::EFER), puppet.read_msr(msr::VM_HSAVE_PA)), (OFF, 0));
}
