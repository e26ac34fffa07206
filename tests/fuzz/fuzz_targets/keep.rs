//! See `meshweft_fuzz::keep`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| meshweft_fuzz::keep(input));
