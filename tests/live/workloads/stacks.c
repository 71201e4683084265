// stacks DEPTH SECONDS: walks all 2^DEPTH call paths of two functions over and over: as many distinct stacks,
// and more.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;
static int depth;

static void right(uint64_t path, int level);

__attribute__((noinline)) static void left(uint64_t path, int level)
{
	if (level == depth) {
		for (int i = 0; i < 2000; i++)
			sink += path;
		return;
	}
	if (path >> level & 1)
		right(path, level + 1);
	else
		left(path, level + 1);
	sink++;
}

__attribute__((noinline)) static void right(uint64_t path, int level)
{
	if (level == depth) {
		for (int i = 0; i < 2000; i++)
			sink ^= path;
		return;
	}
	if (path >> level & 1)
		right(path, level + 1);
	else
		left(path, level + 1);
	sink += 2;
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 1);
	uint64_t path = 0;

	depth = argc > 1 ? atoi(argv[1]) : 16;
	while (time(NULL) <= end)
		for (int i = 0; i < 64; i++) {
			// A step by an odd number visits every path, and neighbours in time differ.
			path += 0x9E3779B97F4A7C15ull;
			left(path & ((1ull << depth) - 1), 0);
		}
	return 0;
}
