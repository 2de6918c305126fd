//! What the attributes say to code that they cannot use.

#[test]
fn mistakes_are_told_what_to_write() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_errors/*.rs");
}
