//! See `meshweft_fuzz::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| meshweft_fuzz::answer(input));
