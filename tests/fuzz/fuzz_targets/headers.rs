//! See `meshweft_fuzz::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| meshweft_fuzz::headers(input));
