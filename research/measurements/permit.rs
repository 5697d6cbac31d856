//! What a permit's check costs, as it is made before every token: a scratch program, not part of the build.
//!
//!     cargo build --release -p quorate-core && rustc -O --edition 2024 research/measurements/permit.rs \
//!         -L dependency=target/release/deps --extern quorate_core=target/release/libquorate_core.rlib && ./permit

use quorate_core::config::MeshConfig;
use quorate_core::governance::{Genesis, Records, Rights, fold};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    // The key of ed25519's base point: nothing is signed with it.
    let mut person = [0x66; 32];
    person[0] = 0x58;
    let genesis = Genesis::new(vec![person], MeshConfig::default()).unwrap();
    let rights = Rights::alone().under(fold(&genesis, &Records::default()));
    let permit = rights.mesh().unwrap();
    let local = rights.local();
    const N: u32 = 20_000_000;
    for round in 0..5 {
        for (name, permit) in [("mesh", permit), ("local", local)] {
            let began = Instant::now();
            for _ in 0..N {
                assert!(black_box(&rights).check(black_box(permit)).is_ok());
            }
            let ns = began.elapsed().as_nanos() as f64 / f64::from(N);
            println!("round {round} {name} {ns:.2} ns");
        }
    }
}
