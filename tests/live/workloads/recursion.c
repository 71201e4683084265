// recursion DEPTH SECONDS: calls itself DEPTH deep and is busy at the bottom.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;
static clock_t end;

__attribute__((noipa)) void bottom(void)
{
	while (clock() < end)
		for (int i = 0; i < 100000; i++)
			sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

__attribute__((noipa)) long deeper(long left)
{
	if (!left)
		bottom();
	else
		sink += deeper(left - 1);
	return left;
}

int main(int argc, char **argv)
{
	usleep(300000); // whoever watches has time to learn of this process
	end = (argc > 2 ? atof(argv[2]) : 1) * CLOCKS_PER_SEC;
	deeper((argc > 1 ? atol(argv[1]) : 10000) - 1);
	return 0;
}
