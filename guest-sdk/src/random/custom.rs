//! What the crate getrandom asks for bytes, from version 0.3 on.
#![expect(unsafe_code, reason = "getrandom calls a function by its name, with a pointer")]

/// Fills `len` bytes at `start`, if the host had a seed to give: who asks getrandom wants bytes that nobody can guess.
///
/// # Safety
/// They can be written, and are not used by anybody else meanwhile.
// SAFETY: getrandom declares it so, and no other function has this name.
#[unsafe(no_mangle)]
unsafe extern "Rust" fn __getrandom_v03_custom(start: *mut u8, len: usize) -> Result<(), getrandom::Error> {
    if !super::is_seeded() {
        return Err(getrandom::Error::UNSUPPORTED);
    }
    // SAFETY: the caller says that the bytes can be written.
    unsafe { start.write_bytes(0, len) };
    // SAFETY: they have just been initialised, and are nobody else's meanwhile.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, len) };
    super::fill(bytes);
    Ok(())
}
