//! SVM as values: the VMCB, intercepts, exit codes, events, permission maps (APM vol. 2, chapter 15 and appendices B, C).

mod event;
mod exit_code;
mod features;
mod intercept;
mod permission;
mod vmcb;

pub use event::Event;
pub use exit_code::ExitCode;
pub use features::Features;
pub use intercept::{CR_READ_FLOOR, CR_WRITE_FLOOR, DR_FLOOR, EXCEPTION_FLOOR, Intercepts1, Intercepts2};
pub use permission::{MSR_MAP_PAGES, PASSED_THROUGH, PORT_MAP_PAGES, build_msr_map};
pub use vmcb::{Clean, ControlArea, SaveArea, Segment, TlbControl, Vmcb, attributes, virtual_interrupt};
