// crowded FILE COUNT SECONDS: maps a page of FILE as code COUNT times, each a mapping of its own, and is busy
// three functions deep.
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static volatile uint64_t sink;

__attribute__((noipa)) void f02(void)
{
	for (int i = 0; i < 100000; i++)
		sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

__attribute__((noipa)) void f01(void)
{
	f02();
	sink++;
}

__attribute__((noipa)) void f00(void)
{
	f01();
	sink++;
}

int main(int argc, char **argv)
{
	int file = open(argv[1], O_RDONLY);
	clock_t end;

	for (int i = 0; i < atoi(argv[2]); i++)
		// The first page each time: neighbours do not become one mapping.
		if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file, 0) == MAP_FAILED)
			return 1;
	usleep(300000); // whoever watches has time to learn of this process
	end = clock() + atof(argv[3]) * CLOCKS_PER_SEC;
	while (clock() < end)
		f00();
	return 0;
}
