// Spends SECONDS of CPU time, nearly all of it in the kernel, reading /dev/zero. libc's read() has no frame
// pointer, hence a call of our own.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

static char buffer[1 << 20];

__attribute__((noinline)) long read_zeroes(int zero)
{
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(SYS_read), "D"(zero), "S"(buffer), "d"(sizeof buffer)
			 : "rcx", "r11", "memory");
	return result;
}

int main(int argc, char **argv)
{
	int zero = open("/dev/zero", O_RDONLY);
	double seconds = argc > 1 ? atof(argv[1]) : 1;

	while (clock() < seconds * CLOCKS_PER_SEC)
		for (int i = 0; i < 100; i++)
			if (read_zeroes(zero) < 0)
				return 1;
	return 0;
}
