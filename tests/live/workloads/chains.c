// Burns SECONDS of CPU time in two call chains: 75 % in main > hot_outer > hot_inner, 25 % in main >
// cold_outer > cold_inner.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) void hot_inner(long rounds)
{
	for (long i = 0; i < rounds; i++)
		sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

__attribute__((noinline)) void cold_inner(long rounds)
{
	for (long i = 0; i < rounds; i++)
		sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

__attribute__((noinline)) void hot_outer(long rounds)
{
	hot_inner(3 * rounds);
	sink++;
}

__attribute__((noinline)) void cold_outer(long rounds)
{
	cold_inner(rounds);
	sink++;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;

	while (clock() < seconds * CLOCKS_PER_SEC)
		// Short turns, far shorter than a tick, so that the share is not a matter of phase.
		for (int i = 0; i < 20; i++) {
			hot_outer(500);
			cold_outer(500);
		}
	return 0;
}
