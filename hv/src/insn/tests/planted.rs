//! Planted bugs of the emulator: each must be noticed by a test of its own section.

use super::{faults, ports};
use crate::{
    insn::exchange,
    plant::{Bug, plant},
};
use std::{panic, println};

type Detector = fn();

/// Each bug with the test that is there to notice it.
const NOTICED_BY: [(Bug, Detector); 9] = [
    (Bug::LimitsAreIgnored, faults::limits_hold_outside_64_bit_mode_only),
    (Bug::CanonicalFormIsIgnored, faults::non_canonical_addresses_are_gp_or_ss_in_64_bit_mode),
    (Bug::AnswersAreNotCompared, exchange::tests::answers_are_served_in_order_and_writes_are_given_once),
    (Bug::DeviceWritesAreLost, faults::devices_see_accesses_of_the_operands_size_and_order),
    (Bug::LockPrefixIsIgnored, faults::prefixes_without_end_are_gp_and_lock_where_it_must_not_be_is_ud),
    (Bug::PortDirectionIsIgnored, ports::elements_cross_pages_and_go_down_with_df),
    (Bug::PortCountOfZeroMoves, ports::segment_address_size_and_count_are_the_instructions),
    (Bug::PortSegmentIsIgnored, ports::segment_address_size_and_count_are_the_instructions),
    (Bug::PortProgressIsLost, ports::outs_is_taken_in_batches_across_pages),
];

fn all_are_noticed(bugs: &[(Bug, Detector)]) {
    for (bug, detect) in bugs {
        detect();
        let planted = plant(*bug);
        let noticed = panic::catch_unwind(detect).is_err();
        assert!(planted.was_asked(), "nobody asks for {bug:?}");
        assert!(noticed, "nobody noticed {bug:?}");
        println!("planted bug {bug:?} was noticed");
    }
}

#[test]
fn seed_06_planted_bugs_are_noticed() {
    all_are_noticed(&NOTICED_BY[..5]);
}

#[test]
fn seed_07_planted_bugs_are_noticed() {
    all_are_noticed(&NOTICED_BY[5..]);
}

#[test]
fn every_bug_of_the_emulator_has_a_test() {
    assert!(Bug::EMULATION.iter().all(|bug| NOTICED_BY.iter().any(|(noticed, _)| noticed == bug)));
    assert_eq!(Bug::EMULATION.len(), NOTICED_BY.len());
}
