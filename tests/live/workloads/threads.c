// Two threads named "left" and "right", each busy in a function of its own, until both have used SECONDS of
// CPU time.
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

static volatile uint64_t sink;
static double seconds;

__attribute__((noinline)) void work_left(void)
{
	while (clock() < seconds * CLOCKS_PER_SEC)
		for (int i = 0; i < 100000; i++)
			sink += i;
}

__attribute__((noinline)) void work_right(void)
{
	while (clock() < seconds * CLOCKS_PER_SEC)
		for (int i = 0; i < 100000; i++)
			sink ^= i;
}

static void *left(void *unused)
{
	pthread_setname_np(pthread_self(), "left");
	work_left();
	return unused;
}

static void *right(void *unused)
{
	pthread_setname_np(pthread_self(), "right");
	work_right();
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t a, b;

	seconds = argc > 1 ? atof(argv[1]) : 1;
	pthread_create(&a, NULL, left, NULL);
	pthread_create(&b, NULL, right, NULL);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	return 0;
}
