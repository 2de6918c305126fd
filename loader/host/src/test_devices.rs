//! Devices for tests of what hv emulates ([`wire::devices`]): memory again, a page that hv asks itself for, and a port that gives back what it was given.

use alloc::{boxed::Box, collections::VecDeque, vec, vec::Vec};

use hv::{
    Stop, Vm,
    addr::Gpa,
    exit::{Device, Direction, PortAccess},
    insn::{Transfer, Way},
};
use wire::devices::{ATTACHED, ATTACHED_BYTES, ECHO, LOW_MIRROR, MIRROR};

/// Most bytes that the port keeps.
const MOST: usize = 64 * 1024;

/// The devices of one guest.
#[derive(Default)]
pub(crate) struct TestDevices {
    echo: VecDeque<u8>,
}

/// The page that hv asks itself for.
struct Held(Vec<u8>);

impl Held {
    fn bytes(&mut self, offset: u64, bytes: u8) -> &mut [u8] {
        let from = offset as usize;
        self.0.get_mut(from..from + usize::from(bytes)).unwrap_or_default()
    }
}

impl Device for Held {
    fn read(&mut self, offset: u64, bytes: u8) -> u128 {
        let mut value = [0; 16];
        let held = self.bytes(offset, bytes);
        value[..held.len()].copy_from_slice(held);
        u128::from_le_bytes(value)
    }

    fn write(&mut self, offset: u64, bytes: u8, value: u128) {
        let held = self.bytes(offset, bytes);
        held.copy_from_slice(&value.to_le_bytes()[..held.len()]);
    }
}

impl TestDevices {
    /// Attaches the device that hv asks itself.
    ///
    /// # Errors
    /// As [`Vm::attach`] has them.
    pub(crate) fn attach(vm: &mut Vm) -> Result<(), hv::Error> {
        let held = Held(vec![0; ATTACHED_BYTES as usize]);
        vm.attach(Gpa(ATTACHED)..Gpa(ATTACHED + ATTACHED_BYTES), Box::new(held))
    }

    /// Does what the guest stopped for, if it is these devices' matter; gives the stop back if not.
    pub(crate) fn serve(&mut self, vm: &mut Vm, stop: Stop) -> Option<Stop> {
        match &stop {
            Stop::Mmio(access) => mirror(vm, access).map_or(Some(stop), |()| None),
            Stop::Io { access, value } if access.port() == ECHO => {
                self.port(vm, *access, *value);
                None
            }
            Stop::IoString { access, elements } if access.port() == ECHO => {
                let (access, bytes) = (*access, *elements as usize * access.width() as usize);
                self.ports(vm, access, bytes);
                None
            }
            _ => Some(stop),
        }
    }

    fn port(&mut self, vm: &mut Vm, access: PortAccess, value: u32) {
        let count = access.width() as usize;
        if access.direction() == Direction::Out {
            self.keep(&value.to_le_bytes()[..count]);
        } else {
            let mut bytes = [0; 4];
            bytes[..count].fill_with(|| self.echo.pop_front().unwrap_or(0xff));
            vm.answer_in(access, u32::from_le_bytes(bytes));
        }
    }

    fn ports(&mut self, vm: &mut Vm, access: PortAccess, count: usize) {
        if access.direction() == Direction::Out {
            self.keep(&vm.port_bytes()[..count]);
        } else {
            vm.port_bytes_mut()[..count].fill_with(|| self.echo.pop_front().unwrap_or(0xff));
            vm.answer_ins(access, (count / access.width() as usize) as u32);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MOST - self.echo.len().min(MOST);
        if self.echo.try_reserve(bytes.len()).is_ok() {
            self.echo.extend(&bytes[..bytes.len().min(room)]);
        }
    }
}

/// Serves an access to the guest's own memory by another address; `None` if it is not one.
fn mirror(vm: &mut Vm, access: &Transfer) -> Option<()> {
    let at = access.gpa.0.checked_sub(MIRROR).or_else(|| access.gpa.0.checked_sub(LOW_MIRROR)).map(Gpa)?;
    let count = usize::from(access.bytes);
    let mut bytes = access.value().to_le_bytes();
    match access.way {
        Way::Write => vm.write_physical(at, &bytes[..count]).ok(),
        Way::Read => {
            vm.memory().read(at, &mut bytes[..count]).ok()?;
            vm.answer_mmio(u128::from_le_bytes(bytes));
            Some(())
        }
    }
}
