//! Runs kernels that were not written for hv, on the platform of [`host::platform`].

use alloc::{
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};

use core::ops::ControlFlow;

use host::platform::{Platform, Written};
use hv::{
    Hypervisor, Stop, Vm,
    apic::Pin,
    exit::{Direction, PortAccess},
    x86::Profile,
};
use hv_calls::Embedder;
use loader::{Given, Kernel, Module, Protocol, RawAt};
use wire::{Absent, Entry, Guest, Report};

use crate::{attend::Attendant, report};

/// How a guest is to be loaded that is no unikernel; `None` is a unikernel.
pub(crate) fn protocol(guest: &Guest<'_>) -> Option<Protocol> {
    let protocol = match guest.entry {
        Entry::Image => Protocol::of(&guest.image),
        Entry::Unikernel => Protocol::Unikernel,
        Entry::Pvh => Protocol::Pvh,
        Entry::Multiboot => Protocol::Multiboot,
        Entry::Reset => Protocol::Raw(RawAt::Reset),
        Entry::Real { cs, ip } => Protocol::Raw(RawAt::Real { cs, ip }),
    };
    (protocol != Protocol::Unikernel).then_some(protocol)
}

/// A foreign kernel and what is around it.
pub(crate) struct Foreign {
    vm: Vm,
    platform: Platform,
}

impl Foreign {
    /// Loads a kernel.
    ///
    /// # Errors
    /// Why it is refused.
    pub(crate) fn new(hypervisor: &Arc<Hypervisor>, guest: &Guest<'_>, protocol: Protocol) -> Result<Self, String> {
        let command_line = guest.args.join(" ");
        let modules: Vec<Module<'_>> =
            guest.modules.iter().map(|module| Module { name: &module.name, bytes: &module.bytes }).collect();
        let given = Given { name: &guest.name, command_line: &command_line, modules: &modules };
        let kernel = Kernel::parse(&guest.image, protocol, &given, guest.memory).map_err(|error| error.to_string())?;
        let hypervisor = match guest.profile {
            wire::Profile::V2 => Arc::clone(hypervisor),
            wire::Profile::V2Bare => hypervisor.with_profile(Profile::bare()).map_err(|error| error.to_string())?,
        };
        let vm = kernel.spawn(&hypervisor).map_err(|error| error.to_string())?;
        Ok(Self { vm, platform: Platform::default() })
    }

    /// Runs it until it is done, or its time is up. What it asked for that is not there is reported.
    pub(crate) fn run(&mut self, attendant: &mut Attendant) -> Stop {
        let stop = loop {
            if let ControlFlow::Break(stop) = self.turn(attendant) {
                break stop;
            }
        };
        let absent = self.platform.absent();
        if !absent.is_empty() {
            let (ports, pages) = (absent.ports().collect(), absent.pages().collect());
            report::send(&Report::Absent(Absent { ports, pages, others: absent.others() }));
        }
        stop
    }

    /// Runs it until it leaves to the host once, and tells whether it goes on.
    pub(crate) fn turn(&mut self, attendant: &mut Attendant) -> ControlFlow<Stop> {
        let stop = attendant.run(&mut self.vm);
        self.attend(attendant, stop)
    }

    /// Its VM.
    pub(crate) const fn vm(&self) -> &Vm {
        &self.vm
    }

    /// Does what a stop asks for, and tells whether the kernel goes on.
    fn attend(&mut self, attendant: &mut Attendant, stop: Stop) -> ControlFlow<Stop> {
        let Some(stop) = attendant.serve_devices(&mut self.vm, stop) else { return attendant.go_on(&self.vm) };
        match stop {
            Stop::Io { access, value } => self.port(attendant, access, value)?,
            Stop::IoString { access, elements } => self.port_string(attendant, access, elements)?,
            Stop::Mmio(transfer) => {
                self.platform.absent_memory(transfer.gpa.0);
                // Does nothing for a write.
                self.vm.answer_mmio(u128::MAX);
            }
            other => return attendant.attend(&mut self.vm, other),
        }
        if self.platform.take_interrupt() {
            self.vm.vcpu_mut().raise_pin(Pin::Lint0);
        }
        attendant.go_on(&self.vm)
    }

    /// Carries out an access to a port.
    fn port(&mut self, attendant: &mut Attendant, access: PortAccess, value: u32) -> ControlFlow<Stop> {
        match access.direction() {
            Direction::In => {
                let value = self.platform.read_port(access.port(), access.width());
                self.vm.answer_in(access, value);
            }
            Direction::Out => self.write(attendant, access, value)?,
        }
        ControlFlow::Continue(())
    }

    /// Carries out a batch of INS or OUTS, element by element.
    fn port_string(&mut self, attendant: &mut Attendant, access: PortAccess, elements: u32) -> ControlFlow<Stop> {
        let width = access.width() as usize;
        for at in (0..elements as usize).map(|element| element * width) {
            let mut bytes = [0; 4];
            match access.direction() {
                Direction::In => {
                    bytes = self.platform.read_port(access.port(), access.width()).to_le_bytes();
                    self.vm.port_bytes_mut()[at..at + width].copy_from_slice(&bytes[..width]);
                }
                Direction::Out => {
                    bytes[..width].copy_from_slice(&self.vm.port_bytes()[at..at + width]);
                    let value = u32::from_le_bytes(bytes);
                    self.write(attendant, access, value)?;
                }
            }
        }
        if access.direction() == Direction::In {
            self.vm.answer_ins(access, elements);
        }
        ControlFlow::Continue(())
    }

    /// Writes to a port, which may be the kernel's end.
    fn write(&mut self, attendant: &mut Attendant, access: PortAccess, value: u32) -> ControlFlow<Stop> {
        match self.platform.write_port(access.port(), access.width(), value, &mut |byte| attendant.print(byte)) {
            Written::Exit(code) => ControlFlow::Break(Stop::Exit(code as i32)),
            Written::Done => ControlFlow::Continue(()),
        }
    }
}
