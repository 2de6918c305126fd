//! When a guest takes the interrupts of its local APIC, and what its embedder hears of it.

use crate::machine::{CODE, Machine, interrupt};
use hv::{
    Stop,
    apic::Pin,
    hw::{
        Hw,
        model::{Instruction, Outcome, Script, Step},
    },
    svm::Event,
};

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;
const TASK_PRIORITY: u32 = 0x808;
const END_OF_INTERRUPT: u32 = 0x80b;
const SPURIOUS: u32 = 0x80f;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const SELF_INTERRUPT: u32 = 0x83f;

const HALT: Step = Step::Execute { instruction: Instruction::Halt, rip: CODE + 2, operand: 0, prefixes: 0 };

fn write(msr: u32, value: u64) -> Step {
    Step::Execute { instruction: Instruction::WriteMsr(msr), rip: CODE, operand: value, prefixes: 0 }
}

/// A machine whose guest has its APIC on, in x2APIC mode, its timer in the mode of deadlines with vector 40h.
fn machine() -> (Machine, Script) {
    let code = [Instruction::WriteMsr(0).bytes(), Instruction::Halt.bytes()].concat();
    let (mut m, script) = Machine::scripted(code);
    let steps = [write(APIC_BASE, 0xfee0_0d00), write(SPURIOUS, 0x1ff), write(LVT_TIMER, 2 << 17 | 0x40)];
    assert_eq!(m.play(&script, &steps), [Outcome::Done; 3]);
    (m, script)
}

/// The guest's time stamp counter.
fn now(m: &Machine) -> u64 {
    m.cpu().hw().tsc().wrapping_add(m.vm.vcpu().vmcb().control.tsc_offset)
}

/// Has the guest sleep until a value of its time stamp counter, with interrupts on.
fn sleep(m: &mut Machine, script: &Script, until: u64) -> Stop {
    [write(TSC_DEADLINE, until), Step::EnableInterrupts, HALT].into_iter().for_each(|step| script.push(step));
    let stop = m.run();
    script.outcomes();
    stop
}

#[test]
pub fn a_guest_sleeps_on_until_its_timer_wakes_it() {
    let (mut m, script) = machine();
    let until = now(&m) + 2;
    let offset = m.vm.vcpu().vmcb().control.tsc_offset;
    assert_eq!(sleep(&mut m, &script, until), Stop::Idle { until: until.wrapping_sub(offset) });
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Done, interrupt(0x40), Outcome::Done], "the HLT ends");
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Done], "once");
}

#[test]
pub fn a_guest_that_sleeps_is_not_entered_but_woken_by_the_embedder() {
    let (mut m, script) = machine();
    let until = now(&m) + 1000;
    let asleep = sleep(&mut m, &script, until);
    let exits = m.vm.vcpu().exits();
    for _ in 0..3 {
        assert_eq!(m.run(), asleep);
    }
    assert_eq!((m.vm.vcpu().exits(), matches!(asleep, Stop::Idle { .. })), (exits, true));
    m.vm.vcpu_mut().inject_interrupt(0x30);
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Done, interrupt(0x30), Outcome::Done], "the HLT ends");
}

#[test]
pub fn a_halt_that_no_timer_ends_is_the_embedders() {
    let (mut m, script) = machine();
    assert_eq!(sleep(&mut m, &script, 0), Stop::Halt);
    // With interrupts off, the timer would wake nobody.
    let far = now(&m) + 1000;
    [Step::DisableInterrupts, write(TSC_DEADLINE, far), HALT].into_iter().for_each(|step| script.push(step));
    assert_eq!(m.run(), Stop::Halt);
}

#[test]
pub fn the_higher_of_queue_and_apic_goes_first() {
    let (mut m, script) = machine();
    m.vm.vcpu_mut().inject_interrupt(0x60);
    m.vm.vcpu_mut().inject_interrupt(0x90);
    assert_eq!(m.play(&script, &[write(SELF_INTERRUPT, 0x70)]), [Outcome::Done]);
    for vector in [0x90, 0x70] {
        let outcomes = m.play(&script, &[Step::EnableInterrupts, Step::Nop, Step::Nop]);
        assert_eq!(outcomes, [Outcome::Done, Outcome::Done, interrupt(vector), Outcome::Done]);
    }
}

#[test]
pub fn the_end_of_an_interrupt_lets_the_next_one_in() {
    let (mut m, script) = machine();
    let steps = [write(SELF_INTERRUPT, 0x71), Step::EnableInterrupts, Step::Nop, Step::Nop];
    assert_eq!(m.play(&script, &steps)[3], interrupt(0x71));
    let steps = [write(SELF_INTERRUPT, 0x72), Step::EnableInterrupts, Step::Nop, Step::Nop];
    assert_eq!(m.play(&script, &steps), [Outcome::Done; 4], "its class is in service");
    let outcomes = m.play(&script, &[write(END_OF_INTERRUPT, 0), Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done, interrupt(0x72), Outcome::Done]);
}

#[test]
pub fn a_lower_task_priority_lets_an_interrupt_in() {
    let (mut m, script) = machine();
    let steps = [write(TASK_PRIORITY, 0x80), write(SELF_INTERRUPT, 0x70), Step::EnableInterrupts, Step::Nop, Step::Nop];
    assert_eq!(m.play(&script, &steps), [Outcome::Done; 5]);
    assert_eq!(m.vm.vcpu().run_state().cr8, 8, "CR8 is the same register");
    let outcomes = m.play(&script, &[write(TASK_PRIORITY, 0x60), Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done, interrupt(0x70), Outcome::Done]);
}

#[test]
pub fn a_pin_interrupts_as_the_guest_has_said() {
    let (mut m, script) = machine();
    m.vm.vcpu_mut().raise_pin(Pin::Lint0);
    let steps = [write(LVT_LINT0, 0x50), Step::EnableInterrupts, Step::Nop, Step::Nop];
    assert_eq!(m.play(&script, &steps), [Outcome::Done; 4], "it was masked");
    m.vm.vcpu_mut().raise_pin(Pin::Lint0);
    assert_eq!(m.play(&script, &[Step::Nop]), [interrupt(0x50), Outcome::Done]);
    assert_eq!(m.play(&script, &[write(LVT_LINT0, 0x400)]), [Outcome::Done]);
    m.vm.vcpu_mut().raise_pin(Pin::Lint0);
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Event(Event::Nmi, 0), Outcome::Done]);
}
