//! Busy for the seconds given in f04 below f03 … f00, in closures called back while sorting, and in panics that are
//! caught.
use std::time::{Duration, Instant};

/// Hides a value from the optimizer, also from compilers before std::hint::black_box.
fn black_box<T>(value: T) -> T {
    unsafe {
        let seen = std::ptr::read_volatile(&value);
        std::mem::forget(value);
        seen
    }
}

#[inline(never)]
fn f04(rounds: u64) -> u64 {
    (0..rounds).fold(1, |x: u64, i| black_box(x.wrapping_mul(31).wrapping_add(i)))
}

#[inline(never)]
fn f03(rounds: u64) -> u64 {
    let mut items: Vec<u64> = (0..100).map(|i| i * 7919 % 100).collect();
    items.sort_by(|a, b| f04(*a).cmp(&f04(*b)));
    black_box(f04(rounds)) + items[0]
}

#[inline(never)]
fn f02(rounds: u64) -> u64 {
    let shown = format!("{:?}", (0..20).collect::<Vec<u64>>());
    black_box(f03(rounds)) + shown.len() as u64
}

#[inline(never)]
fn f01(rounds: u64) -> u64 {
    if rounds % 3 == 0 {
        std::panic::resume_unwind(Box::new(rounds));
    }
    black_box(f02(rounds)) + 1
}

#[inline(never)]
fn f00(rounds: u64) -> u64 {
    std::panic::catch_unwind(|| f01(rounds)).unwrap_or(0)
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|given| given.parse().ok()).unwrap_or(1.0);
    std::thread::sleep(Duration::from_millis(300)); // whoever watches has time to learn of this process
    let begin = Instant::now();
    let mut rounds = 0;
    while begin.elapsed().as_secs_f64() < seconds {
        rounds += 1;
        black_box(f00(rounds % 1000));
    }
}
