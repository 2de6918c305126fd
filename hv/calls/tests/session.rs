//! Sessions with a guest that does as it is told: its one instruction makes a call, and the test chooses which, and what is in the outbox.

mod machine;

use core::ops::ControlFlow;
use hv::{Stop, Vm};
use hv_abi::{
    call::{Call, Status},
    function::{Answer, FAILED_MAX_BYTES, Kind, Types, id},
};
use hv_calls::{CallError, Embedder, Functions, Session};
use machine::{BOX_BYTES, Guest, OUTBOX_PAYLOAD, vm};

/// What fits in a box.
const CAPACITY: usize = BOX_BYTES as usize - 32;

/// What the guest does when it is run next: a call, and the first bytes of its outbox.
type Deed = (Call, Vec<u8>);

/// Runs a guest that does these deeds, one a run.
struct Puppet {
    guest: Guest,
    deeds: std::collections::VecDeque<Deed>,
    /// What RAX was each time the guest was run, as it sees the answer to its last call.
    seen: Vec<u64>,
}

impl Puppet {
    fn new(guest: Guest, deeds: impl IntoIterator<Item = Deed>) -> Self {
        Self { guest, deeds: deeds.into_iter().collect(), seen: Vec::new() }
    }
}

impl Embedder for Puppet {
    fn run(&mut self, vm: &mut Vm) -> Stop {
        self.seen.push(vm.vcpu().rax());
        let (call, outbox) = self.deeds.pop_front().expect("the guest has something to do");
        vm.write_physical(OUTBOX_PAYLOAD, &outbox).unwrap();
        self.guest.call(vm, call.encode())
    }

    fn attend(&mut self, _: &mut Vm, stop: Stop) -> ControlFlow<Stop> {
        ControlFlow::Break(stop)
    }
}

fn ready() -> Deed {
    (Call::Serve { answer: Answer::READY }, Vec::new())
}

fn answer(kind: Kind, payload: &[u8]) -> Deed {
    let len = if kind.has_payload() { payload.len() as u32 } else { 0 };
    (Call::Serve { answer: Answer { kind, len } }, payload.to_vec())
}

/// What comes of a call that the guest answers so.
fn call(deed: Deed) -> Result<u32, CallError> {
    let (vm, guest) = vm();
    let (mut puppet, mut functions) = (Puppet::new(guest, [ready(), deed]), Functions::new());
    Session::new(vm, &mut puppet, &mut functions).call::<_, u32>("number", "request")
}

#[test]
fn every_answer_is_a_value_or_its_own_error() {
    assert_eq!(call(answer(Kind::Reply, &[42])), Ok(42));
    assert_eq!(call(answer(Kind::Reply, &[])), Err(CallError::BadReply));
    assert_eq!(call(answer(Kind::Reply, &[42, 0])), Err(CallError::BadReply), "a byte is left over");
    assert_eq!(call(answer(Kind::Reply, &[0xff; 11])), Err(CallError::BadReply), "no number has so many digits");
    assert_eq!(call(answer(Kind::Failed, b"why \xff")), Err(CallError::Failed("why \u{fffd}".into())));
    assert_eq!(call(answer(Kind::UnknownFunction, &[])), Err(CallError::UnknownFunction));
    assert_eq!(call(answer(Kind::BadRequest, &[])), Err(CallError::BadRequest));
    assert_eq!(call(answer(Kind::BadReply, &[])), Err(CallError::BadReply));
    assert_eq!(call(answer(Kind::ReplyTooLarge, &[])), Err(CallError::ReplyTooLarge));
    assert_eq!(call((Call::Exit { code: 3 }, Vec::new())), Err(CallError::Ended(Stop::Exit(3))));
    assert_eq!(call((Call::Nop, Vec::new())), Err(CallError::TimedOut), "the embedder breaks with `Interrupted`");
    let Err(CallError::Failed(text)) = call(answer(Kind::Failed, &[b'x'; CAPACITY])) else { panic!("no text") };
    assert_eq!(text.len() as u64, FAILED_MAX_BYTES, "long texts are cut off");
}

#[test]
fn a_request_arrives_with_its_function_and_length() {
    let (vm, guest) = vm();
    let (mut puppet, mut functions) =
        (Puppet::new(guest, [ready(), answer(Kind::Reply, &[1]), answer(Kind::Reply, &[])]), Functions::new());
    let mut session = Session::new(vm, &mut puppet, &mut functions);
    let types = Types::of::<(u8, String), bool>();
    assert_eq!(session.call_until::<_, bool>(77, "check", &(7u8, "ab")), Ok(true));
    assert_eq!(
        machine::inbox(session.vm(), 36),
        [
            &id("check").to_le_bytes()[..],
            &[4, 0, 0, 0, 0, 0, 0, 0],
            &[77, 0, 0, 0, 0, 0, 0, 0],
            &types.encode().to_le_bytes(),
            &[7, 2, b'a', b'b']
        ]
        .concat()
    );
    let exits = session.vm().vcpu().exits();
    assert_eq!(session.call::<_, ()>("check", &()), Ok(()));
    assert_eq!(session.vm().vcpu().exits() - exits, 1, "the answer, and the wait for the next request, are one exit");
    drop(session);
    assert_eq!(puppet.seen[1..], [4, 0], "the guest is told the length");
}

#[test]
fn requests_that_do_not_fit_go_nowhere() {
    let (vm, guest) = vm();
    let (mut puppet, mut functions) = (Puppet::new(guest, [ready(), answer(Kind::Reply, &[])]), Functions::new());
    let mut session = Session::new(vm, &mut puppet, &mut functions);
    let too_large = "x".repeat(CAPACITY);
    assert_eq!(session.call::<_, ()>("f", &too_large), Err(CallError::RequestTooLarge { capacity: CAPACITY as u64 }));
    assert_eq!(session.call::<_, ()>("f", &too_large[2..]), Ok(()), "the guest still waits");
}

#[test]
fn a_guest_that_does_not_serve_cannot_be_called() {
    let (mut vm, mut guest) = vm();
    guest.call(&mut vm, Call::HostCall { function: 1, len: 0, types: Types::UNKNOWN }.encode());
    let (mut puppet, mut functions) = (Puppet::new(guest, []), Functions::new());
    let mut session = Session::new(vm, &mut puppet, &mut functions);
    assert_eq!(session.call::<_, ()>("f", &()), Err(CallError::NotServing), "it waits for the host's answer: re-entrant");

    let (vm, guest) = machine::vm_without_boxes();
    let (mut puppet, mut functions) = (Puppet::new(guest, []), Functions::new());
    assert_eq!(Session::new(vm, &mut puppet, &mut functions).call::<_, ()>("f", &()), Err(CallError::NoBuffer));
}

#[test]
fn the_guests_calls_are_served_in_the_middle_of_one() {
    let (vm, guest) = vm();
    let typed = |name: &str, types, request: &[u8]| {
        (Call::HostCall { function: id(name), len: request.len() as u64, types }, request.to_vec())
    };
    let host_call = |name: &str, request: &[u8]| typed(name, Types::UNKNOWN, request);
    let deeds = [
        host_call("double", &[21]),
        ready(),
        host_call("double", &[4]),
        host_call("double", &[0xff; 4]),
        host_call("nonesuch", &[]),
        host_call("fail", &[]),
        typed("double", Types::of::<u8, u8>(), &[21]),
        typed("double", Types::of::<bool, u8>(), &[1]),
        typed("double", Types::of::<u8, u64>(), &[1]),
        answer(Kind::Reply, &[9]),
    ];
    let mut puppet = Puppet::new(guest, deeds);
    let mut functions = Functions::new();
    functions.register("double", |number: u8| Ok::<_, &str>(2 * number)).unwrap();
    functions.register("fail", |()| Err::<(), _>("no")).unwrap();
    let mut session = Session::new(vm, &mut puppet, &mut functions);
    assert_eq!(session.call::<_, u8>("f", &()), Ok(9));
    drop(session);
    let untyped = [(Kind::Reply, 1), (Kind::Reply, 1), (Kind::BadRequest, 0), (Kind::UnknownFunction, 0), (Kind::Failed, 2)];
    // What decodes by chance is refused where the guest says that it has other types.
    let typed = [(Kind::Reply, 1), (Kind::BadRequest, 0), (Kind::BadReply, 0)];
    let words: Vec<_> = [&untyped[..], &typed].concat().into_iter().map(|(kind, len)| Answer { kind, len }.encode()).collect();
    assert_eq!([&puppet.seen[1..2], &puppet.seen[3..]].concat(), words);
}

#[test]
fn arbitrary_calls_and_outboxes_do_no_harm() {
    let rounds = if std::env::var_os("HV_DEEP").is_some() { 10_000_000 } else { 20_000 };
    let mut hostile = machine::hostile::Hostile::new();
    let mut random = machine::hostile::Random::new(7);
    for _ in 0..rounds {
        hostile.feed(&random.bytes());
    }
    // The rounds say nothing if nothing gets through.
    let seen = hostile.seen();
    assert!(
        seen.answers > 0 && seen.host_calls > 0 && seen.functions_run > 0 && seen.statuses > 0 && seen.decoded > 0,
        "{seen:?}"
    );
    println!("{seen:?}");
}

#[test]
fn a_status_for_each_call_out_of_place() {
    let (mut vm, mut guest) = vm();
    let mut status = |call: Call| {
        assert_eq!(guest.call(&mut vm, call.encode()), Stop::Interrupted, "{call:?}");
        Status::decode(vm.vcpu().rax()).unwrap_err()
    };
    assert_eq!(status(Call::Serve { answer: Answer::bare(Kind::BadRequest) }), Status::OutOfTurn);
    assert_eq!(status(Call::Serve { answer: Answer { kind: Kind::Reply, len: CAPACITY as u32 + 1 } }), Status::TooLarge);
    assert_eq!(status(Call::HostCall { function: 0, len: u64::MAX, types: Types::UNKNOWN }), Status::TooLarge);
}

#[test]
fn what_is_too_large_depends_on_the_boxes() {
    for box_bytes in [4096, 64 << 10, 256 << 10] {
        let (mut vm, mut guest) = vm();
        machine::give_other_boxes(&mut vm, box_bytes);
        let capacity = box_bytes - 32;
        let mut status = |call: Call| {
            let stop = guest.call(&mut vm, call.encode());
            (stop == Stop::Interrupted).then(|| Status::decode(vm.vcpu().rax()).unwrap_err())
        };
        let host_call = |len| Call::HostCall { function: 0, len, types: Types::UNKNOWN };
        assert_eq!(status(host_call(capacity + 1)), Some(Status::TooLarge));
        assert_eq!(status(ready().0), None);
        let reply = |len: u64| Call::Serve { answer: Answer { kind: Kind::Reply, len: len as u32 } };
        vm.request(id("f"), Types::UNKNOWN, u64::MAX, &[]).unwrap();
        let mut status = |call: Call| {
            let stop = guest.call(&mut vm, call.encode());
            (stop == Stop::Interrupted).then(|| Status::decode(vm.vcpu().rax()).unwrap_err())
        };
        assert_eq!(status(reply(capacity + 1)), Some(Status::TooLarge));
        assert_eq!(status(reply(capacity)), None);
    }
}

#[test]
fn a_session_keeps_to_the_boxes_that_the_guest_has_now() {
    let (vm, guest) = vm();
    let mut puppet = Puppet::new(guest, [ready()].into_iter().chain((0..4).map(|_| answer(Kind::Reply, &[]))));
    let mut functions = Functions::new();
    let mut session = Session::new(vm, &mut puppet, &mut functions);
    assert_eq!(session.call::<_, ()>("f", &()), Ok(()));
    for box_bytes in [64 << 10, 4096] {
        machine::give_other_boxes(session.parts().0, box_bytes);
        let capacity = box_bytes - 32;
        // Such a text's length takes two bytes, or three.
        let text = "x".repeat(capacity as usize - if capacity < 1 << 14 { 2 } else { 3 });
        assert_eq!(session.call::<_, ()>("f", &text), Ok(()));
        assert_eq!(session.call::<_, ()>("f", &format!("{text}x")), Err(CallError::RequestTooLarge { capacity }));
    }
}
