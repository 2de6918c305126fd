//! Makes the images of random guests.

/// Where things lie in the image, which is loaded at 7C00h (`tests/kernels/random.S`).
const PARAMETERS: usize = 0x8400 - 0x7c00;
const CODE: usize = 0x9000 - 0x7c00;
const CODE_BYTES: usize = 0x800;
const MODES: u64 = 11;
/// The page that only the supervisor may use.
const SUPERVISORS_PAGE: u64 = 0x2_0000;
/// Addresses that mean something: vectors, descriptor tables, TSS, code, page tables, the end of memory, what lies behind it, the APIC, the end of each half.
const ADDRESSES: [u64; 25] = [
    0,
    0x500,
    0x2000,
    0x3000,
    0x4000,
    0x6800,
    0x6ff0,
    0x7c00,
    0x9000,
    0x9ffe,
    0x1_0000,
    0x1_1000,
    0x1_2000,
    0x1_3000,
    0x1_4000,
    0x1_5000,
    0x1_6000,
    SUPERVISORS_PAGE,
    0x20_0000,
    0x3f_fffe,
    0x40_0000,
    0xfee0_0000,
    0xffff_fff0,
    0x7fff_ffff_ffff,
    0xffff_8000_0000_0000,
];
const MSRS: [u32; 28] = [
    0x10,
    0x1b,
    0xfe,
    0x174,
    0x175,
    0x176,
    0x179,
    0x1d9,
    0x277,
    0x6e0,
    0x802,
    0x808,
    0x80b,
    0x830,
    0x832,
    0x838,
    0x83f,
    0x4856_0001,
    0x4856_0004,
    0xc000_0080,
    0xc000_0081,
    0xc000_0082,
    0xc000_0084,
    0xc000_0100,
    0xc000_0101,
    0xc000_0102,
    0xc001_0114,
    0xc001_0117,
];

/// Makes random guests.
pub struct Generator {
    state: u64,
    mode: u64,
    code: Vec<u8>,
}

impl Generator {
    pub fn new(number: u64) -> Self {
        // Not the state of its neighbours, a few steps on.
        let mut generator = Self { state: number.wrapping_mul(0xd134_2543_de82_ef95), mode: number % MODES, code: Vec::new() };
        generator.next();
        generator
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn address(&mut self) -> u64 {
        let near = self.below(64);
        self.one(&ADDRESSES).wrapping_add(near)
    }

    /// The frame with mode, registers and code.
    pub fn image(mut self, frame: &[u8]) -> Vec<u8> {
        let mut image = frame.to_vec();
        image.resize(CODE, 0);
        image[PARAMETERS] = self.mode as u8;
        for register in 0..16 {
            let value = if self.below(3) == 0 { self.next() } else { self.address() };
            let at = PARAMETERS + 16 + register * 8;
            image[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        while self.code.len() < CODE_BYTES {
            self.instruction();
        }
        self.code.truncate(CODE_BYTES);
        image.append(&mut self.code);
        image
    }

    fn put(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// Whether the guest's code begins in 64-bit mode; in 16-bit modes.
    const fn is_64(&self) -> bool {
        matches!(self.mode, 5 | 10)
    }

    const fn is_16(&self) -> bool {
        matches!(self.mode, 0 | 2 | 8)
    }

    /// MOV of 32 bits to a register, by its encoding.
    fn load(&mut self, register: u8, value: u32) {
        if self.is_16() {
            self.put(&[0x66]);
        }
        self.put(&[0xb8 | register]);
        self.put(&value.to_le_bytes());
    }

    fn instruction(&mut self) {
        match self.below(40) {
            0..=2 => {
                let bytes = self.next().to_le_bytes();
                let count = 1 + self.below(6) as usize;
                self.put(&bytes[..count]);
            }
            3..=5 => self.memory_access(),
            6..=8 => self.msr(),
            9..=11 => self.port(),
            12..=14 => self.control_register(),
            15 | 16 => self.debug_register(),
            17..=19 => self.exiting(),
            20..=22 => self.svm(),
            23 | 24 => self.system(),
            25 => self.segments(),
            26 => self.doorbell(),
            27 | 28 => self.interrupts(),
            29 => self.string(),
            30 => self.jump(),
            _ => self.arithmetic(),
        }
    }

    fn memory_access(&mut self) {
        // Now and then the supervisor's page.
        let address = if self.below(8) == 0 { SUPERVISORS_PAGE } else { self.address() };
        let register = self.below(8) as u8;
        self.load(3, address as u32);
        let opcode = self.one(&[0x8a, 0x8b, 0x88, 0x89, 0x01, 0x31, 0x87, 0xff]);
        // [EBX], or [BP + DI].
        let mode = if self.is_16() { [0x67, opcode, register << 3 | 3] } else { [0x3e, opcode, register << 3 | 3] };
        self.put(&mode);
    }

    fn msr(&mut self) {
        let msr = if self.below(8) == 0 { self.next() as u32 } else { self.one(&MSRS) };
        self.load(1, msr);
        if self.below(2) == 0 {
            let value = match msr {
                0xc000_0080 => self.one(&[0, 0x100, 0x500, 0x501, 0x901, 0xd01, 0x1d01]),
                0x83f => 0x20 + self.below(0xe0),
                0x830 => self.one(&[0x4_0030, 0x4_0400, 0x8_0041]),
                _ => self.address(),
            };
            self.load(0, value as u32);
            if self.below(2) == 0 {
                self.load(2, (value >> 32) as u32);
            }
            self.put(&[0x0f, 0x30]);
        } else {
            self.put(&[0x0f, 0x32]);
        }
    }

    fn port(&mut self) {
        let port = self.one(&[0x3f8, 0x3fd, 0x60, 0xcf8, 0x1234, 0xe9, 0xffff, 0x4857]);
        self.load(2, port);
        let (short, long) = (self.one(&[0xe4, 0xe5, 0xe6, 0xe7]), self.one(&[0xec, 0xed, 0xee, 0xef]));
        let immediate = self.one(&[0x60, 0x80, 0xe9, 0x21]);
        if self.below(2) == 0 { self.put(&[short, immediate]) } else { self.put(&[long]) }
    }

    fn control_register(&mut self) {
        let (number, register) = (self.one(&[0, 0, 3, 4, 2, 8, 1, 5]), self.below(8) as u8);
        let value = match number {
            0 => self.one(&[0x11, 0x8005_0033, 0x8001_0011, 0x8000_0011, 0x6000_0010, 0x8004_0033, 0x31, 0x8005_003b]),
            3 => self.one(&[0x1_0000, 0x1_2000, 0x1_5000, 0, 0x7000, 0xffff_f000]),
            4 => self.one(&[0, 0x10, 0x20, 0x30, 0xa0, 0x620, 0x640, 0x10_0020, 0x20_0020, 0x2000]),
            _ => self.next() as u32 & 0xf,
        };
        let (number, prefix) = if number == 8 { (0, 0x44) } else { (number, 0x90) };
        if self.below(3) == 0 {
            self.put(&[prefix, 0x0f, 0x20, 0xc0 | number << 3 | register]);
        } else {
            self.load(register & 3, value);
            self.put(&[prefix, 0x0f, 0x22, 0xc0 | number << 3 | register & 3]);
        }
        if self.below(4) == 0 {
            let status = self.one(&[[0x0f, 0x01, 0xe0], [0x0f, 0x01, 0xf0], [0x90, 0x0f, 0x06]]);
            self.put(&status);
        }
    }

    fn debug_register(&mut self) {
        let (number, direction) = (self.below(8) as u8, self.one(&[0x21, 0x23]));
        let value = self.one(&[0, 0x401, 0x2400, 0x9000, 0xffff_0ff0, 0xffff_ffff]);
        self.load(0, value);
        self.put(&[0x0f, direction, 0xc0 | number << 3]);
    }

    fn exiting(&mut self) {
        let leaf = self.one(&[0, 1, 7, 0xd, 0x4000_0000, 0x8000_0001, 0x8000_0008, 0x8000_000a]);
        let pick: &[u8] = self.one(&[
            &[0x0f, 0xa2],
            &[0x0f, 0xa2],
            &[0x0f, 0x33],
            &[0x0f, 0xaa],
            &[0x0f, 0x09],
            &[0x0f, 0x08],
            &[0x0f, 0x01, 0xc8],
            &[0x0f, 0x01, 0xc9],
            &[0x0f, 0x01, 0xc8],
            &[0x0f, 0x01, 0xd1],
            &[0x0f, 0x01, 0xf9],
            &[0x0f, 0x31],
            &[0xf1],
            &[0x0f, 0x01, 0x3b],
            &[0x0f, 0x01, 0x38],
            &[0x0f, 0x01, 0xd9],
        ]);
        self.load(0, leaf);
        self.put(pick);
    }

    fn svm(&mut self) {
        let last = self.one(&[0xd8, 0xd9, 0xda, 0xdb, 0xdc, 0xdd, 0xde, 0xdf]);
        let address = self.address();
        self.load(0, address as u32 & !0xfff);
        self.put(&[0x0f, 0x01, last]);
    }

    fn system(&mut self) {
        let address = self.address();
        self.load(3, address as u32);
        let pick: &[u8] = self.one(&[
            &[0x0f, 0x01, 0x03],
            &[0x0f, 0x01, 0x0b],
            &[0x0f, 0x00, 0xc8],
            &[0x0f, 0x00, 0xc0],
            &[0x0f, 0x00, 0xd0],
            &[0x0f, 0x00, 0xd8],
            &[0x9c],
            &[0x9d],
            &[0xcf],
            &[0x0f, 0x05],
            &[0x0f, 0x34],
            &[0xcc],
            &[0xce],
            &[0x9c, 0x58, 0x0d, 0x00, 0x01, 0x00, 0x00, 0x50, 0x9d],
        ]);
        self.put(pick);
        if self.below(12) == 0 {
            let table = self.one(&[[0x0f, 0x01, 0x13], [0x0f, 0x01, 0x1b]]);
            self.put(&table);
        }
    }

    fn segments(&mut self) {
        let selector = self.one(&[0, 8, 0x10, 0x18, 0x20, 0x2b, 0x33, 0x38, 0x40, 0x50, 0x5b, 0x60, 0xfff8]);
        let register = self.one(&[0, 3, 4, 5]);
        self.load(0, selector);
        self.put(&[0x8e, 0xc0 | register << 3]);
        if self.below(6) == 0 {
            let table = self.one(&[[0x0f, 0x00, 0xd0], [0x0f, 0x00, 0xd8]]);
            self.put(&table);
        }
    }

    /// A call, but none that leaves.
    fn doorbell(&mut self) {
        let (call, argument) = (self.one(&[0, 0, 0, 1, 4, 6, 8, 9, 99]), self.address());
        self.load(0, call);
        self.load(7, argument as u32);
        self.load(2, 0x4856);
        if self.is_16() {
            self.put(&[0x66]);
        }
        self.put(&[0xef]);
    }

    /// Interrupts of its own APIC, and flags that hold them back or let them in.
    fn interrupts(&mut self) {
        let vector = 0x20 + self.below(0xe0) as u32;
        match self.below(5) {
            // An NMI to itself: behind it, IRET is watched.
            0 => {
                self.load(1, 0x830);
                self.load(0, 0x4_0400);
                self.load(2, 0);
                self.put(&[0x0f, 0x30, 0x90]);
            }
            1 | 2 => {
                if self.below(2) == 0 {
                    self.put(&[0xfa]);
                }
                self.load(1, 0x83f);
                self.load(0, vector);
                self.load(2, 0);
                self.put(&[0x0f, 0x30, 0x90, 0x90, 0xfb, 0x90]);
                self.load(1, 0x80b);
                self.load(0, 0);
                self.put(&[0x0f, 0x30]);
            }
            3 => self.put(&[0xfb]),
            _ if self.below(4) == 0 => self.put(&[0xfb, 0xf4]),
            _ => self.put(&[0xcd, vector as u8]),
        }
    }

    fn string(&mut self) {
        let (from, to, port) = (self.address(), self.address(), self.one(&[0x3f8, 0x1234, 0xe9]));
        self.load(6, from as u32);
        self.load(7, to as u32);
        self.load(2, port);
        let count = self.below(5) as u32;
        self.load(1, count);
        let (prefix, opcode) =
            (self.one(&[0xf3, 0xf2, 0x66, 0x90]), self.one(&[0x6c, 0x6d, 0x6e, 0x6f, 0xa4, 0xa5, 0xaa, 0xab, 0xac]));
        self.put(&[prefix, opcode]);
    }

    fn jump(&mut self) {
        let back = self.below(0x60) as u8;
        match self.below(5) {
            0 => self.put(&[0xeb, 0u8.wrapping_sub(back)]),
            1 => self.put(&[0x74, back & 0x1f]),
            2 => self.put(&[0x50, 0xc3]),
            3 if !self.is_64() => {
                let selector = self.one(&[8, 0x18, 0x38, 0x2b, 0x40, 0x50]);
                self.put(&[0xea]);
                self.put(&[0x00, 0x90]);
                if !self.is_16() {
                    self.put(&[0, 0]);
                }
                self.put(&[selector, 0]);
            }
            _ => self.put(&[0xe2, 0xfa]),
        }
    }

    fn arithmetic(&mut self) {
        let (register, value) = (self.below(8) as u8, self.next() as u8);
        let pick = self.one(&[[0x83, 0xc0], [0x83, 0xf0], [0x6b, 0xc0], [0xc1, 0xc0]]);
        // Not ESP.
        let register = if register == 4 { 0 } else { register };
        self.put(&[pick[0], pick[1] | register, value]);
    }
}
