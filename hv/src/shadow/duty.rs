//! What a change of shadow tables obliges the run loop to do before the guest, or anybody's frame, goes on.

use crate::{
    addr::Gva,
    plant::{Bug, planted},
};

/// A flush that is owed. It is a value so that it cannot be forgotten, and it grows when joined with another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use = "a flush that is not discharged leaves stale translations"]
pub enum FlushDuty {
    /// Nothing: no translation became smaller.
    #[default]
    None,
    /// The translation of one address.
    Address(Gva),
    /// Everything under this VM's ASID, page-walk caches included.
    Asid,
}

impl FlushDuty {
    /// The smallest duty that covers both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Address(_), _) if planted(Bug::DutiesAreLost) => self,
            (Self::None, duty) | (duty, Self::None) => duty,
            (Self::Address(a), Self::Address(b)) if a.0 == b.0 => self,
            _ => Self::Asid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_never_loses_a_flush() {
        use FlushDuty::{Address, Asid, None};
        let (a, b) = (Address(Gva(0x1000)), Address(Gva(0x2000)));
        assert_eq!(None.and(None), None);
        assert_eq!(None.and(a), a);
        assert_eq!(a.and(None), a);
        assert_eq!(a.and(a), a);
        assert_eq!(a.and(b), Asid);
        assert_eq!(a.and(Asid), Asid);
        assert_eq!(Asid.and(None), Asid);
    }
}
