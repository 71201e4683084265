// Calls itself through frames of every shape that compilers make, down to where it waits, raises a signal, or
// ends:
//   frames walk    calls everything once and exits, for whoever steps through it
//   frames wait    stops (SIGSTOP) at the end of a chain of known functions
//   frames signal  the same in a signal handler on an alternate stack
//   frames thread  the same in a second thread
//   frames deep N  the same below N recursions
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KEPT __attribute__((noinline, noclone, noipa))

long plugged(long value, long (*next)(long));

static volatile long sink;
static volatile int started;
static long (*innermost)(long);

static KEPT long stop(long value)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_tgkill), "D"(getpid()), "S"(syscall(SYS_gettid)), "d"(SIGSTOP)
			 : "rcx", "r11", "memory");
	return value + result;
}

static KEPT long leaf(long value)
{
	return value * 3 + 1;
}

static KEPT long in_registers(long a, long b, long c, long d)
{
	long e = innermost(a) + 1, f = innermost(b) + e, g = innermost(c) + f, h = innermost(d) + g;

	sink += a ^ b ^ c ^ d ^ e ^ f ^ g ^ h;
	return innermost(sink) + a * b * c * d * e * f * g * h;
}

static KEPT long with_array(long value)
{
	volatile char room[1000];

	room[value & 511] = value;
	value = in_registers(value, value + 1, value + 2, room[value & 511]);
	return value + room[3];
}

static KEPT long with_alloca(long value)
{
	volatile char *room = alloca((value & 63) + 16);

	room[1] = value;
	value = with_array(value);
	return value + room[1];
}

static KEPT long realigned(long value)
{
	volatile char room[128] __attribute__((aligned(64)));

	room[value & 31] = value;
	value = with_alloca(value);
	return value + room[value & 31];
}

static KEPT long realigned_with_alloca(long value)
{
	volatile char room[128] __attribute__((aligned(64)));
	volatile char *more = alloca((value & 63) + 16);

	room[value & 31] = value;
	more[2] = value;
	value = realigned(value);
	return value + room[value & 31] + more[2];
}

static KEPT __attribute__((optimize("no-omit-frame-pointer"))) long by_frame_pointer(long value)
{
	long result = realigned_with_alloca(value);

	sink += result;
	return result + sink;
}

static KEPT long tail(long value)
{
	sink += value;
	return by_frame_pointer(value + 1);
}

static KEPT long many_arguments(long a, long b, long c, long d, long e, long f, long g, long h, long i)
{
	return tail(a + b + c + d + e + f) + g + h + i;
}

static KEPT long early_return(long value)
{
	if (value < 0)
		return leaf(value);
	if (value == 1)
		return many_arguments(1, 2, 3, 4, 5, 6, 7, 8, value) + 1;
	return many_arguments(value, 2, 3, 4, 5, 6, 7, 8, 9) + leaf(value);
}

static KEPT long through_library(long value)
{
	return plugged(value, early_return) + plugged(value + 1, leaf);
}

static KEPT long recursive(long depth)
{
	return depth ? recursive(depth - 1) + leaf(depth) : through_library(2);
}

static void on_signal(int number)
{
	sink += through_library(number);
}

static KEPT void interrupted(void)
{
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1);
	sink++;
}

static void *in_thread(void *argument)
{
	while (!started) /* glibc's clone3() has no unwind information where it returns */
		;
	sink += recursive((long)argument);
	return NULL;
}

static void handle(int flags)
{
	static char room[65536];
	stack_t stack = {.ss_sp = room, .ss_size = sizeof(room)};
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};

	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	interrupted();
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "walk";
	pthread_t thread;

	innermost = strcmp(what, "walk") ? stop : leaf;
	if (!strcmp(what, "thread")) {
		pthread_create(&thread, NULL, in_thread, (void *)2);
		started = 1;
		pthread_join(thread, NULL);
	} else if (!strcmp(what, "signal")) {
		handle(SA_ONSTACK);
	} else if (!strcmp(what, "walk")) {
		recursive(2);
		early_return(-1);
		early_return(1);
		handle(0);
		handle(SA_ONSTACK);
	} else {
		recursive(argc > 2 ? atol(argv[2]) : 2);
	}
	return sink == 42;
}
