// Lives for 5 ms of CPU time, in short_lived_work.
#include <stdint.h>
#include <time.h>

static volatile uint64_t sink;

__attribute__((noinline)) void short_lived_work(void)
{
	while (clock() < CLOCKS_PER_SEC / 200)
		for (int i = 0; i < 10000; i++)
			sink += i;
}

int main(void)
{
	short_lived_work();
	return sink == 1;
}
