//! What ends up in guest memory.

use crate::builder::{Elf, MEMORY, RELRO};
use crate::walk::walk;
use goblin::elf::program_header::PT_GNU_STACK;
use hv::addr::Gpa;
use hv::mem::GuestMemory;
use hv::mem::arena::Arena;
use hv_abi::Features;
use hv_abi::boot::{self, BootInfo, INFO_ADDRESS, RunInfo, TEXTS_ADDRESS, TEXTS_MAX_BYTES};
use hv_abi::clock::Clock;
use loader::{Extras, File, HeaderFault, Image, Layout, LoadError, Plan, SpawnError, Start, TextFault};
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
    let memory = image.memory(&Start::new(&[])).unwrap();
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
    let memory = image.memory(&Start::new(&[])).unwrap();
    assert_eq!(read::<8>(&memory, 0x20_2200), 0x1010u64.to_le_bytes());
}

#[test]
fn arguments_stand_behind_the_boot_information() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let memory = image.memory(&Start::new(&["guest", "", "zwei Wörter"])).unwrap();
    let text = "guest\0\0zwei Wörter\0";
    let info = info(&memory);
    assert_eq!((info.args, info.args_len, info.args_count), (TEXTS_ADDRESS, text.len() as u64, 3));
    assert_eq!(read::<20>(&memory, TEXTS_ADDRESS)[..], *text.as_bytes());
    assert_eq!(info.memory_size, MEMORY);
    let other = image.memory(&Start::new(&[])).unwrap();
    assert_eq!(self::info(&other).args_count, 0);
    assert_eq!(read::<20>(&other, TEXTS_ADDRESS), [0; 20], "VMs of one image do not see each other's arguments");
}

#[test]
fn arguments_are_bounded_to_the_byte() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let longest = "x".repeat(TEXTS_MAX_BYTES as usize - 3);
    let memory = image.memory(&Start::new(&["g", &longest[1..], ""])).unwrap();
    assert_eq!(info(&memory).args_len, TEXTS_MAX_BYTES);
    let memory = image.memory(&Start::new(&["g", &longest])).unwrap();
    assert_eq!(info(&memory).args_len, TEXTS_MAX_BYTES);
    assert_eq!(read::<4>(&memory, 0x1_0000 - 3), [b'x', b'x', 0, Elf::pie().build()[0x1000]]);
    assert_eq!(
        image.memory(&Start::new(&["g", &longest, ""])).err(),
        Some(SpawnError::Argument { index: 2, fault: TextFault::TooLong })
    );
    assert_eq!(image.memory(&Start::new(&["g", "a\0b"])).err(), Some(SpawnError::Argument { index: 1, fault: TextFault::Zero }));
}

#[test]
fn a_vm_costs_two_frames_until_it_writes_and_nothing_is_lost() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let prepared = arena.live();
    let memory = image.memory(&Start::new(&["guest"])).unwrap();
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
        match Image::prepare(arena.frames(), &file, MEMORY).map(|image| image.memory(&Start::new(&["guest"])).err()) {
            Ok(None) => break,
            Ok(Some(error)) => assert_eq!(error, SpawnError::Hv(hv::Error::NoFrames)),
            Err(error) => assert_eq!(error, LoadError::Memory(hv::Error::NoFrames)),
        }
        assert_eq!(arena.live(), 0);
        failures += 1;
    }
    assert!((8..64).contains(&failures), "{failures}");
}

#[test]
fn environment_run_block_and_features_arrive() {
    let arena = Arena::leak(256);
    let image = Image::prepare(arena.frames(), &Elf::pie().build(), MEMORY).unwrap();
    let run = RunInfo { tsc_hertz: 7, clock: Clock::new(5, 1_000_000_000), wall_ns: 9, seed: [3; 32], generation: 0 };
    let start = Start { args: &["g"], env: &[("A", "1"), ("B", "")], run, features: Features::SLEEP };
    let memory = image.memory(&start).unwrap();
    let info = info(&memory);
    assert_eq!((info.env, info.env_len, info.env_count), (TEXTS_ADDRESS + 2, 7, 2));
    assert_eq!(read::<9>(&memory, TEXTS_ADDRESS), *b"g\0A=1\0B=\0");
    assert_eq!((info.features, info.inbox, info.box_bytes), (Features::SLEEP.encode().into(), 0, 0));
    assert_eq!(read::<{ size_of::<RunInfo>() }>(&memory, info.run), *run.as_bytes());
    let wrong = |env| image.memory(&Start { env, ..start }).err();
    let fault = |fault| Some(SpawnError::Variable { index: 0, fault });
    assert_eq!(wrong(&[("", "1")]), fault(TextFault::Name));
    assert_eq!(wrong(&[("A=B", "1")]), fault(TextFault::Name));
    assert_eq!(wrong(&[("A", "\0")]), fault(TextFault::Zero));
    assert_eq!(wrong(&[("A", &"x".repeat(TEXTS_MAX_BYTES as usize))]), fault(TextFault::TooLong));
}

#[test]
fn files_are_in_the_order_of_their_names_and_read_only() {
    let arena = Arena::leak(256);
    let (long, file) = (vec![0x5a; 9000], Elf::pie().build());
    let files = [File { name: "z", data: b"last" }, File { name: "a/b", data: &long }, File { name: "empty", data: b"" }];
    let extras = Extras { files: &files, box_bytes: 8192 };
    let image = Image::prepare_with(arena.frames(), &file, MEMORY, &extras).unwrap();
    let memory = image.memory(&Start::default()).unwrap();
    let info = info(&memory);
    assert_eq!((info.files, info.files_count), (info.image_end, 3));
    assert_eq!((info.inbox % 4096, info.outbox, info.box_bytes), (0, info.inbox + 8192, 8192));
    assert_eq!(info.stack_start, info.outbox + 8192 + 4096, "a guard page");
    assert_eq!(info.features, Features::FUNCTIONS.encode().into());
    let layout = Layout::with(&Plan::parse(&file, MEMORY).unwrap(), &extras).unwrap();
    for (at, (name, data)) in [("a/b", &long[..]), ("empty", b""), ("z", b"last")].into_iter().enumerate() {
        let mut entry = boot::File::default();
        memory.read(Gpa(info.files + 32 * at as u64), entry.as_mut_bytes()).unwrap();
        assert_eq!((entry.name_len, entry.data_len, entry.data % 16), (name.len() as u64, data.len() as u64, 0));
        let mut found = (vec![0; name.len()], vec![0; data.len()]);
        memory.read(Gpa(entry.name), &mut found.0).unwrap();
        memory.read(Gpa(entry.data), &mut found.1).unwrap();
        assert_eq!((&found.0[..], &found.1[..]), (name.as_bytes(), data));
        let leaf = walk(layout.table_words(), layout.tables().start, entry.data).unwrap();
        assert!(!leaf.writable && !leaf.executable && leaf.physical == entry.data, "{leaf:?}");
    }
    let inbox = walk(layout.table_words(), layout.tables().start, info.inbox).unwrap();
    assert!(inbox.writable && !inbox.executable);
    assert_eq!(walk(layout.table_words(), layout.tables().start, info.stack_start - 1), None, "the guard page");
}

#[test]
fn files_and_boxes_that_cannot_be_are_refused() {
    let bytes = Elf::pie().build();
    let plan = Plan::parse(&bytes, MEMORY).unwrap();
    let with = |files: &[File<'_>], box_bytes| Layout::with(&plan, &Extras { files, box_bytes }).err();
    let name = |name: &str| with(&[File { name: "first", data: b"" }, File { name, data: b"" }], 0);
    for wrong in ["", "first", "a\0b", &"x".repeat(256)] {
        assert!(matches!(name(wrong), Some(LoadError::File { index: 1, .. })), "{wrong}");
    }
    assert_eq!(name(&"x".repeat(255)), None);
    assert!(matches!(with(&[File { name: "large", data: &vec![1; MEMORY as usize] }], 0), Some(LoadError::NoRoom { .. })));
    assert!(matches!(with(&[], MEMORY), Some(LoadError::NoRoom { .. })));
    for wrong in [1, 4095, 128 << 20, u64::MAX] {
        assert_eq!(with(&[], wrong), Some(LoadError::BoxSize { bytes: wrong }));
    }
}

#[test]
fn a_stack_is_as_large_as_the_file_asks() {
    let stack = |bytes| {
        let elf = Elf::pie().with(|elf| {
            elf.headers[RELRO].p_type = PT_GNU_STACK;
            elf.headers[RELRO].p_memsz = bytes;
        });
        let bytes = elf.build();
        let plan = Plan::parse(&bytes, 2 << 30)?;
        Layout::new(&plan).map(|layout| layout.stack().end - layout.stack().start)
    };
    assert_eq!(stack(0), Ok(256 << 10));
    assert_eq!((stack(1), stack(4096), stack((1 << 20) + 1)), (Ok(4096), Ok(4096), Ok((1 << 20) + 4096)));
    assert_eq!(stack(1 << 30), Ok(1 << 30));
    for wrong in [(1 << 30) + 1, u64::MAX] {
        assert!(matches!(stack(wrong), Err(LoadError::ProgramHeader { fault: HeaderFault::StackTooLarge { .. }, .. })));
    }
}
