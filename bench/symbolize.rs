// A program of iterators, closures and generics, for bench/symbolize.py to build; the standard library comes with it.
use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

trait Shape {
    fn area(&self) -> f64;
}
struct Circle(f64);
struct Square(f64);
impl Shape for Circle {
    fn area(&self) -> f64 {
        self.0 * self.0 * std::f64::consts::PI
    }
}
impl Shape for Square {
    fn area(&self) -> f64 {
        self.0.powi(2)
    }
}

fn joined<T: Display>(all: impl Iterator<Item = T>) -> String {
    all.map(|one| format!("<{one}>"))
        .collect::<Vec<_>>()
        .join(",")
}

fn words(text: &str) -> HashMap<String, usize> {
    text.split_whitespace()
        .filter(|word| !word.is_empty())
        .fold(HashMap::new(), |mut found, word| {
            *found.entry(word.to_lowercase()).or_default() += 1;
            found
        })
}

fn main() {
    let text = std::env::args().collect::<Vec<_>>().join(" ");
    let mut sorted: BTreeMap<_, _> = words(&text).into_iter().collect();
    sorted.retain(|_, count| *count > 0);
    let shapes: Vec<Box<dyn Shape>> = sorted
        .values()
        .map(|n| {
            if n % 2 == 0 {
                Box::new(Circle(*n as f64)) as Box<dyn Shape>
            } else {
                Box::new(Square(*n as f64))
            }
        })
        .collect();
    let mut areas: Vec<f64> = shapes.iter().map(|shape| shape.area()).collect();
    areas.sort_by(f64::total_cmp);
    println!(
        "{} {} {:?}",
        joined(sorted.keys()),
        joined(areas.iter()),
        text.parse::<f64>()
    );
}
