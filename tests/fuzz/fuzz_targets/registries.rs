//! Any bytes against the target `registries` of `collegium_tests::fuzzed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| collegium_tests::fuzzed::run("registries", bytes));
