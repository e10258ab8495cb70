//! What must not compile does not.

#[test]
fn verified_is_made_by_verification_alone() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
