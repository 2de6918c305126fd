//! Section 14: the whole, set up and torn down, and the one seam to the processor.

use crate::{
    puppet::Puppet,
    stage::{CODE, LONG, QUIET, leave, offered, puppet, vm},
};
use hv::{
    Cpu, Hypervisor, Platform, Stop,
    addr::Gpa,
    hw::{Hw, model::ModelCpu},
    mem::arena::Arena,
    svm::{ExitCode, Features},
    x86::msr,
};

/// The tests of this section.
pub const TESTS: &[fn()] = &[set_up_and_torn_down_again_and_again, two_processors_behind_one_seam];

const PLATFORM: Platform = Platform { tsc_hertz: 1_000_000_000 };

#[test]
fn set_up_and_torn_down_again_and_again() {
    let arena = Arena::leak(512);
    let (mut first, _strings) = puppet(arena);
    let (mut second, _strings) = puppet(arena);
    for round in 0..3 {
        let hypervisor = Hypervisor::new(arena.frames(), &first, PLATFORM).unwrap();
        let mut cpus =
            [(&mut first, 0), (&mut second, 1)].map(|(puppet, number)| Cpu::enable(puppet, number, &QUIET, &hypervisor).unwrap());
        let mut guests = [vm(&hypervisor, &LONG), vm(&hypervisor, &LONG)];
        for guest in &mut guests {
            for cpu in &mut cpus {
                assert_eq!(guest.run(cpu), Stop::Interrupted);
                cpu.release();
            }
        }
        // What guests run on outlives the name that the embedder had for it.
        drop(hypervisor);
        assert_eq!(guests[0].run(&mut cpus[1]), Stop::Interrupted);
        drop((cpus, guests));
        assert_eq!(arena.live(), 0, "round {round}");
        for puppet in [&first, &second] {
            assert_eq!((puppet.read_msr(msr::EFER), puppet.read_msr(msr::VM_HSAVE_PA)), (0xd00, 0), "round {round}");
        }
    }
}

#[test]
fn two_processors_behind_one_seam() {
    let program = [0x0f, 0xa2, 0xf4];
    // The model executes it; the puppet is told to.
    let arena = Arena::leak(256);
    let mut model = ModelCpu::new(arena);
    model.offer(offered().bits() & !(Features::NRIP_SAVE | Features::DECODE_ASSISTS).bits());
    let on_model = run(arena, model, &program);
    let arena = Arena::leak(256);
    let (puppet, strings): (Puppet, _) = puppet(arena);
    for (code, length) in [(ExitCode::CPUID, 2), (ExitCode::HLT, 1)] {
        strings.push(move |vmcb, _| {
            vmcb.control.next_rip = vmcb.save.rip + length;
            leave(vmcb, code, 0, 0);
        });
    }
    assert_eq!(run(arena, puppet, &program), on_model);
}

/// Runs a program to its end; the stop, RIP and the registers.
fn run(arena: &'static Arena, hw: impl Hw, program: &[u8]) -> (Stop, u64, u64, [u64; 16]) {
    let hypervisor = Hypervisor::new(arena.frames(), &hw, PLATFORM).unwrap();
    let mut cpu = Cpu::enable(hw, 0, &QUIET, &hypervisor).unwrap();
    let mut guest = vm(&hypervisor, &LONG);
    guest.write_physical(Gpa(CODE), program).unwrap();
    let stop = guest.run(&mut cpu);
    let vcpu = guest.vcpu();
    (stop, vcpu.vmcb().save.rip, vcpu.rax(), vcpu.registers().0)
}
