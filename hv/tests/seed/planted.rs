//! Planted bugs: each section has some, and its tests must notice each.

use crate::{
    seed_01_setup, seed_02_enable, seed_03_creation, seed_04_run_loop, seed_05_dispatch, seed_08_msrs, seed_09_events,
    seed_10_asids, seed_11_control, seed_12_segments, seed_13_destroy, seed_14_whole, stage::with_features,
};
use hv::{
    plant::{Bug, plant},
    svm::Features,
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A section: its number, its tests, the bugs that they must notice.
pub struct Section {
    pub number: u8,
    pub tests: &'static [fn()],
    bugs: &'static [Bug],
}

const fn section(number: u8, tests: &'static [fn()], bugs: &'static [Bug]) -> Section {
    Section { number, tests, bugs }
}

/// The sections, but 6 and 7, whose tests stand with the shadow MMU and the emulator.
pub const SECTIONS: [Section; 12] = [
    section(1, seed_01_setup::TESTS, &[Bug::PortsAreOpen, Bug::MsrWritesPass, Bug::LockIsIgnored, Bug::SvmInUseIsIgnored]),
    section(2, seed_02_enable::TESTS, &[Bug::SvmeStaysOn, Bug::SaveAreaStays, Bug::SvmInUseIsIgnored]),
    section(
        3,
        seed_03_creation::TESTS,
        &[
            Bug::ResetBaseIsLow,
            Bug::DebugRegistersBeginAtZero,
            Bug::ClockBeginsLate,
            Bug::FpuBeginsUnmasked,
            Bug::VmcbIsNotZeroed,
        ],
    ),
    section(
        4,
        seed_04_run_loop::TESTS,
        &[Bug::KickIsIgnored, Bug::ShadowSurvives, Bug::ReadyForgetsPending, Bug::WindowIsNotWatched],
    ),
    section(
        5,
        seed_05_dispatch::TESTS,
        &[
            Bug::UpperHalvesStay,
            Bug::InClearsTheRest,
            Bug::SvmIsSkipped,
            Bug::LmswClearsProtection,
            Bug::GeneralDetectIsIgnored,
            Bug::StepIsForgotten,
            Bug::PageFaultsAreNotForced,
        ],
    ),
    section(
        8,
        seed_08_msrs::TESTS,
        &[Bug::NonCanonicalPasses, Bug::UnknownMsrsReadZero, Bug::LmaIsTaken, Bug::ClockCannotBeSet, Bug::PatIsNotChecked],
    ),
    section(
        9,
        seed_09_events::TESTS,
        &[
            Bug::LostEventIsForgotten,
            Bug::SoftInterruptIsRepeated,
            Bug::NmisStayOpen,
            Bug::ShadowIsIgnored,
            Bug::TaskPriorityIsIgnored,
            Bug::DoubleFaultIsSkipped,
            Bug::WindowIsNotWatched,
            Bug::HaltSleepsOn,
        ],
    ),
    section(
        10,
        seed_10_asids::TESTS,
        &[
            Bug::AddressIsNotFlushed,
            Bug::AsidIsNotFlushed,
            Bug::WrapIsNotFlushed,
            Bug::OldAsidIsKept,
            Bug::AsidStaysClean,
            Bug::CleanBitsTravel,
            Bug::InvlpgOwesNothing,
        ],
    ),
    section(
        11,
        seed_11_control::TESTS,
        &[
            Bug::PagingWithoutProtection,
            Bug::LongWithoutPae,
            Bug::LmeChangesUnderPaging,
            Bug::PaeLeavesLongMode,
            Bug::Cr3IsNotChecked,
            Bug::Cr4IsNotChecked,
            Bug::PdptesAreNotChecked,
            Bug::Cr0OwesNothing,
            Bug::Cr3OwesNothing,
            Bug::Cr4OwesNothing,
            Bug::LmeIsNotForced,
        ],
    ),
    section(
        12,
        seed_12_segments::TESTS,
        &[
            Bug::CplStays,
            Bug::BusyTssStays,
            Bug::UnusableKeepsAttributes,
            Bug::FpuIsNotSwitched,
            Bug::FpuIsTornApart,
            Bug::BreakpointsAreNotSwitched,
        ],
    ),
    section(13, seed_13_destroy::TESTS, &[Bug::FramesAreLost, Bug::SvmeStaysOn, Bug::SaveAreaStays]),
    section(14, seed_14_whole::TESTS, &[Bug::FramesAreLost, Bug::SvmeStaysOn, Bug::SaveAreaStays]),
];
const FEWEST: usize = 3;

#[test]
fn seed_every_section_notices_its_planted_bugs() {
    let mut missed = Vec::new();
    for section in &SECTIONS {
        assert!(section.bugs.len() >= FEWEST, "section {} has too few bugs", section.number);
        for bug in section.bugs {
            if !is_noticed(section, *bug) {
                missed.push((section.number, *bug));
            }
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn seed_every_bug_of_the_virtual_cpu_has_a_section() {
    let unwatched: Vec<_> = Bug::VCPU.iter().filter(|bug| !SECTIONS.iter().any(|section| section.bugs.contains(bug))).collect();
    assert!(unwatched.is_empty(), "no section is asked to notice {unwatched:?}");
}

#[test]
fn seed_every_bug_stands_in_the_readme() {
    let readme = include_str!("../../README.md");
    let words: Vec<_> = readme.split(|letter: char| !letter.is_ascii_alphanumeric()).collect();
    let missing: Vec<_> = Bug::VCPU.iter().chain(Bug::EMULATION).filter(|bug| !words.contains(&&*format!("{bug:?}"))).collect();
    assert!(missing.is_empty(), "README.md does not name {missing:?}");
}

/// Plants a bug, and tells whether a test of the section fails, with SVM's optional features or without.
fn is_noticed(section: &Section, bug: Bug) -> bool {
    let planted = plant(bug);
    let fails = |features| {
        section.tests.iter().any(|test| {
            let mut failed = false;
            with_features(features, || failed = catch_unwind(AssertUnwindSafe(test)).is_err());
            failed
        })
    };
    let noticed = fails(Features::empty()) || fails(Features::all() - Features::SVM_LOCK);
    let asked = planted.was_asked();
    println!(
        "section {:2}, {bug:?}: {} ({})",
        section.number,
        if noticed {
            "noticed"
        } else if asked {
            "NOT NOTICED"
        } else {
            "NOT ASKED FOR"
        },
        bug.what().trim()
    );
    noticed
}
