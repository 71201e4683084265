// A function with two others inlined into it, each on lines of its own.
use std::time::{Duration, Instant};

#[inline(always)]
fn mix(a: u32, b: u32) -> u32 {
    let mut r = a;
    for i in 0..8 {
        r = r.wrapping_mul(31).wrapping_add(b ^ i); // the line of mix()
    }
    r
}

#[inline(always)]
fn fold(values: &mut [u32]) -> u32 {
    let mut sum = 0u32;
    for value in values {
        *value = mix(*value, sum); // the line of fold()
        sum = sum.wrapping_add(*value);
    }
    sum
}

#[inline(never)]
fn work(values: &mut [u32]) -> u32 {
    fold(values) + 1 // the line of work()
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).map_or(1.0, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut values = vec![7u32; 10000];
    let mut sum = 0u32;
    while Instant::now() < end {
        sum = sum.wrapping_add(work(&mut values));
    }
    println!("{sum}");
}
