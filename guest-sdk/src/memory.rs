//! What memory the guest has, and what it uses of it.

/// What the heap holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HeapUse {
    /// Bytes in use, in blocks of powers of two.
    pub bytes: usize,
    /// Most bytes in use at once so far.
    pub peak_bytes: usize,
    /// Bytes that there are.
    pub total_bytes: usize,
}

/// Returns what the heap holds; zeros in a process, whose heap is not the SDK's.
pub fn heap() -> HeapUse {
    #[cfg(target_os = "none")]
    return crate::heap::HEAP.usage();
    #[cfg(not(target_os = "none"))]
    HeapUse::default()
}

/// Returns the size of the guest's memory in bytes; 0 in a process.
pub fn size() -> u64 {
    #[cfg(target_os = "none")]
    return crate::info::info().memory_size;
    #[cfg(not(target_os = "none"))]
    0
}

/// Tells the host what the heap holds; it is told at the guest's end in any case, if the guest used it.
pub fn report() {
    #[cfg(target_os = "none")]
    {
        use hv_abi::msr::Register;
        let HeapUse { bytes, peak_bytes, .. } = heap();
        if peak_bytes > 0 {
            crate::call::set_register(Register::HeapBytes, bytes as u64);
            crate::call::set_register(Register::HeapPeakBytes, peak_bytes as u64);
        }
    }
}
