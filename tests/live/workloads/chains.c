// Burns SECONDS of CPU time in two call chains: 75 % in main > hot_outer > hot_inner, 25 % in main >
// cold_outer > cold_inner.
#include <stdint.h>
#include <stdlib.h>
#include <sys/resource.h>

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

// By a real system call, as it leaves no stray samples in libc and the vDSO.
static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;

	while (cpu_seconds() < seconds)
		// Short turns, far shorter than a tick, so that the share is not a matter of phase.
		for (int i = 0; i < 200; i++) {
			hot_outer(500);
			cold_outer(500);
		}
	return 0;
}
