/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The layouts that the kernel side and profiler/sampler.py share; sampler.py's numpy dtypes mirror them. */
#ifndef PILOTLIGHT_SAMPLER_H
#define PILOTLIGHT_SAMPLER_H

#define MAX_FRAMES 127
#define COMM_LENGTH 16

struct stack {
	__u64 length;
	__u64 addresses[MAX_FRAMES]; /* leaf first; beyond length: leftovers */
};

struct sample_key {
	__u64 cgroup;
	__u64 kernel_stack; /* 0: none */
	__u64 user_stack;   /* 0: none */
	__u32 tgid;
	__u32 padding;
	char comm[COMM_LENGTH];
};

enum lost_reason {
	LOST_COUNTS_FULL,
	LOST_STACKS_FULL,
	LOST_NO_MEMORY,
	LOST_STACK_ID_COLLISION,
	LOST_STACK_UNREADABLE,
	LOST_REASONS,
};

/* One for each generation and CPU. ticks = idle + filtered + sampled + the lost. */
struct counters {
	__u64 ticks;
	__u64 idle;
	__u64 filtered;
	__u64 sampled;
	__u64 lost[LOST_REASONS];
	__u64 run_ns;
};

#endif
