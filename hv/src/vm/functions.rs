//! Calls of functions, as bytes: the host's requests to the guest, and its answers to the guest's (`hv_abi::function`).

use super::Vm;
use crate::{contract::CallRefused, error::Error};
use hv_abi::function::{Answer, Header, Kind, Types};
use zerocopy::IntoBytes;

impl Vm {
    /// Calls a function of the guest, which is ready for it ([`crate::Stop::Ready`], [`crate::Stop::Answered`]): the guest gets the request when it is run
    /// next. `types` are the function's, as the caller knows them; `deadline` is a time stamp of the host that the guest may look at, as one of its own; `u64::MAX` for none.
    ///
    /// # Errors
    /// The guest cannot take the request now, or not one of this length.
    pub fn request(&mut self, function: u64, types: Types, deadline: u64, payload: &[u8]) -> Result<(), CallRefused> {
        let len = payload.len() as u64;
        let inbox = self.contract.begin_request(len)?.inbox();
        let deadline = if deadline == u64::MAX { deadline } else { self.vcpu().guest_time(deadline) };
        let header = Header { function, len, deadline, types: types.encode() };
        self.write_physical(inbox, header.as_bytes())?;
        self.write_physical(inbox.wrapping_add(size_of::<Header>() as u64), payload)?;
        self.answer(len);
        Ok(())
    }

    /// Reads the first bytes of what the guest put into its outbox.
    ///
    /// # Errors
    /// [`Error::OutsideMemory`] behind the end of the outbox, [`Error::CallBuffer`] without one.
    pub fn read_outbox(&self, into: &mut [u8]) -> Result<(), Error> {
        let buffer = self.contract.buffer().ok_or(Error::CallBuffer)?;
        let start = buffer.outbox_payload();
        if into.len() as u64 > buffer.capacity() {
            return Err(Error::OutsideMemory(start.wrapping_add(buffer.capacity())));
        }
        self.memory.read(start, into)
    }

    /// Answers a function call of the guest ([`crate::Stop::HostCall`]). A payload belongs to the kinds that have one ([`Kind::has_payload`]); for the others
    /// it is not passed on.
    ///
    /// # Errors
    /// The guest has made no such call, or the payload is too long; then the call is still open.
    pub fn respond(&mut self, kind: Kind, payload: &[u8]) -> Result<(), CallRefused> {
        let payload = if kind.has_payload() { payload } else { &[] };
        let outbox = self.contract.begin_answer(payload.len() as u64)?.outbox_payload();
        self.write_physical(outbox, payload)?;
        self.answer(Answer { kind, len: payload.len() as u32 }.encode());
        Ok(())
    }
}
