// A library that loader.c loads while it runs.
#include <stdint.h>

volatile uint64_t plugin_sink;

__attribute__((noinline)) void plugin_work(long rounds)
{
	for (long i = 0; i < rounds; i++)
		plugin_sink = plugin_sink * 3 + i;
}
