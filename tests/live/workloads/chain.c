// chain SECONDS [thread|wait]: goes down and up a chain of 65 functions, f00 ... f64, over and over, for
// SECONDS of CPU time, in main or in a thread; with "wait" once there is a line on stdin. Ticks fall on every
// instruction of every function, prologues and epilogues included.
//
// -DALLOCA, -DVARIABLE, -DALIGNED and -DALIGNED_VARIABLE say what the functions' frames hold, next to nothing
// without them. -DMAIN_ONLY and -DCHAIN_ONLY split it into a program and its library.
#include <alloca.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __clang__
#define ALONE __attribute__((noinline))
#else
#define ALONE __attribute__((noipa))
#endif

extern long f00(long depth);

#ifndef MAIN_ONLY

static volatile uint64_t sink;

#define BURN()                                                                                               \
	for (int i = 0; i < 20; i++)                                                                         \
	sink = sink * 6364136223846793005ull + 1442695040888963407ull

#if defined(ALLOCA)
#define LOCALS volatile char *locals = alloca(16 + (depth & 7) * 40)
#elif defined(VARIABLE)
#define LOCALS volatile char locals[1 + depth * 3]
#elif defined(ALIGNED)
#define LOCALS volatile char locals[64] __attribute__((aligned(64)))
#elif defined(ALIGNED_VARIABLE)
#define LOCALS                                                                                               \
	volatile char locals[64] __attribute__((aligned(64)));                                               \
	volatile char *more = alloca(16 + (depth & 7) * 40);                                                 \
	more[0] = depth
#else
#define LOCALS volatile char locals[8]
#endif

// Something is left to do after the call, so that it cannot become a jump.
#define FUNCTION(name, callee)                                                                               \
	ALONE long name(long depth)                                                                          \
	{                                                                                                    \
		LOCALS;                                                                                      \
                                                                                                             \
		locals[0] = depth;                                                                           \
		BURN();                                                                                      \
		depth += callee(depth + 1) + locals[0];                                                      \
		sink += depth;                                                                               \
		return depth;                                                                                \
	}

ALONE long f64(long depth)
{
	LOCALS;

	locals[0] = depth;
	for (int i = 0; i < 20; i++)
		BURN();
	return depth + locals[0];
}

#define EIGHT(before, a, b, c, d, e, f, g, h)                                                                \
	FUNCTION(h, before)                                                                                  \
	FUNCTION(g, h)                                                                                       \
	FUNCTION(f, g) FUNCTION(e, f) FUNCTION(d, e) FUNCTION(c, d) FUNCTION(b, c) FUNCTION(a, b)
EIGHT(f64, f56, f57, f58, f59, f60, f61, f62, f63)
EIGHT(f56, f48, f49, f50, f51, f52, f53, f54, f55)
EIGHT(f48, f40, f41, f42, f43, f44, f45, f46, f47)
EIGHT(f40, f32, f33, f34, f35, f36, f37, f38, f39)
EIGHT(f32, f24, f25, f26, f27, f28, f29, f30, f31)
EIGHT(f24, f16, f17, f18, f19, f20, f21, f22, f23)
EIGHT(f16, f08, f09, f10, f11, f12, f13, f14, f15)
EIGHT(f08, f00, f01, f02, f03, f04, f05, f06, f07)

#endif
#ifndef CHAIN_ONLY

static double seconds;

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
	       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

ALONE void *go_down(void *unused)
{
	while (cpu_seconds() < seconds)
		for (int i = 0; i < 100; i++)
			f00(0);
	return unused;
}

int main(int argc, char **argv)
{
	seconds = argc > 1 ? atof(argv[1]) : 1;
	usleep(300000); // whoever watches has time to learn of this process
	if (argc > 2 && !strcmp(argv[2], "wait"))
		getchar();
	if (argc > 2 && !strcmp(argv[2], "thread")) {
		pthread_t thread;

		pthread_create(&thread, NULL, go_down, NULL);
		pthread_join(thread, NULL);
	} else {
		go_down(NULL);
	}
	return 0;
}

#endif
