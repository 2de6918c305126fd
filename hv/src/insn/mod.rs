//! Instructions: measured where an exit only needs to skip one, and carried out where the processor could not.
//!
//! | file | what it knows |
//! |---|---|
//! | [`length`](self::length()) | how long an exiting instruction is |
//! | `control` | what MOV to or from control and debug registers names, and plain INVLPG |
//! | `opcode`, `decode` | the opcode map, and an instruction's parts ([`Instruction`]) |
//! | `plain` | the commonest moves, quickly |
//! | `machine` | what an emulated instruction needs of its virtual CPU ([`Machine`]) |
//! | `exchange` | accesses to devices: those answered, those wanted, those to be handed out ([`Exchange`]) |
//! | `memory` | operands: segments, canonical form, alignment, pages |
//! | `flags`, `arithmetic` | results and flags, as pure functions |
//! | `execute`, `stack`, `string`, `vector` | the instructions |
//! | `port` | INS and OUTS in batches |
//!
//! [`emulate`] carries out the instruction at RIP whole, or not at all: registers and memory change only after everything that can
//! fault has been tried. A read of a device ends the attempt; once it is answered, the instruction is tried again from its
//! beginning, and the answer is served from the [`Exchange`]. Writes to devices are queued there, for they have no answer. String
//! instructions keep what they have done, element by element, as the processor does.
//!
//! The decoder is our own: 256 entries of five bytes for each of two opcode maps, no allocation. iced-x86, which the tests hold it against,
//! builds its tables on the heap at the first use, and what a fault does must not allocate where that can fail.
//!
//! Cited as "APM": AMD64 Architecture Programmer's Manual, volumes 2 and 3.

mod arithmetic;
mod control;
mod decode;
mod exchange;
mod execute;
mod flags;
mod length;
mod machine;
mod memory;
mod opcode;
mod plain;
mod port;
mod stack;
mod string;
mod vector;

pub use control::{ControlAccess, control_access, plain_control_access, plain_invlpg};
pub use decode::{Address, Instruction, Operand, Undecodable, decode};
pub use exchange::{Exchange, Transfer, Way};
pub use execute::{Outcome, Unsupported, emulate};
pub use length::{MAX_BYTES, Opcode, length};
pub use machine::{Alignment, Broken, CodeBits, Fault, Machine, Mode, Place, Protection, SegmentName, Touch};
pub use opcode::Operation;
pub use plain::{PlainMove, plain_move};
pub use port::{Batch, complete_ins, outs, prepare_ins};

#[cfg(test)]
mod tests;
