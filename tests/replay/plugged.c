// A shared library for frames.c: calls into it go through the procedure linkage table, by way of ld.so at
// first.
#include <stdlib.h>

long plugged(long value, long (*next)(long))
{
	char text[32] = "17";
	long result = next(value);

	return result + strtol(text, NULL, 10) + labs(value);
}
