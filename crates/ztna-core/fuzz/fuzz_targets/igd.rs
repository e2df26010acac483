#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ztna_core::wire::fuzz::igd(data));
