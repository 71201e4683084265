// Busy for the seconds given in main and in goroutines, which allocate, so that the runtime works too.
package main

import (
	"os"
	"sort"
	"strconv"
	"time"
)

var sink int

//go:noinline
func burn(rounds int) int {
	x := 0
	for i := 0; i < rounds; i++ {
		x = x*31 + i
	}
	return x
}

//go:noinline
func sortItems() int {
	items := make([]int, 300)
	for i := range items {
		items[i] = i * 7919 % 1000
	}
	sort.Slice(items, func(a, b int) bool { return items[a] < items[b] })
	return items[0]
}

//go:noinline
func inTurn(results chan int) {
	results <- burn(20000) + sortItems()
}

func main() {
	seconds, _ := strconv.ParseFloat(os.Args[1], 64)
	time.Sleep(300 * time.Millisecond) // whoever watches has time to learn of this process
	results := make(chan int)
	for end := time.Now().Add(time.Duration(seconds * 1e9)); time.Now().Before(end); {
		go inTurn(results)
		sink += burn(20000)
		sink += <-results
	}
}
