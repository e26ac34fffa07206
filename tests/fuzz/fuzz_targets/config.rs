//! See `meshweft_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| meshweft_fuzz::config(input));
