//! The APIC against the manual: by cases, and against a model of the priority rules that is written without looking at it.

use super::{base::Base, *};
use proptest::prelude::*;
use std::{collections::BTreeSet, vec::Vec};

const BASE: u64 = 0xfee0_0900;
const X2APIC: u64 = BASE | 1 << 10;

// MSRs.
const TPR: u32 = 0x808;
const PPR: u32 = 0x80a;
const EOI: u32 = 0x80b;
const LDR: u32 = 0x80d;
const SVR: u32 = 0x80f;
const ESR: u32 = 0x828;
const ICR: u32 = 0x830;
const LVT_TIMER: u32 = 0x832;
const LVT_LINT0: u32 = 0x835;
const LVT_LINT1: u32 = 0x836;
const LVT_ERROR: u32 = 0x837;
const INITIAL: u32 = 0x838;
const CURRENT: u32 = 0x839;
const DIVIDE: u32 = 0x83e;
const SELF_IPI: u32 = 0x83f;
const MASKED: u64 = 1 << 16;
const PERIODIC: u64 = 1 << 17;
const DEADLINE: u64 = 2 << 17;
const BY_1: u64 = 0b1011;

/// An APIC in x2APIC mode, switched on.
fn x2apic() -> Apic {
    let mut apic = Apic::boot_processor();
    apic.write_base(X2APIC).unwrap();
    apic.write_msr(SVR, 0x1ff, 0).unwrap();
    apic
}

impl Apic {
    fn set(&mut self, msr: u32, value: u64) -> Option<Message> {
        self.write_msr(msr, value, 0).unwrap_or_else(|_| panic!("{msr:#x} = {value:#x}"))
    }

    fn get(&mut self, msr: u32) -> u64 {
        self.read_msr(msr, 0).unwrap_or_else(|_| panic!("{msr:#x}"))
    }

    fn edge(&mut self, vector: u8) {
        self.request(vector);
    }

    /// The processor takes what it can.
    fn take(&mut self) -> Option<u8> {
        let vector = self.highest_deliverable()?;
        self.accept();
        Some(vector)
    }
}

#[test]
fn interrupts_nest_by_class_and_end_in_reverse() {
    let mut apic = x2apic();
    apic.edge(0x31);
    apic.edge(0x35);
    assert_eq!(apic.take(), Some(0x35));
    assert_eq!((apic.take(), apic.get(PPR)), (None, 0x30), "the same class waits");
    apic.edge(0x80);
    assert_eq!((apic.take(), apic.get(PPR)), (Some(0x80), 0x80));
    apic.edge(0x7f);
    assert_eq!(apic.take(), None);
    apic.set(EOI, 0);
    assert_eq!(apic.take(), Some(0x7f), "the end was that of 0x80, not of 0x35");
    apic.set(EOI, 0);
    assert_eq!((apic.take(), apic.get(PPR)), (None, 0x30));
    apic.set(EOI, 0);
    assert_eq!(apic.take(), Some(0x31));
    apic.set(EOI, 0);
    apic.set(EOI, 0);
    assert_eq!((apic.take(), apic.get(PPR)), (None, 0), "an end of nothing is nothing");
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut apic = x2apic();
    apic.edge(0x5f);
    apic.set(TPR, 0x50);
    assert_eq!((apic.highest_deliverable(), apic.held_by_task_priority(), apic.get(PPR)), (None, Some(0x5f), 0x50));
    apic.set(TPR, 0x4f);
    assert_eq!((apic.highest_deliverable(), apic.held_by_task_priority()), (Some(0x5f), None));
    assert_eq!(apic.take(), Some(0x5f));
    assert_eq!(apic.get(PPR), 0x50, "the class in service, without sub-class");
    apic.set(TPR, 0x53);
    assert_eq!(apic.get(PPR), 0x53);
    apic.set_task_class(5);
    assert_eq!(apic.get(TPR), 0x53, "CR8 says the same");
    apic.set_task_class(6);
    assert_eq!(apic.get(TPR), 0x60);
}

#[test]
fn requests_while_in_service_are_kept_and_doubles_are_one() {
    let mut apic = x2apic();
    (0..3).for_each(|_| apic.edge(0x40));
    assert_eq!(apic.take(), Some(0x40));
    apic.edge(0x40);
    apic.edge(0x40);
    assert_eq!(apic.take(), None);
    apic.set(EOI, 0);
    assert_eq!(apic.take(), Some(0x40));
    apic.set(EOI, 0);
    assert_eq!(apic.take(), None);
}

#[test]
fn the_sets_can_be_read() {
    let mut apic = x2apic();
    apic.edge(0xff);
    apic.edge(0x20);
    let words = |apic: &mut Apic, first: u32| -> Vec<u64> { (first..first + 8).map(|msr| apic.get(msr)).collect() };
    assert_eq!(words(&mut apic, 0x820), [0, 1, 0, 0, 0, 0, 0, 1 << 31]);
    assert_eq!(words(&mut apic, 0x818), [0; 8], "nothing is level-triggered");
    apic.take();
    assert_eq!(words(&mut apic, 0x810), [0, 0, 0, 0, 0, 0, 0, 1 << 31]);
    assert_eq!(words(&mut apic, 0x820), [0, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn modes_change_as_the_manual_lists_them() {
    let disabled = BASE & !0x800;
    let state = [disabled, BASE, X2APIC];
    for (from, allowed) in [(0, [true, true, false]), (1, [true, true, true]), (2, [true, false, true])] {
        for (to, allowed) in allowed.into_iter().enumerate() {
            let mut apic = Apic::boot_processor();
            if from != 1 {
                apic.write_base(state[from]).unwrap();
            }
            assert_eq!(apic.write_base(state[to]).is_ok(), allowed, "{from} to {to}");
            assert_eq!(apic.base(), state[if allowed { to } else { from }]);
        }
    }
    let mut apic = Apic::boot_processor();
    for reserved in [1, 1 << 9, 1 << 40, 1 << 63] {
        assert_eq!(apic.write_base(BASE | reserved), Err(Refused));
    }
    assert_eq!(apic.write_base(BASE & !0x800 | 1 << 10), Err(Refused), "x2APIC without APIC");
    apic.write_base(0x1_2345_6800).unwrap();
    assert_eq!((apic.base(), apic.page()), (0x1_2345_6900, Some(0x1_2345_6000)), "the boot processor stays what it is");
}

#[test]
fn switching_off_forgets_and_switching_over_keeps() {
    let mut apic = Apic::boot_processor();
    apic.write_page(0xf0, 0x1ff, 0);
    apic.write_page(0x310, 0xff00_0000, 0);
    apic.edge(0x40);
    apic.write_base(X2APIC).unwrap();
    assert_eq!((apic.highest_deliverable(), apic.get(ICR), apic.get(0x802), apic.get(LDR)), (Some(0x40), 0, 0, 1));
    assert_eq!(apic.page(), None);
    apic.write_base(BASE & !0x800).unwrap();
    assert_eq!((apic.highest_deliverable(), apic.read_msr(TPR, 0)), (None, Err(Refused)));
    apic.edge(0x40);
    apic.write_base(BASE).unwrap();
    apic.write_page(0xf0, 0x1ff, 0);
    assert_eq!(apic.highest_deliverable(), None);
}

#[test]
fn an_apic_that_is_off_masks_and_takes_in_nothing() {
    let mut apic = Apic::boot_processor();
    apic.write_base(X2APIC).unwrap();
    apic.set(LVT_LINT0, 0x44);
    assert_eq!(apic.get(LVT_LINT0), 0x44 | MASKED, "it is off after RESET");
    apic.edge(0x40);
    apic.set(SVR, 0x1ff);
    assert_eq!(apic.highest_deliverable(), None);
    apic.edge(0x40);
    apic.set(LVT_LINT0, 0x44);
    apic.set(SVR, 0xff);
    assert_eq!((apic.highest_deliverable(), apic.get(LVT_LINT0)), (None, 0x44 | MASKED));
    apic.set(SVR, 0x1ff);
    assert_eq!((apic.highest_deliverable(), apic.get(LVT_LINT0)), (Some(0x40), 0x44 | MASKED), "requests are kept, masks too");
}

#[test]
fn msrs_that_do_not_exist_or_are_written_wrongly_are_refused() {
    let mut apic = x2apic();
    let readable = [0x802, 0x803, 0x808, 0x80a, 0x80c, 0x80d, 0x80f, 0x828, 0x830, 0x838, 0x839, 0x83e];
    let writable = [0x808, 0x80b, 0x80f, 0x828, 0x830, 0x838, 0x83e, 0x83f];
    for msr in 0x7ff..0x841 {
        let local = (0x832..0x838).contains(&msr);
        let sets = (0x810..0x828).contains(&msr);
        assert_eq!(apic.clone().read_msr(msr, 0).is_ok(), readable.contains(&msr) || local || sets, "read {msr:#x}");
        assert_eq!(apic.clone().write_msr(msr, 0, 0).is_ok(), writable.contains(&msr) || local, "write {msr:#x}");
        if msr != ICR {
            assert_eq!(apic.clone().write_msr(msr, 1 << 32, 0), Err(Refused), "{msr:#x}");
        }
    }
    for (msr, value) in [(TPR, 0x100), (EOI, 1), (SVR, 1 << 12), (ESR, 1), (ICR, 1 << 12), (LVT_TIMER, 3 << 17), (DIVIDE, 4)] {
        assert_eq!(apic.write_msr(msr, value, 0), Err(Refused), "{msr:#x} = {value:#x}");
    }
    let mut apic = Apic::boot_processor();
    assert_eq!((apic.read_msr(0x802, 0), apic.write_msr(EOI, 0, 0)), (Err(Refused), Err(Refused)), "xAPIC mode");
}

#[test]
fn the_page_answers_as_the_manual_says() {
    let mut apic = Apic::boot_processor();
    assert_eq!((apic.read_page(0x20, 0), apic.read_page(0x30, 0), apic.read_page(0xf0, 0)), (0, 0x5_0010, 0xff));
    assert_eq!((apic.read_page(0xe0, 0), apic.read_page(0x320, 0)), (u32::MAX, 0x1_0000));
    apic.write_page(0xf0, 0xffff_ffff, 0);
    assert_eq!(apic.read_page(0xf0, 0), 0x3ff);
    assert_eq!((apic.read_page(0x84, 0), apic.read_page(0xb0, 0)), (0, 0));
    apic.write_page(0x84, 0xff, 0);
    assert_eq!(apic.read_page(0x80, 0), 0);
    apic.write_page(0xd0, 0x0234_5678, 0);
    apic.write_page(0xe0, 0, 0);
    assert_eq!((apic.read_page(0xd0, 0), apic.read_page(0xe0, 0)), (0x0200_0000, 0x0fff_ffff));
    apic.read_page(0x3f0, 0);
    assert_eq!(apic.read_page(0x280, 0), 0);
    apic.write_page(0x280, 0, 0);
    assert_eq!(apic.read_page(0x280, 0), 0x80, "an access to no register");
}

#[test]
fn commands_reach_whom_they_name() {
    let mut apic = x2apic();
    let hit = |apic: &mut Apic, command: u64| {
        let message = apic.set(ICR, command);
        let taken = apic.take();
        apic.set(EOI, 0);
        (message, taken)
    };
    let all = u64::from(u32::MAX) << 32;
    for own in [0x41, 0x141, 0x4_0041, 0x8_0041, all | 0x41, 1 << 32 | 0x841, all | 0x841] {
        assert_eq!(hit(&mut apic, own), (None, Some(0x41)), "{own:#x}");
    }
    for other in [1 << 32 | 0x41, 2 << 32 | 0x841, 1 << 48 | 1 << 32 | 0x841, 0xc_0041] {
        assert_eq!(hit(&mut apic, other), (None, None), "{other:#x}");
    }
    assert_eq!(hit(&mut apic, 0x4_0400), (Some(Message::Nmi), None));
    assert_eq!(hit(&mut apic, 0x4500), (Some(Message::Init), None));
    assert_eq!(hit(&mut apic, 0x8500), (None, None), "the end of an INIT is nothing");
    assert_eq!(hit(&mut apic, 0x4699), (Some(Message::StartUp(0x99)), None));
    assert_eq!(hit(&mut apic, 0xc_4500), (None, None), "nobody else is there");
    apic.set(SELF_IPI, 0x77);
    assert_eq!((apic.take(), apic.get(ICR)), (Some(0x77), 0xc_4500));
}

#[test]
fn logical_destinations_of_the_page_are_flat_or_clusters() {
    let mut apic = Apic::boot_processor();
    apic.write_page(0xf0, 0x1ff, 0);
    let mut hit = |format: u32, own: u32, to: u32| {
        apic.write_page(0xe0, format << 28, 0);
        apic.write_page(0xd0, own << 24, 0);
        apic.write_page(0x310, to << 24, 0);
        apic.write_page(0x300, 0x841, 0);
        let taken = apic.take();
        apic.write_page(0xb0, 0, 0);
        taken.is_some()
    };
    assert!(hit(0xf, 0x82, 0x80) && hit(0xf, 0x82, 0x02) && hit(0xf, 0x01, 0xff));
    assert!(!hit(0xf, 0x82, 0x40));
    assert!(hit(0, 0x32, 0x32) && hit(0, 0x32, 0x3f) && hit(0, 0x32, 0xff));
    assert!(!hit(0, 0x32, 0x22) && !hit(0, 0x32, 0x31));
}

#[test]
fn illegal_vectors_are_errors_and_errors_interrupt_once() {
    let mut apic = x2apic();
    apic.set(LVT_ERROR, 0x33);
    apic.set(ICR, 0x4_000f);
    assert_eq!(apic.take(), Some(0x33));
    apic.set(EOI, 0);
    apic.set(ICR, 0x4_0003);
    apic.edge(5);
    assert_eq!(apic.take(), Some(0x33), "a new kind of error");
    assert_eq!(apic.get(ESR), 0);
    apic.set(ESR, 0);
    assert_eq!(apic.get(ESR), 0x60);
    apic.set(ESR, 0);
    assert_eq!(apic.get(ESR), 0);
    apic.set(LVT_ERROR, 5);
    apic.edge(2);
    apic.set(ESR, 0);
    assert_eq!(apic.get(ESR), 0x40, "an illegal vector for errors is an error, and no more");
}

#[test]
fn pins_deliver_by_their_local_vectors() {
    let mut apic = x2apic();
    assert_eq!((apic.pin(Pin::Lint0), apic.take()), (None, None));
    apic.set(LVT_LINT0, 0x24);
    apic.set(LVT_LINT1, 0x400);
    assert_eq!((apic.pin(Pin::Lint0), apic.take()), (None, Some(0x24)));
    assert_eq!((apic.pin(Pin::Lint1), apic.take()), (Some(Message::Nmi), None));
    apic.set(LVT_LINT0, 0x700);
    assert_eq!((apic.pin(Pin::Lint0), apic.take()), (None, None), "nobody would answer ExtINT");
}

#[test]
fn one_shot_counts_down_once_at_every_speed() {
    for (divide, by) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let mut apic = x2apic();
        apic.set(LVT_TIMER, 0x40);
        apic.set(DIVIDE, divide);
        apic.write_msr(INITIAL, 1000, 5000).unwrap();
        let end = 5000 + 1000 * by;
        assert_eq!(apic.next_deadline(), Some(end));
        assert_eq!(apic.read_msr(CURRENT, 5000 + 300 * by), Ok(700));
        apic.advance(end - 1);
        assert_eq!((apic.highest_deliverable(), apic.read_msr(CURRENT, end - 1)), (None, Ok(1)));
        apic.advance(end);
        assert_eq!((apic.take(), apic.next_deadline(), apic.read_msr(CURRENT, end)), (Some(0x40), None, Ok(0)));
        apic.set(EOI, 0);
        apic.advance(u64::MAX);
        assert_eq!((apic.take(), apic.get(INITIAL)), (None, 1000));
    }
}

#[test]
fn a_periodic_timer_does_not_drift_however_late_it_is_looked_at() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, PERIODIC | 0x40);
    apic.write_msr(INITIAL, 1000, 77).unwrap();
    let mut seed = 1_u64;
    for tick in 1..=10_000 {
        let deadline = apic.next_deadline().unwrap();
        assert_eq!(deadline, 77 + 1000 * tick);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        apic.advance(deadline + (seed >> 33) % 1000);
        assert_eq!(apic.take(), Some(0x40));
        apic.set(EOI, 0);
    }
}

#[test]
fn missed_expiries_come_to_one() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, PERIODIC | 0x40);
    apic.write_msr(INITIAL, 1, 0).unwrap();
    apic.advance(1_000_000_000_000);
    assert_eq!((apic.take(), apic.next_deadline()), (Some(0x40), Some(1_000_000_000_001)));
    apic.set(EOI, 0);
    assert_eq!(apic.take(), None);
    assert_eq!(apic.read_msr(CURRENT, 1_000_000_000_000), Ok(1));
    apic.set(INITIAL, 0);
    assert_eq!((apic.next_deadline(), apic.get(CURRENT)), (None, 0));
}

#[test]
fn deadlines_are_for_their_mode_only() {
    let mut apic = x2apic();
    apic.set_tsc_deadline(500);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline()), (0, None), "one-shot mode");
    apic.set(LVT_TIMER, DEADLINE | 0x40);
    apic.write_msr(INITIAL, 100, 0).unwrap();
    assert_eq!((apic.get(INITIAL), apic.next_deadline()), (0, None), "the initial count is ignored");
    apic.set_tsc_deadline(500);
    assert_eq!((apic.tsc_deadline(), apic.next_deadline(), apic.get(CURRENT)), (500, Some(500), 0));
    apic.advance(499);
    assert_eq!(apic.take(), None);
    apic.advance(500);
    assert_eq!((apic.take(), apic.tsc_deadline()), (Some(0x40), 0));
    apic.set(EOI, 0);
    apic.set_tsc_deadline(400);
    apic.advance(501);
    assert_eq!(apic.take(), Some(0x40), "a deadline in the past has come");
    apic.set(EOI, 0);
    apic.set_tsc_deadline(900);
    apic.set_tsc_deadline(0);
    assert_eq!(apic.next_deadline(), None);
    apic.set_tsc_deadline(900);
    apic.set(LVT_TIMER, 0x40);
    assert_eq!((apic.next_deadline(), apic.tsc_deadline()), (None, 0), "a change of mode disarms");
}

#[test]
fn a_count_goes_on_when_the_counter_is_set() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, 0x40);
    apic.write_msr(INITIAL, 1000, 5000).unwrap();
    apic.set_time(5200, 1200);
    assert_eq!((apic.next_deadline(), apic.read_msr(CURRENT, 1200)), (Some(2000), Ok(800)));
    apic.set(LVT_TIMER, DEADLINE | 0x40);
    apic.set_tsc_deadline(7000);
    apic.set_time(1200, 6900);
    assert_eq!(apic.next_deadline(), Some(7000), "a deadline is a value of the counter");
}

#[test]
fn what_has_expired_is_not_lost_when_the_counter_is_set() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, 0x40);
    apic.write_msr(INITIAL, 1000, 5000).unwrap();
    apic.set_time(7000, 0);
    assert_eq!((apic.take(), apic.next_deadline()), (Some(0x40), None));
}

#[test]
fn a_masked_timer_counts_and_says_nothing() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, MASKED | PERIODIC | 0x40);
    apic.write_msr(INITIAL, 1000, 0).unwrap();
    assert_eq!((apic.next_deadline(), apic.read_msr(CURRENT, 1300)), (None, Ok(700)));
    apic.write_msr(LVT_TIMER, PERIODIC | 0x40, 1500).unwrap();
    assert_eq!((apic.next_deadline(), apic.take()), (Some(2000), None), "in step, and what was masked is lost");
    apic.write_msr(LVT_TIMER, 0x40, 2500).unwrap();
    assert_eq!((apic.take(), apic.next_deadline()), (Some(0x40), Some(3000)), "the end of the count that runs is the last");
    apic.advance(3000);
    assert_eq!(apic.next_deadline(), None);
}

#[test]
fn a_change_of_speed_keeps_the_count() {
    let mut apic = x2apic();
    apic.set(DIVIDE, BY_1);
    apic.set(LVT_TIMER, 0x40);
    apic.write_msr(INITIAL, 1000, 0).unwrap();
    apic.write_msr(DIVIDE, 0, 400).unwrap();
    assert_eq!((apic.next_deadline(), apic.read_msr(CURRENT, 400)), (Some(1600), Ok(600)));
}

/// The manual's rules, word by word (APM vol. 2, 16.6.2 to 16.6.5), on sets.
#[derive(Default)]
struct Model {
    requested: BTreeSet<u8>,
    in_service: Vec<u8>,
    task: u8,
    on: bool,
}

impl Model {
    /// "The processor priority is the higher of the task priority and the priority of the highest interrupt in service."
    fn processor_class(&self) -> u8 {
        self.in_service.iter().map(|vector| vector / 16).chain([self.task / 16]).max().unwrap_or(0)
    }

    /// "An interrupt is delivered if its priority is greater than the processor's"; of several, the highest vector.
    fn deliverable(&self) -> Option<u8> {
        let class = self.processor_class();
        self.requested.iter().copied().filter(|vector| self.on && vector / 16 > class).max()
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Request(u8),
    SelfInterrupt(u8),
    Take,
    End,
    Task(u8),
    Class(u8),
    Switch(bool),
}

fn step() -> impl Strategy<Value = Step> {
    // Few classes, so that they meet.
    let vector = || prop_oneof![4 => 0x20u8..0x70, 1 => any::<u8>()];
    prop_oneof![
        4 => vector().prop_map(Step::Request),
        2 => vector().prop_map(Step::SelfInterrupt),
        4 => Just(Step::Take),
        3 => Just(Step::End),
        2 => vector().prop_map(Step::Task),
        1 => (0u8..16).prop_map(Step::Class),
        1 => prop_oneof![9 => Just(true), 1 => Just(false)].prop_map(Step::Switch),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn priorities_follow_the_manual(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut apic, mut model) = (x2apic(), Model { on: true, ..Model::default() });
        for step in steps {
            match step {
                Step::Request(vector) | Step::SelfInterrupt(vector) => {
                    match step {
                        Step::Request(_) => apic.edge(vector),
                        _ => drop(apic.set(SELF_IPI, vector.into())),
                    }
                    if vector >= 16 && model.on {
                        model.requested.insert(vector);
                    }
                }
                Step::Take => {
                    let taken = model.deliverable();
                    if let Some(vector) = taken {
                        model.requested.remove(&vector);
                        model.in_service.push(vector);
                    }
                    prop_assert_eq!(apic.take(), taken);
                }
                Step::End => {
                    apic.set(EOI, 0);
                    // What was taken last has the highest priority in service.
                    model.in_service.pop();
                }
                Step::Task(priority) => {
                    apic.set(TPR, priority.into());
                    model.task = priority;
                }
                Step::Class(class) => {
                    apic.set_task_class(class);
                    model.task = if model.task / 16 == class { model.task } else { class * 16 };
                }
                Step::Switch(on) => {
                    apic.set(SVR, if on { 0x1ff } else { 0xff });
                    model.on = on;
                }
            }
            prop_assert_eq!(apic.highest_deliverable(), model.deliverable());
            prop_assert_eq!(apic.get(PPR) as u8 / 16, model.processor_class());
            prop_assert_eq!(apic.get(TPR) as u8, model.task);
            prop_assert!(model.in_service.windows(2).all(|pair| pair[0] / 16 < pair[1] / 16));
        }
    }

    /// Whatever is written: no panic, and the timer is never due in the past once it was looked at.
    #[test]
    fn random_accesses_are_survived(
        accesses in proptest::collection::vec((0u32..0x48, any::<u64>(), 0u32..64, 0u64..1 << 40, any::<bool>()), 1..60)
    ) {
        let mut apics = [x2apic(), Apic::new(0, Base::RESET)];
        apics[1].write_page(0xf0, 0x1ff, 0);
        let mut now = 0;
        for (number, value, shift, passed, read) in accesses {
            now += passed;
            let value = value >> shift;
            let _ = if read { apics[0].read_msr(0x7fe + number, now).err() } else { apics[0].write_msr(0x7fe + number, value, now).err() };
            apics[0].set_tsc_deadline(value);
            if read {
                apics[1].read_page((number * 16) as u16 % 4096, now);
            } else {
                apics[1].write_page((number * 16) as u16 % 4096, value as u32, now);
            }
            for apic in &mut apics {
                apic.advance(now);
                prop_assert!(apic.next_deadline().is_none_or(|deadline| deadline > now));
                if let Some(vector) = apic.take() {
                    prop_assert!(vector >= 16);
                }
            }
        }
    }
}
