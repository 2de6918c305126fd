//! What ends up in guest memory.

use crate::builder::{Elf, MEMORY};
use hv::addr::Gpa;
use hv::mem::GuestMemory;
use hv::mem::arena::Arena;
use hv_abi::boot::{ARGS_ADDRESS, ARGS_MAX_BYTES, BootInfo, INFO_ADDRESS};
use loader::{Image, Layout, LoadError, Plan, SpawnError};
use zerocopy::IntoBytes;

fn read<const N: usize>(memory: &GuestMemory, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read(Gpa(at), &mut bytes).unwrap();
    bytes
}

fn info(memory: &GuestMemory) -> BootInfo {
    let mut info = BootInfo::default();
    memory.read(Gpa(INFO_ADDRESS), info.as_mut_bytes()).unwrap();
    info
}

#[test]
fn segments_relocations_and_tables_are_in_place() {
    let arena = Arena::leak(256);
    let file = Elf::pie().build();
    let image = Image::prepare(arena.frames(), &file, MEMORY).unwrap();
    let memory = image.memory(&[]).unwrap();
    assert_eq!(read::<0x200>(&memory, 0x1_0000), file[0x1000..0x1200]);
    assert_eq!(read::<0x800>(&memory, 0x1_1000), file[0x2000..0x2800]);
    assert_eq!(read::<0x800>(&memory, 0x1_1800), [0; 0x800], "nothing of the file behind a segment");
    let mut data = file[0x3100..0x4100].to_vec();
    data.extend([0; 0x3000]);
    data[0x100..0x108].copy_from_slice(&0x1_1010u64.to_le_bytes());
    data[0xf03..0xf0b].copy_from_slice(&0x1_0040u64.to_le_bytes());
    assert_eq!(read::<0x4000>(&memory, 0x1_2100), *data);
    let layout = Layout::new(&Plan::parse(&file, MEMORY).unwrap()).unwrap();
    assert_eq!(read::<0x4000>(&memory, layout.tables().start), *layout.table_words().as_bytes());
    assert_eq!(read::<8>(&memory, layout.stack_pointer()), [0; 8]);
}

#[test]
fn a_file_for_a_fixed_address_is_not_moved() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::fixed().build(), MEMORY).unwrap();
    let memory = image.memory(&[]).unwrap();
    assert_eq!(read::<8>(&memory, 0x20_2200), 0x1010u64.to_le_bytes());
}

#[test]
fn arguments_stand_behind_the_boot_information() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let memory = image.memory(&["guest", "", "zwei Wörter"]).unwrap();
    let text = "guest\0\0zwei Wörter\0";
    let info = info(&memory);
    assert_eq!((info.args, info.args_len, info.args_count), (ARGS_ADDRESS, text.len() as u64, 3));
    assert_eq!(read::<20>(&memory, ARGS_ADDRESS)[..], *text.as_bytes());
    assert_eq!(info.memory_size, MEMORY);
    let other = image.memory(&[]).unwrap();
    assert_eq!(self::info(&other).args_count, 0);
    assert_eq!(read::<20>(&other, ARGS_ADDRESS), [0; 20], "VMs of one image do not see each other's arguments");
}

#[test]
fn arguments_are_bounded_to_the_byte() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let longest = "x".repeat(ARGS_MAX_BYTES as usize - 3);
    let memory = image.memory(&["g", &longest[1..], ""]).unwrap();
    assert_eq!(info(&memory).args_len, ARGS_MAX_BYTES);
    let memory = image.memory(&["g", &longest]).unwrap();
    assert_eq!(info(&memory).args_len, ARGS_MAX_BYTES);
    assert_eq!(read::<4>(&memory, 0x1_0000 - 3), [b'x', b'x', 0, Elf::pie().build()[0x1000]]);
    assert_eq!(image.memory(&["g", &longest, ""]).err(), Some(SpawnError::ArgumentsTooLong { index: 2 }));
    assert_eq!(image.memory(&["g", "a\0b"]).err(), Some(SpawnError::ArgumentHasZero { index: 1 }));
}

#[test]
fn a_vm_costs_two_frames_until_it_writes_and_nothing_is_lost() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let prepared = arena.live();
    let memory = image.memory(&["guest"]).unwrap();
    assert_eq!(arena.live(), prepared + 2, "the boot information and a chunk of the directory");
    drop(memory);
    assert_eq!(arena.live(), prepared);
    drop(image);
    assert_eq!(arena.live(), 0);
}

#[test]
fn running_out_of_frames_is_an_error_and_loses_none() {
    let file = Elf::pie().build();
    let mut failures = 0;
    for count in 0..64 {
        let arena = Arena::leak(count);
        match Image::prepare(arena.frames(), &file, MEMORY).map(|image| image.memory(&["guest"]).err()) {
            Ok(None) => break,
            Ok(Some(error)) => assert_eq!(error, SpawnError::Hv(hv::Error::NoFrames)),
            Err(error) => assert_eq!(error, LoadError::Memory(hv::Error::NoFrames)),
        }
        assert_eq!(arena.live(), 0);
        failures += 1;
    }
    assert!((8..64).contains(&failures), "{failures}");
}
