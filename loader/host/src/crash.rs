//! Where a guest was when it ended for what it did: found from outside, through the guest's own page tables.

use alloc::{format, string::String, vec::Vec};

use hv::{Vm, addr::Gva, hw::Registers};
use wire::{Crash, End};

/// Encoding of RBP.
const RBP: usize = 5;
/// Most frames that are followed.
const FRAMES_MAX: usize = 64;

/// Tells where a guest was, if it ended for what it did.
pub(crate) fn find(vm: &Vm, end: &End) -> Option<Crash> {
    let registers = match end {
        End::Panic { .. } => String::new(),
        End::Killed(_) | End::TimedOut => format!("{:?}", vm.vcpu()),
        End::Exit(_) | End::Refused(_) => return None,
    };
    let Registers(general) = vm.vcpu().registers();
    Some(Crash { rip: vm.vcpu().vmcb().save.rip, returns: returns(vm, general[RBP]), registers })
}

/// Follows the frame pointers: each points to the caller's, and the return address is behind it. Frames of callers lie further up in the stack,
/// so that a chain which does not lead there, or leads in a circle, ends.
fn returns(vm: &Vm, mut frame: u64) -> Vec<u64> {
    let mut found = Vec::new();
    while found.len() < FRAMES_MAX && frame != 0 && frame.is_multiple_of(8) {
        let mut pair = [0; 16];
        if vm.read(Gva(frame), &mut pair).is_err() {
            break;
        }
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|byte| pair[at + byte]));
        let (caller, return_address) = (word(0), word(8));
        if return_address == 0 {
            break;
        }
        found.push(return_address);
        if caller <= frame {
            break;
        }
        frame = caller;
    }
    found
}
