//! SVM instructions, and RSM outside SMM: guests do not have them.

use super::Next;
use crate::x86::Exception;

/// Raises #UD (APM vol. 3, VMRUN and RSM: the instruction is not supported).
pub(super) const fn handle() -> Next {
    Next::Inject(Exception::UD)
}
