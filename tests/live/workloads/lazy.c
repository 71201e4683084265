// lazy SECONDS LIBRARY: loads LIBRARY, whose imports are bound as they are called, calls them, and unloads
// it, over and over. With -DLIBRARY this is the library.
#ifdef LIBRARY

#include <math.h>
#include <stdlib.h>
#include <string.h>

double call_everything(double x)
{
	char text[64] = "text", copy[64];

	// volatile: calls that the compiler cannot work out itself
	double (*volatile unused)(double) = NULL;
	(void)unused;
	x += sin(x) + cos(x) + tan(x) + exp(x) + log(x) + sqrt(x) + cbrt(x) + atan(x) + sinh(x) + cosh(x);
	x += asinh(x) + erf(x) + tgamma(x) + j0(x) + y0(x) + expm1(x) + log1p(x) + log2(x) + exp2(x) +
	     atan2(x, 2);
	strcpy(copy, text);
	x += strlen(copy) + atoi(copy) + strtol(copy, NULL, 10) + (strchr(copy, text[0]) != NULL) + rand();
	return x;
}

#else

#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

__attribute__((noipa)) double load_and_call(const char *library, double x)
{
	void *handle = dlopen(library, RTLD_LAZY);
	double (*call)(double) = (double (*)(double))dlsym(handle, "call_everything");

	x = call(x);
	dlclose(handle);
	return x;
}

int main(int argc, char **argv)
{
	clock_t end = (argc > 1 ? atof(argv[1]) : 1) * CLOCKS_PER_SEC;
	volatile double sum = 0;

	usleep(300000); // whoever watches has time to learn of this process
	while (clock() < end)
		for (int i = 0; i < 100; i++)
			sum = sum + load_and_call(argv[2], 1.5);
	return 0;
}

#endif
