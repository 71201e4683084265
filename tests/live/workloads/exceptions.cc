// exceptions SECONDS: throws ten functions deep inside loops and catches at the top, over and over.
#include <cstdlib>
#include <ctime>
#include <stdexcept>
#include <string>
#include <unistd.h>

#define ALONE __attribute__((noipa))

struct Guard {
	volatile long *count;
	~Guard() { ++*count; }
};

static volatile long unwound;

template <int level> ALONE long dive(long seed)
{
	Guard guard{&unwound};
	long sum = 0;

	for (int i = 0; i < 3; i++)
		sum += dive<level - 1>(seed + i);
	return sum;
}

template <> ALONE long dive<0>(long seed)
{
	if (seed % 2)
		throw std::runtime_error("odd");
	return seed;
}

ALONE long attempt(long seed)
{
	try {
		return dive<10>(seed);
	} catch (const std::runtime_error &) {
		return 1;
	}
}

int main(int argc, char **argv)
{
	clock_t end = (argc > 1 ? atof(argv[1]) : 1) * CLOCKS_PER_SEC;
	volatile long sum = 0;

	usleep(300000); // whoever watches has time to learn of this process
	while (clock() < end)
		for (long seed = 0; seed < 100; seed++)
			sum = sum + attempt(2 * seed + 1);
	return 0;
}
