//! Any bytes against the target `manifests` of `collegium_tests::fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| collegium_tests::fuzzed::run("manifests", bytes));
