/* Code in every kind of place: places SECONDS spends that much CPU time, evenly, in
 *   OWN() of this program, LIBRARY_WORK() of libplaces.so and memfrob() of the C library,
 *   compiled_work() in anonymous memory, which a perf map names, and nameless code in memory of the kinds below.
 * Built with -DOWN=name; the library with -DLIBRARY_WORK=name -shared. Says "ready" when it begins. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif

#define PAGE 4096
#define ROUNDS 300000

/* Linkers leave the names of symbols out of build ids: so that differently named builds have others. */
#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)

#ifdef LIBRARY_WORK

const char built_as[] = TEXT(LIBRARY_WORK);

void LIBRARY_WORK(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
}

void library_work(long n)
{
	LIBRARY_WORK(n);
}

#else

#ifdef WITH_LIBRARY
void library_work(long n);
#else
static void library_work(long n) { (void)n; }
#endif

typedef void (*code)(long);

const char built_as[] = TEXT(OWN);

/* push rbp; mov rbp, rsp; mov rcx, rdi; again: dec rcx; jnz again; pop rbp; ret */
static const unsigned char spin[] = { 0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf9, 0x48, 0xff, 0xc9, 0x75, 0xfb, 0x5d, 0xc3 };

static __attribute__((noinline)) void OWN(long n)
{
	for (volatile long i = 0; i < n; i++)
		;
}

static code made(void *memory)
{
	if (memory == MAP_FAILED)
		return OWN;
	memcpy(memory, spin, sizeof spin);
	mprotect(memory, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	return (code)memory;
}

static code in_memory(int flags, int file)
{
	return made(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, file, 0));
}

static code in_memory_file(void)
{
	int file = memfd_create("code of a compiler", 0);
	if (file < 0 || ftruncate(file, PAGE))
		return OWN;
	return in_memory(MAP_SHARED, file);
}

static code in_shared_memory(void)
{
	int segment = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
	void *memory = shmat(segment, NULL, 0);
	shmctl(segment, IPC_RMID, NULL);
	return made(memory);
}

static code named(void)
{
	void *memory = (void *)in_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory, PAGE, "code heap");
	return (code)memory;
}

static code compiled(void)
{
	code memory = in_memory(MAP_PRIVATE | MAP_ANONYMOUS, -1);
	char path[64];
	snprintf(path, sizeof path, "/tmp/perf-%d.map", (int)getpid());
	FILE *map = fopen(path, "w");
	if (map) {
		fprintf(map, "%lx %zx compiled_work\n", (unsigned long)memory, sizeof spin);
		fclose(map);
	}
	return memory;
}

static double spent(void)
{
	struct timespec now;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	double seconds = argc > 1 ? atof(argv[1]) : 1;
	static char text[ROUNDS];
	char on_stack[4 * PAGE];
	code places[] = {
		compiled(), named(), in_memory_file(),
		made((char *)(((uintptr_t)sbrk(4 * PAGE) + PAGE) & -(uintptr_t)PAGE)),
		made((char *)(((uintptr_t)on_stack + PAGE) & -(uintptr_t)PAGE)),
		in_memory(MAP_SHARED | MAP_ANONYMOUS, -1),
		in_shared_memory(),
	};
	puts("ready");
	fflush(stdout);
	while (spent() < seconds) {
		OWN(ROUNDS);
		library_work(ROUNDS);
		memfrob(text, sizeof text);
		for (unsigned long i = 0; i < sizeof places / sizeof *places; i++)
			places[i](ROUNDS);
	}
	return 0;
}

#endif
