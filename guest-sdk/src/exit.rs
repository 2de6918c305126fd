//! How a guest ends by its own will.

use core::fmt::Debug;

/// Ends the guest with this code.
///
/// No destructor runs.
///
/// ```no_run
/// guest_sdk::exit(3);
/// ```
pub fn exit(code: impl Into<ExitCode>) -> ! {
    crate::memory::report();
    crate::backend::exit(code.into().0)
}

/// What a guest tells about its success: 0 is success, any other number its own kind of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExitCode(i32);

impl ExitCode {
    /// The guest did what it was started for.
    pub const SUCCESS: Self = Self(0);
    /// The guest failed.
    pub const FAILURE: Self = Self(1);
}

impl From<i32> for ExitCode {
    fn from(code: i32) -> Self {
        Self(code)
    }
}

/// What `main` may return.
///
/// ```
/// use guest_sdk::{ExitCode, Termination};
///
/// fn parse(text: &str) -> Result<i32, core::num::ParseIntError> {
///     text.parse()
/// }
///
/// assert_eq!(parse("7").report(), ExitCode::from(7));
/// assert_eq!(().report(), ExitCode::SUCCESS);
/// ```
pub trait Termination {
    /// Turns the value into the guest's exit code, and prints the error if there is one.
    fn report(self) -> ExitCode;
}

impl Termination for () {
    fn report(self) -> ExitCode {
        ExitCode::SUCCESS
    }
}

impl Termination for ExitCode {
    fn report(self) -> ExitCode {
        self
    }
}

impl Termination for i32 {
    fn report(self) -> ExitCode {
        ExitCode(self)
    }
}

impl<T: Termination, E: Debug> Termination for Result<T, E> {
    fn report(self) -> ExitCode {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                crate::eprintln!("Error: {error:?}");
                ExitCode::FAILURE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_codes() {
        assert_eq!(().report(), ExitCode(0));
        assert_eq!((-3).report(), ExitCode(-3));
        assert_eq!(ExitCode::from(9).report(), ExitCode(9));
        assert_eq!(Ok::<_, ()>(4).report(), ExitCode(4));
    }
}
