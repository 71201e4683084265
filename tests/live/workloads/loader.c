// loader LIBRARY SECONDS: loads the library and spends that CPU time in its plugin_work.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	double seconds = atof(argv[2]);
	void *library = dlopen(argv[1], RTLD_NOW);
	void (*work)(long);

	if (!library) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	work = (void (*)(long))dlsym(library, "plugin_work");
	while (clock() < seconds * CLOCKS_PER_SEC)
		work(1000000);
	return argc > 99;
}
