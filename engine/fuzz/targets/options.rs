#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nokv_engine::fuzzing::options(data));
