// Busy in compiled JavaScript, in V8's own code and in C++ under it, for the CPU seconds given.
"use strict";

function compare(a, b) {
  return a.value - b.value;
}

function sortItems() {
  const items = [];
  for (let i = 0; i < 300; i++) items.push({ value: (i * 7919) % 1000 });
  return items.sort(compare).length;
}

function burnJavaScript(rounds) {
  let x = 0;
  for (let i = 0; i < rounds; i++) x = (x * 31 + i) | 0;
  return x;
}

function inTheLibrary() {
  const text = JSON.stringify(Array.from({ length: 50 }, (_, i) => ({ name: String(i), of: [1, 2, 3] })));
  return JSON.parse(text).length + "some words".replace(/[a-z]+/g, (word) => word.toUpperCase()).length;
}

setTimeout(() => {
  const seconds = Number(process.argv[2]) * 1e6;
  for (let used = 0; used < seconds; ) {
    for (let i = 0; i < 20; i++) sortItems() + burnJavaScript(10000) + inTheLibrary();
    const { user, system } = process.cpuUsage();
    used = user + system;
  }
}, 300); // whoever watches has time to learn of this process
