//! The optional features of SVM, which no QEMU has: every section holds with each combination of them.

use crate::{
    planted::SECTIONS,
    stage::{LONG, Stage, with_features},
};
use hv::{
    Stop,
    svm::{Clean, ExitCode, Features},
};

/// NRIP-save, clean bits, flush-by-ASID, decode assists.
fn combinations() -> impl Iterator<Item = Features> {
    let optional = [Features::NRIP_SAVE, Features::VMCB_CLEAN, Features::FLUSH_BY_ASID, Features::DECODE_ASSISTS];
    (0..1 << optional.len()).map(move |set: usize| {
        optional.iter().enumerate().filter(|(bit, _)| set >> bit & 1 != 0).map(|(_, feature)| *feature).collect()
    })
}

#[test]
fn seed_every_section_holds_with_every_combination_of_features() {
    for features in combinations() {
        with_features(features, || SECTIONS.iter().flat_map(|section| section.tests).for_each(|test| test()));
    }
}

#[test]
fn seed_nrip_save_is_used_where_it_is_offered() {
    // Where the bytes at RIP are something else, only the processor knows.
    let run = |features| {
        let mut rip = 0;
        with_features(features, || {
            let mut stage = Stage::new(&LONG);
            stage.put(&[0x90; 8]);
            stage.strings.push(|vmcb, _| {
                vmcb.control.next_rip = vmcb.save.rip + 7;
                vmcb.control.exit_code = ExitCode::CPUID.into();
            });
            let start = stage.vm.vcpu().vmcb().save.rip;
            match stage.run() {
                Stop::Interrupted => rip = stage.entered().save.rip - start,
                stop => assert!(matches!(stop, Stop::Unhandled(_)), "{stop:?}"),
            }
        });
        rip
    };
    assert_eq!((run(Features::empty()), run(Features::NRIP_SAVE)), (0, 7));
}

#[test]
fn seed_clean_bits_tell_what_changed() {
    with_features(Features::VMCB_CLEAN, || {
        let mut stage = Stage::new(&LONG);
        let _ = stage.run();
        assert_eq!(stage.entered().control.clean, 0);
        type Change = fn(&mut Stage);
        let changes: [(Change, Clean); 4] = [
            (|_| (), Clean::empty()),
            (|stage| stage.vm.vcpu_mut().set_debug_register(6, 1).unwrap(), Clean::DEBUG_REGISTERS),
            (|stage| stage.vm.vcpu_mut().force_new_asid(), Clean::all()),
            (|stage| stage.vm.vcpu_mut().inject_interrupt(0x30), Clean::INTERCEPTS | Clean::INTERRUPT),
        ];
        for (change, expected) in changes {
            change(&mut stage);
            let _ = stage.run();
            let clean = Clean::from_bits_truncate(stage.entered().control.clean);
            // CR2 is never said to be clean.
            assert_eq!(Clean::all() - clean, expected | Clean::CR2);
        }
    });
}
