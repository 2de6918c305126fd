//! When a guest takes the events that its embedder injects.

use crate::machine::{CODE, Machine, interrupt};
use hv::{
    Stop,
    hw::model::{Instruction, Outcome, Step},
    svm::Event,
};

#[test]
pub fn an_interrupt_waits_for_if_and_for_the_end_of_its_shadow() {
    let (mut m, script) = Machine::scripted(Vec::new());
    m.vm.vcpu_mut().inject_interrupt(0x30);
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Done], "interrupts are off");
    let outcomes = m.play(&script, &[Step::EnableInterrupts, Step::Nop, Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, interrupt(0x30), Outcome::Done]);
    let outcomes = m.play(&script, &[Step::EnableInterrupts, Step::Nop, Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done; 3], "it is delivered once");
}

#[test]
pub fn the_highest_vector_goes_first_and_the_next_when_interrupts_are_on_again() {
    let (mut m, script) = Machine::scripted(Vec::new());
    [0x31, 0xfe, 0x51].into_iter().for_each(|vector| m.vm.vcpu_mut().inject_interrupt(vector));
    for vector in [0xfe, 0x51, 0x31] {
        let outcomes = m.play(&script, &[Step::EnableInterrupts, Step::Nop, Step::Nop, Step::Nop]);
        assert_eq!(outcomes, [Outcome::Done, Outcome::Done, interrupt(vector), Outcome::Done, Outcome::Done]);
    }
}

#[test]
pub fn an_nmi_goes_before_an_interrupt_and_asks_for_no_flag() {
    let (mut m, script) = Machine::scripted(Vec::new());
    m.vm.vcpu_mut().inject_interrupt(0x30);
    m.vm.vcpu_mut().inject_nmi();
    assert_eq!(m.play(&script, &[Step::Nop]), [Outcome::Event(Event::Nmi, 0), Outcome::Done]);
    let outcomes = m.play(&script, &[Step::EnableInterrupts, Step::Nop, Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, interrupt(0x30), Outcome::Done]);
}

#[test]
pub fn the_embedder_hears_of_the_window_it_asked_for() {
    let (mut m, script) = Machine::scripted(Vec::new());
    m.vm.vcpu_mut().request_window();
    [Step::Nop, Step::EnableInterrupts, Step::Nop, Step::Nop].into_iter().for_each(|step| script.push(step));
    assert_eq!(m.run(), Stop::InterruptWindow);
    assert_eq!(script.outcomes(), [Outcome::Done; 3], "behind the shadow");
    assert_eq!(m.run(), Stop::Interrupted);
    assert_eq!(script.outcomes(), [Outcome::Done]);
}

#[test]
pub fn hlt_goes_on_at_once_for_an_interrupt_that_can_be_taken() {
    let (mut m, script) = Machine::scripted(Instruction::Halt.bytes());
    let halt = Step::Execute { instruction: Instruction::Halt, rip: CODE, operand: 0, prefixes: 0 };
    m.vm.vcpu_mut().inject_interrupt(0x30);
    script.push(halt);
    assert_eq!(m.run(), Stop::Halt, "interrupts are off");
    script.skip();
    script.outcomes();
    let outcomes = m.play(&script, &[Step::EnableInterrupts, halt, Step::Nop]);
    assert_eq!(outcomes, [Outcome::Done, Outcome::Done, interrupt(0x30), Outcome::Done]);
}
