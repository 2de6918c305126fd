//! A virtual CPU for tests: registers, and some pages of memory, each ordinary, a device's, read-only or missing.

use crate::{
    addr::{Gpa, Gva},
    insn::{
        Alignment, Broken, CodeBits, Exchange, Fault, Machine, Mode, Outcome, Place, Protection, SegmentName, Touch, Way, emulate,
    },
    svm::Segment,
    x86::{Exception, Vector},
};
use std::{collections::BTreeMap, vec, vec::Vec};

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Memory,
    ReadOnly,
    Device,
}

pub struct TestMachine {
    pub mode: Mode,
    pub registers: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [Segment; 6],
    pub vectors: [u128; 16],
    pub cr0: u64,
    pub user: bool,
    pub pages: BTreeMap<u64, (Kind, Vec<u8>)>,
    /// Accesses to devices, as they came out.
    pub accesses: Vec<(Way, u64, u8)>,
    pub translations: usize,
}

/// A flat data segment, of whatever mode.
pub const FLAT: Segment = Segment { selector: 0x10, attributes: 0xc93, limit: 0xffff_ffff, base: 0 };

impl TestMachine {
    pub fn new(code: CodeBits) -> Self {
        let mut segments = [FLAT; 6];
        segments[1] = Segment { selector: 8, attributes: 0xc9b, ..FLAT };
        Self {
            mode: Mode { code, stack: code, protection: Protection::Protected, alignment: Alignment::Free },
            registers: [0; 16],
            rip: 0,
            rflags: 2,
            segments,
            vectors: [0; 16],
            cr0: 0x8001_0031,
            user: false,
            pages: BTreeMap::new(),
            accesses: Vec::new(),
            translations: 0,
        }
    }

    /// A machine with code at 0x1000 and two pages of data at 0x4000.
    pub fn with_code(code: CodeBits, bytes: &[u8]) -> Self {
        let mut machine = Self::new(code);
        machine.map(0x1000, 2, Kind::Memory);
        machine.map(0x4000, 2, Kind::Memory);
        machine.put(0x1000, bytes);
        machine.rip = 0x1000;
        machine
    }

    /// Adds pages of that kind from `start` on, all zero.
    pub fn map(&mut self, start: u64, count: u64, kind: Kind) {
        for page in 0..count {
            self.pages.insert(start + page * 4096, (kind, vec![0; 4096]));
        }
    }

    pub fn put(&mut self, at: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let offset = at as usize & 0xfff;
            let (now, later) = rest.split_at(rest.len().min(4096 - offset));
            if let Some((_, page)) = self.pages.get_mut(&(at & !0xfff)) {
                page[offset..offset + now.len()].copy_from_slice(now);
            }
            (at, rest) = (at + now.len() as u64, later);
        }
    }

    pub fn get(&self, at: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count);
        while bytes.len() < count {
            let at = at + bytes.len() as u64;
            let offset = at as usize & 0xfff;
            let here = (count - bytes.len()).min(4096 - offset);
            bytes.extend_from_slice(&self.pages[&(at & !0xfff)].1[offset..offset + here]);
        }
        bytes
    }

    pub fn word(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.get(at, 8).try_into().unwrap())
    }

    /// Emulates until the instruction is done or fails, playing the devices, whose pages behave as memory.
    pub fn run(&mut self) -> Outcome {
        let mut exchange = Exchange::new();
        for _ in 0..10_000 {
            let outcome = emulate(self, &mut exchange);
            if let Some(wanted) = exchange.wanted().copied() {
                assert_eq!(outcome, Outcome::Wanted);
                self.accesses.push((Way::Read, wanted.gpa.0, wanted.bytes));
                let mut value = [0; 16];
                value[..usize::from(wanted.bytes)].copy_from_slice(&self.get(wanted.gpa.0, wanted.bytes.into()));
                exchange.answer(u128::from_le_bytes(value));
                continue;
            }
            assert_ne!(outcome, Outcome::Wanted, "waits for nothing");
            while let Some(write) = exchange.next_write() {
                self.accesses.push((Way::Write, write.gpa.0, write.bytes));
                self.put(write.gpa.0, &write.value().to_le_bytes()[..usize::from(write.bytes)]);
            }
            if outcome != Outcome::Repeating {
                assert!(exchange.is_idle());
                return outcome;
            }
        }
        panic!("it does not end");
    }

    fn page_fault(&self, address: Gva, touch: Touch) -> Broken {
        let present = self.pages.contains_key(&(address.0 & !0xfff));
        let code = u32::from(present) | u32::from(touch == Touch::Write) << 1 | u32::from(self.user) << 2;
        Broken::Fault(Fault { exception: Exception { vector: Vector::PF, code: Some(code) }, address })
    }
}

impl Machine for TestMachine {
    fn mode(&self) -> Mode {
        self.mode
    }

    fn register(&self, number: u8) -> u64 {
        self.registers[usize::from(number)]
    }

    fn set_register(&mut self, number: u8, value: u64) {
        self.registers[usize::from(number)] = value;
    }

    fn rip(&self) -> u64 {
        self.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }

    fn rflags(&self) -> u64 {
        self.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags;
    }

    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }

    fn cr0(&self) -> u64 {
        self.cr0
    }

    fn set_cr0(&mut self, value: u64) -> Result<(), Broken> {
        if self.user {
            return Err(Broken::Fault(Fault::of(Exception::GP0)));
        }
        self.cr0 = value;
        Ok(())
    }

    fn vector(&mut self, number: u8) -> u128 {
        self.vectors[usize::from(number)]
    }

    fn set_vector(&mut self, number: u8, value: u128) {
        self.vectors[usize::from(number)] = value;
    }

    fn fetch(&mut self, into: &mut [u8; 16]) -> (usize, Option<Broken>) {
        let base = if self.mode.code == CodeBits::Bits64 { 0 } else { self.segments[1].base };
        for (count, byte) in into.iter_mut().take(15).enumerate() {
            let at = base + self.rip + count as u64;
            match self.pages.get(&(at & !0xfff)) {
                Some((Kind::Device, _)) => return (count, Some(Broken::Outside(Gpa(at)))),
                Some((_, page)) => *byte = page[at as usize & 0xfff],
                None => return (count, Some(self.page_fault(Gva(at), Touch::Read))),
            }
        }
        (15, None)
    }

    fn translate(&mut self, address: Gva, touch: Touch) -> Result<Place, Broken> {
        self.translations += 1;
        match self.pages.get(&(address.0 & !0xfff)) {
            Some((Kind::Device, _)) => Ok(Place::Device(Gpa(address.0))),
            Some((Kind::ReadOnly, _)) if touch == Touch::Write => Err(self.page_fault(address, touch)),
            Some(_) => Ok(Place::Memory(Gpa(address.0))),
            None => Err(self.page_fault(address, touch)),
        }
    }

    fn load(&self, at: Gpa, into: &mut [u8]) {
        assert!(at.page_offset() + into.len() <= 4096);
        into.copy_from_slice(&self.get(at.0, into.len()));
    }

    fn store(&mut self, at: Gpa, from: &[u8]) {
        assert!(at.page_offset() + from.len() <= 4096);
        self.put(at.0, from);
    }
}
