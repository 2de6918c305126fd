//! What a PVH boot hands over, for those who write it and those who read it: version 1 of the layouts in Xen's public header
//! `arch-x86/hvm/start_info.h`. Every address is physical.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// First word of [`StartInfo`]: "xEn3" with the high bit of the E set.
pub const MAGIC: u32 = 0x336e_c578;

/// The structure whose address a kernel finds in EBX.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1; version 0 has no memory map.
    pub version: u32,
    /// 0.
    pub flags: u32,
    /// How many modules there are.
    pub modules: u32,
    /// Where their list is, of [`ModuleEntry`].
    pub module_list: u64,
    /// Where the command line is, which ends with a zero byte.
    pub command_line: u64,
    /// Where ACPI's tables begin; 0 if there are none.
    pub rsdp: u64,
    /// Where the memory map is, of [`MapEntry`].
    pub map: u64,
    /// How many entries it has.
    pub map_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// One module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModuleEntry {
    /// Its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Where its command line is.
    pub command_line: u64,
    /// 0.
    pub reserved: u64,
}

/// One range of the memory map.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapEntry {
    /// Its first byte.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// What it is, in the numbers of ACPI's address map ([`crate::RangeKind`]).
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<ModuleEntry>() == 32 && size_of::<MapEntry>() == 24);
