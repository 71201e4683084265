// coroutines SECONDS: two coroutines with stacks of their own take turns, switched to and fro ten thousand
// times a second; between their turns main works.
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define STACK (1 << 16)
#define ALONE __attribute__((noinline))

static volatile uint64_t sink;
static ucontext_t scheduler, coroutines[2];

ALONE void burn(int rounds)
{
	for (int i = 0; i < rounds; i++)
		sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

ALONE void first_work(int rounds)
{
	burn(rounds);
	swapcontext(&coroutines[0], &scheduler);
	sink++;
}

ALONE void second_work(int rounds)
{
	burn(rounds);
	swapcontext(&coroutines[1], &scheduler);
	sink++;
}

static void first_coroutine(void)
{
	for (;;)
		first_work(5000);
}

static void second_coroutine(void)
{
	for (;;)
		second_work(5000);
}

ALONE void schedule(int next)
{
	swapcontext(&scheduler, &coroutines[next]);
	burn(5000);
}

int main(int argc, char **argv)
{
	clock_t end = (argc > 1 ? atof(argv[1]) : 1) * CLOCKS_PER_SEC;

	usleep(300000); // whoever watches has time to learn of this process
	for (int i = 0; i < 2; i++) {
		getcontext(&coroutines[i]);
		coroutines[i].uc_stack.ss_sp = malloc(STACK);
		coroutines[i].uc_stack.ss_size = STACK;
		makecontext(&coroutines[i], i ? second_coroutine : first_coroutine, 0);
	}
	while (clock() < end)
		for (int i = 0; i < 2; i++)
			schedule(i);
	return 0;
}
