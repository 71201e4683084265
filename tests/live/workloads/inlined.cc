// A function with two others inlined into it, each on lines of its own.
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

static inline int mix(int a, int b)
{
	int r = a;
	for (int i = 0; i < 8; i++)
		r = r * 31 + (b ^ i); // the line of mix()
	return r;
}

static inline int fold(std::vector<int> &values)
{
	int sum = 0;
	for (int &value : values) {
		value = mix(value, sum); // the line of fold()
		sum += value;
	}
	return sum;
}

__attribute__((noinline)) int work(std::vector<int> &values)
{
	return fold(values) + 1; // the line of work()
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;
	std::vector<int> values(10000, 7);
	int sum = 0;
	for (clock_t end = clock() + (clock_t)(seconds * CLOCKS_PER_SEC); clock() < end;)
		sum += work(values);
	printf("%d\n", sum);
}
