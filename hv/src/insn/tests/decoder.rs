//! The decoder against iced-x86, over random bytes.

use super::generate::Random;
use crate::insn::{
    CodeBits, Instruction, MAX_BYTES, Operand, SegmentName, Undecodable, decode,
    decode::{Lock, NO_REGISTER, RIP, Repeat},
    opcode::{Form, Operation as Op},
};
use iced_x86::{Decoder, DecoderError, DecoderOptions, Mnemonic as M, OpKind, Register};
use std::{env, println, string::String, vec::Vec};

/// Bytes that make prefixes and two-byte opcodes likelier than chance would.
fn bytes(random: &mut Random) -> [u8; 16] {
    const COMMON: [u8; 16] = [0x66, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0, 0xf2, 0xf3, 0x0f, 0x48, 0x44, 0x4f, 0x0f];
    let mut bytes: [u8; 16] = core::array::from_fn(|_| random.next() as u8);
    let prefixes = random.below(4) as usize * usize::from(!random.one_in(3));
    for byte in &mut bytes[..prefixes] {
        *byte = COMMON[random.below(16) as usize];
    }
    if random.one_in(64) {
        bytes[..13].fill(COMMON[random.below(11) as usize]);
    }
    if random.one_in(3) {
        bytes[prefixes] = 0x0f;
        if random.one_in(8) {
            bytes[prefixes + 1] = 0x38;
            bytes[prefixes + 2] = [0xf0, 0xf1, 0x2a][random.below(3) as usize];
        }
    }
    bytes
}

/// The instructions that one operation stands for.
fn mnemonics(insn: &Instruction) -> &'static [M] {
    match insn.operation {
        Op::Add => &[M::Add],
        Op::Or => &[M::Or],
        Op::Adc => &[M::Adc],
        Op::Sbb => &[M::Sbb],
        Op::And => &[M::And],
        Op::Sub => &[M::Sub],
        Op::Xor => &[M::Xor],
        Op::Cmp => &[M::Cmp],
        Op::Rol => &[M::Rol],
        Op::Ror => &[M::Ror],
        Op::Rcl => &[M::Rcl],
        Op::Rcr => &[M::Rcr],
        Op::Shl => &[M::Shl, M::Sal],
        Op::Shr => &[M::Shr],
        Op::Sar => &[M::Sar],
        Op::Test => &[M::Test],
        Op::Not => &[M::Not],
        Op::Neg => &[M::Neg],
        Op::Inc => &[M::Inc],
        Op::Dec => &[M::Dec],
        Op::Mul => &[M::Mul],
        Op::Imul | Op::ImulReg => &[M::Imul],
        Op::Div => &[M::Div],
        Op::Idiv => &[M::Idiv],
        Op::Mov => &[M::Mov, M::Movnti],
        Op::MovSegment => &[M::Mov],
        Op::MovZeroExtend => &[M::Movzx],
        Op::MovSignExtend => &[M::Movsx, M::Movsxd],
        Op::Movbe => &[M::Movbe],
        Op::Xchg => &[M::Xchg],
        Op::Xadd => &[M::Xadd],
        Op::Cmpxchg => &[M::Cmpxchg],
        Op::Invlpg => &[M::Invlpg],
        Op::Smsw => &[M::Smsw],
        Op::Lmsw => &[M::Lmsw],
        Op::CmpxchgWide => &[M::Cmpxchg8b, M::Cmpxchg16b],
        Op::Shld => &[M::Shld],
        Op::Shrd => &[M::Shrd],
        Op::Bt => &[M::Bt],
        Op::Bts => &[M::Bts],
        Op::Btr => &[M::Btr],
        Op::Btc => &[M::Btc],
        Op::Bsf => &[M::Bsf],
        Op::Bsr => &[M::Bsr],
        Op::Popcnt => &[M::Popcnt],
        Op::Setcc => &[
            M::Seto,
            M::Setno,
            M::Setb,
            M::Setae,
            M::Sete,
            M::Setne,
            M::Setbe,
            M::Seta,
            M::Sets,
            M::Setns,
            M::Setp,
            M::Setnp,
            M::Setl,
            M::Setge,
            M::Setle,
            M::Setg,
        ],
        Op::Cmovcc => &[
            M::Cmovo,
            M::Cmovno,
            M::Cmovb,
            M::Cmovae,
            M::Cmove,
            M::Cmovne,
            M::Cmovbe,
            M::Cmova,
            M::Cmovs,
            M::Cmovns,
            M::Cmovp,
            M::Cmovnp,
            M::Cmovl,
            M::Cmovge,
            M::Cmovle,
            M::Cmovg,
        ],
        Op::Push | Op::PushSegment => &[M::Push],
        Op::Pushf => &[M::Pushf, M::Pushfd, M::Pushfq],
        Op::Pop => &[M::Pop],
        Op::Call => &[M::Call],
        Op::Jmp => &[M::Jmp],
        Op::Ret => &[M::Ret],
        Op::Leave => &[M::Leave],
        Op::Xlat => &[M::Xlatb],
        Op::Movs => &[M::Movsb, M::Movsw, M::Movsd, M::Movsq],
        Op::Cmps => &[M::Cmpsb, M::Cmpsw, M::Cmpsd, M::Cmpsq],
        Op::Stos => &[M::Stosb, M::Stosw, M::Stosd, M::Stosq],
        Op::Lods => &[M::Lodsb, M::Lodsw, M::Lodsd, M::Lodsq],
        Op::Scas => &[M::Scasb, M::Scasw, M::Scasd, M::Scasq],
        Op::Ins => &[M::Insb, M::Insw, M::Insd],
        Op::Outs => &[M::Outsb, M::Outsw, M::Outsd],
        Op::VectorLoad => &[
            M::Movups,
            M::Movupd,
            M::Movss,
            M::Movsd,
            M::Movaps,
            M::Movapd,
            M::Movd,
            M::Movq,
            M::Movdqa,
            M::Movdqu,
            M::Lddqu,
            M::Movntdqa,
        ],
        Op::VectorLoadLow => &[M::Movlps, M::Movlpd],
        Op::VectorLoadHigh => &[M::Movhps, M::Movhpd],
        Op::VectorLoadTwice => &[M::Movddup],
        Op::VectorStore => &[
            M::Movups,
            M::Movupd,
            M::Movss,
            M::Movsd,
            M::Movaps,
            M::Movapd,
            M::Movd,
            M::Movq,
            M::Movdqa,
            M::Movdqu,
            M::Movlps,
            M::Movlpd,
            M::Movntps,
            M::Movntpd,
            M::Movntdq,
        ],
        Op::VectorStoreHigh => &[M::Movhps, M::Movhpd],
        Op::Nop => &[
            M::Nop,
            M::Prefetch,
            M::Prefetchw,
            M::Prefetchwt1,
            M::Prefetchnta,
            M::Prefetcht0,
            M::Prefetcht1,
            M::Prefetcht2,
            M::Reservednop,
        ],
    }
}

fn number(register: Register) -> u8 {
    match register {
        Register::None => NO_REGISTER,
        Register::RIP | Register::EIP => RIP,
        other => other.number() as u8,
    }
}

fn segment(register: Register) -> SegmentName {
    SegmentName::from_encoding(register.number() as u8).unwrap()
}

fn bits(code: CodeBits) -> u32 {
    8 * u32::from(code.bytes())
}

/// Compares with what iced says, memory operand and immediate included.
fn agree(code: CodeBits, raw: &[u8; 16], ours: &Instruction) {
    let text = || std::format!("{:x?} in {code:?}: {ours:x?}", &raw[..15]);
    let iced =
        Decoder::with_ip(bits(code), &raw[..MAX_BYTES], 0, DecoderOptions::AMD | DecoderOptions::FORCE_RESERVED_NOP).decode();
    assert!(!iced.is_invalid(), "iced finds it invalid: {}", text());
    assert_eq!(iced.len(), usize::from(ours.length), "length of {iced:?}: {}", text());
    assert!(mnemonics(ours).contains(&iced.mnemonic()), "iced says {:?}: {}", iced.mnemonic(), text());
    if matches!(ours.operation, Op::Setcc | Op::Cmovcc) {
        assert_eq!(mnemonics(ours)[usize::from(ours.condition)], iced.mnemonic(), "{}", text());
    }
    assert_eq!(iced.has_lock_prefix(), ours.lock == Lock::Locked, "{}", text());
    let string = matches!(ours.operation, Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas | Op::Ins | Op::Outs);
    if string {
        assert_eq!(iced.has_rep_prefix() || iced.has_repne_prefix(), ours.repeat != Repeat::No, "{}", text());
        let element = iced.memory_size().size();
        assert_eq!(element, usize::from(ours.bytes), "{}", text());
        let source = (0..iced.op_count())
            .any(|at| matches!(iced.op_kind(at), OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI));
        if source {
            let Operand::Memory(address) = ours.rm else { panic!("{}", text()) };
            check_segment(code, address.segment, &iced, &text);
        }
        return;
    }
    for at in 0..iced.op_count() {
        match iced.op_kind(at) {
            OpKind::Memory if ours.form != Form::Implied => {
                let Operand::Memory(address) = ours.rm else { panic!("{}", text()) };
                assert_eq!(
                    (address.base, address.index),
                    (number(iced.memory_base()), number(iced.memory_index())),
                    "{}",
                    text()
                );
                assert_eq!(
                    1 << address.scale,
                    if address.index == NO_REGISTER { 1 << address.scale } else { iced.memory_index_scale() }
                );
                let mask = crate::insn::flags::mask(ours.address_bytes);
                // iced reckons the displacement from RIP out.
                let counted = if address.base == RIP { u64::from(ours.length) } else { 0 };
                assert_eq!(address.displacement.wrapping_add(counted) & mask, iced.memory_displacement64() & mask, "{}", text());
                check_segment(code, address.segment, &iced, &text);
                let size = iced.memory_size().size();
                let our_size = match ours.operation {
                    Op::MovSegment => 2,
                    Op::MovZeroExtend | Op::MovSignExtend => ours.source,
                    Op::CmpxchgWide => ours.bytes,
                    _ => ours.bytes,
                };
                // iced follows Intel: MOVSXD with 66h reads 16 bits. AMD's processors read 32, which `native` shows.
                if !matches!(ours.operation, Op::Nop | Op::Invlpg) && iced.code() != iced_x86::Code::Movsxd_r16_rm16 {
                    assert_eq!(size, usize::from(our_size), "{iced:?} {}", text());
                }
            }
            OpKind::Register if ours.operation == Op::MovSegment => {}
            OpKind::Register => {
                let register = iced.op_register(at);
                let high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
                let full = if register.is_gpr() { register.full_register() } else { register };
                let encoding = full.number() as u8 + if high { 4 } else { 0 };
                assert_eq!(high, ours.high_bytes && register.size() == 1 && encoding & 12 == 4, "{register:?}: {}", text());
                let rm = Operand::Register(encoding);
                let known = ours.rm == rm || ours.reg == encoding || register == Register::CL;
                assert!(known || ours.operation == Op::PushSegment, "{register:?}: {}", text());
            }
            OpKind::Immediate8
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate32to64 => {
                // Shifts by one name it without a byte.
                let value = if ours.form == Form::RmOne { 1 } else { ours.immediate };
                let mask = crate::insn::flags::mask(match iced.op_kind(at) {
                    OpKind::Immediate8 => 1,
                    OpKind::Immediate16 | OpKind::Immediate8to16 => 2,
                    OpKind::Immediate32 | OpKind::Immediate8to32 => 4,
                    _ => 8,
                });
                assert_eq!(value & mask, iced.immediate(at) & mask, "{}", text());
            }
            _ => {}
        }
    }
}

/// Compares segments. In 64-bit mode, iced names those of ignored prefixes too.
fn check_segment(code: CodeBits, ours: SegmentName, iced: &iced_x86::Instruction, text: &dyn Fn() -> String) {
    let theirs = segment(iced.memory_segment());
    let has_base = |name| matches!(name, SegmentName::Fs | SegmentName::Gs);
    assert!(ours == theirs || code == CodeBits::Bits64 && !has_base(ours) && !has_base(theirs), "{theirs:?}: {}", text());
}

/// Whether iced finds an instruction there that accesses memory and is one of those that are carried out here.
fn is_ours(code: CodeBits, raw: &[u8; 16]) -> Option<M> {
    let mut decoder = Decoder::with_ip(bits(code), &raw[..MAX_BYTES], 0, DecoderOptions::AMD);
    let iced = decoder.decode();
    let vex = iced.code().op_code().encoding() != iced_x86::EncodingKind::Legacy;
    let accesses = (0..iced.op_count()).any(|at| iced.op_kind(at) == OpKind::Memory);
    let mmx = (0..iced.op_count()).any(|at| iced.op_kind(at) == OpKind::Register && iced.op_register(at).is_mm());
    let loads_segment =
        iced.mnemonic() == M::Mov && iced.op0_kind() == OpKind::Register && iced.op0_register().is_segment_register();
    let far = iced.is_call_far_indirect() || iced.is_jmp_far_indirect();
    if vex || !accesses || decoder.last_error() != DecoderError::None || iced.is_invalid() || mmx || loads_segment || far {
        return None;
    }
    MUST.contains(&iced.mnemonic()).then_some(iced.mnemonic())
}

/// What must be decoded wherever it accesses memory.
const MUST: &[M] = &[
    M::Add,
    M::Or,
    M::Adc,
    M::Sbb,
    M::And,
    M::Sub,
    M::Xor,
    M::Cmp,
    M::Test,
    M::Inc,
    M::Dec,
    M::Neg,
    M::Not,
    M::Rol,
    M::Ror,
    M::Rcl,
    M::Rcr,
    M::Shl,
    M::Sal,
    M::Shr,
    M::Sar,
    M::Shld,
    M::Shrd,
    M::Bt,
    M::Bts,
    M::Btr,
    M::Btc,
    M::Xchg,
    M::Cmpxchg,
    M::Cmpxchg8b,
    M::Cmpxchg16b,
    M::Xadd,
    M::Mov,
    M::Movzx,
    M::Movsx,
    M::Movsxd,
    M::Movbe,
    M::Imul,
    M::Mul,
    M::Div,
    M::Idiv,
    M::Push,
    M::Pop,
    M::Call,
    M::Jmp,
    M::Movups,
    M::Movaps,
    M::Movupd,
    M::Movapd,
    M::Movdqa,
    M::Movdqu,
    M::Movd,
    M::Movq,
    M::Movss,
    M::Movntps,
    M::Movntpd,
    M::Movntdq,
    M::Movnti,
    M::Movntdqa,
    M::Lddqu,
    M::Movlps,
    M::Movhps,
    M::Movddup,
    M::Seto,
    M::Setg,
    M::Cmovo,
    M::Cmovg,
    M::Bsf,
    M::Bsr,
    M::Popcnt,
    M::Smsw,
    M::Lmsw,
];

fn is_deep() -> bool {
    env::var_os("HV_DEEP").is_some()
}

#[test]
fn the_decoder_agrees_with_a_full_one() {
    let rounds = if is_deep() { 30_000_000 } else { 300_000 };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut found, mut refused) = (0u64, 0u64);
    for round in 0..rounds {
        let raw = bytes(&mut random);
        let code = [CodeBits::Bits64, CodeBits::Bits32, CodeBits::Bits16][round % 3];
        match decode(&raw, code) {
            Ok(insn) => {
                agree(code, &raw, &insn);
                found += 1;
            }
            Err(Undecodable::Unknown | Undecodable::Undefined) => {
                assert_eq!(is_ours(code, &raw), None, "not decoded: {:x?} in {code:?}", &raw[..15]);
                refused += 1;
            }
            Err(Undecodable::TooLong) => {
                let mut decoder = Decoder::new(bits(code), &raw, DecoderOptions::AMD);
                let iced = decoder.decode();
                assert!(iced.is_invalid(), "not too long: {:x?} in {code:?}", &raw[..15]);
            }
        }
    }
    assert!(found > rounds as u64 / 4, "{found}");
    println!("{rounds} byte strings: {found} decoded as iced does, {refused} refused");
}

#[test]
fn every_opcode_is_decoded_as_the_full_decoder_does() {
    let prefixes: [&[u8]; 12] = [
        &[],
        &[0x66],
        &[0x67],
        &[0xf2],
        &[0xf3],
        &[0x66, 0xf2],
        &[0x48],
        &[0x4f],
        &[0x66, 0x48],
        &[0xf0],
        &[0x64],
        &[0xf3, 0x48],
    ];
    for code in [CodeBits::Bits16, CodeBits::Bits32, CodeBits::Bits64] {
        for (map, prefix) in [&[][..], &[0x0f], &[0x0f, 0x38]].into_iter().flat_map(|map| prefixes.map(|prefix| (map, prefix))) {
            for opcode in 0..=255 {
                // Every register field, each kind of memory operand; all of them when there is time.
                for modrm in (0..=255u8).filter(|modrm| is_deep() || modrm & 7 == 4 + (modrm >> 3 & 1) && *modrm < 0xd0) {
                    let mut raw = [0x11; 16];
                    let start: Vec<u8> = [prefix, map, &[opcode, modrm, 0x24]].concat();
                    raw[..start.len()].copy_from_slice(&start);
                    match decode(&raw, code) {
                        Ok(insn) => agree(code, &raw, &insn),
                        Err(_) => assert_eq!(is_ours(code, &raw), None, "not decoded: {start:x?} in {code:?}"),
                    }
                }
            }
        }
    }
}
