// signals SECONDS: goes down a chain of eight functions, again and again, while a timer's signal interrupts
// it a thousand times a second; the handler, on a stack of its own, is busy for a while.
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define ALONE __attribute__((noipa))

static volatile uint64_t sink;

ALONE void handler_work(void)
{
	for (int i = 0; i < 100000; i++)
		sink = sink * 6364136223846793005ull + 1442695040888963407ull;
}

ALONE void on_signal(int number)
{
	handler_work();
	sink += number;
}

#define FUNCTION(name, callee)                                                                               \
	ALONE long name(long depth)                                                                          \
	{                                                                                                    \
		volatile char locals[8];                                                                     \
                                                                                                             \
		locals[0] = depth;                                                                           \
		depth += callee(depth + 1) + locals[0];                                                      \
		sink += depth;                                                                               \
		return depth;                                                                                \
	}

ALONE long f07(long depth)
{
	for (int i = 0; i < 20; i++)
		sink += depth;
	return depth;
}
FUNCTION(f06, f07)
FUNCTION(f05, f06)
FUNCTION(f04, f05)
FUNCTION(f03, f04)
FUNCTION(f02, f03)
FUNCTION(f01, f02)
FUNCTION(f00, f01)

int main(int argc, char **argv)
{
	clock_t end = (argc > 1 ? atof(argv[1]) : 1) * CLOCKS_PER_SEC;
	stack_t own = {.ss_sp = malloc(1 << 16), .ss_size = 1 << 16};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK | SA_RESTART};
	struct itimerval often = {{0, 1000}, {0, 1000}};

	usleep(300000); // whoever watches has time to learn of this process
	sigaltstack(&own, NULL);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	while (clock() < end)
		for (int i = 0; i < 1000; i++)
			f00(0);
	return 0;
}
