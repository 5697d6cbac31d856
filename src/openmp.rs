//! How long llama.cpp's threads spin at a barrier before they sleep.
//!
//! libgomp spins for milliseconds unless told otherwise. On an idle machine that is free; as soon as
//! anything else wants a core, threads burn their time waiting for one that has none, and a token takes
//! hundreds of times as long. Twenty-five microseconds keep all of the idle speed, and the speed beside
//! neighbours stays one that a person can read at (research/measurements/openmp.md). libgomp reads its environment before `main` and never again, so
//! the program starts itself once more, with the variable set.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering, compiler_fence};
use std::time::{Duration, Instant};

/// Two threads that both have a core wait 5 us for each other. Several times that, for machines with
/// more cores, or with unequal ones: there, to sleep too soon costs more than half of the speed.
const SPIN: Duration = Duration::from_micros(25);
/// What libgomp counts are looks at the barrier. A processor without a pause instruction looks a
/// thousand times in a microsecond, one with a slow one ten times.
const LOOKS_MIN: u32 = 50;
const LOOKS_MAX: u32 = 100_000;
/// Looks per measurement, and measurements: the quickest was the one that nothing interrupted.
const LOOKS: u32 = 1_000;
const MEASUREMENTS: u32 = 5;

/// Whoever sets one of these knows better.
const SPIN_COUNT: &str = "GOMP_SPINCOUNT";
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// Starts this program anew if the OpenMP runtime has to be told something. Call it before anything
/// else: whatever was done before is done twice. Returns if there is nothing to tell, or no way to.
pub fn settle() {
    let told = [SPIN_COUNT, WAIT_POLICY]
        .iter()
        .any(|name| std::env::var_os(name).is_some());
    if cfg!(all(target_os = "linux", feature = "llama")) && !told {
        restart_with(looks_in(SPIN, look_ns()));
    }
}

#[cfg(unix)]
fn restart_with(looks: u32) {
    use std::os::unix::process::CommandExt;
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| program.clone().into());
    // Returns only if it failed (the file was replaced meanwhile, say): then we are slower, not broken.
    let _error = std::process::Command::new(program)
        .arg0(name)
        .args(arguments)
        .env(SPIN_COUNT, looks.to_string())
        .exec();
}

#[cfg(not(unix))]
fn restart_with(_looks: u32) {}

/// Nanoseconds of one look, as libgomp does it: a load, and on x86 a pause.
fn look_ns() -> f64 {
    let barrier = AtomicBool::new(false);
    let measured = (0..MEASUREMENTS).map(|_| {
        let begun = Instant::now();
        for _ in 0..LOOKS {
            if black_box(&barrier).load(Ordering::Relaxed) {
                break;
            }
            if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
                std::hint::spin_loop();
            } else {
                compiler_fence(Ordering::SeqCst);
            }
        }
        begun.elapsed().as_nanos() as f64 / f64::from(LOOKS)
    });
    measured.fold(f64::INFINITY, f64::min)
}

fn looks_in(time: Duration, look_ns: f64) -> u32 {
    let looks = time.as_nanos() as f64 / look_ns.max(0.01);
    // A float becomes the nearest integer there is.
    (looks as u32).clamp(LOOKS_MIN, LOOKS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spin_takes_its_time_on_any_processor() {
        assert_eq!(looks_in(SPIN, 25.0), 1_000, "with a pause of 25 ns");
        assert_eq!(looks_in(SPIN, 1.0), 25_000, "without a pause");
        assert_eq!(looks_in(SPIN, 1e9), LOOKS_MIN, "a clock that jumped");
        for broken in [0.0, -1.0, f64::NAN] {
            assert_eq!(looks_in(SPIN, broken), LOOKS_MAX, "{broken}");
        }
    }

    #[test]
    fn a_look_is_quicker_than_the_spin() {
        let ns = look_ns();
        assert!(ns > 0.0 && ns < 10_000.0, "{ns}");
    }
}
