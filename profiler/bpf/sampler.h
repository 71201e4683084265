/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The layouts that the kernel side and profiler/sampler.py share; sampler.py's numpy dtypes mirror them. */
#ifndef PILOTLIGHT_SAMPLER_H
#define PILOTLIGHT_SAMPLER_H

#define MAX_FRAMES 127
#define COMM_LENGTH 16

/* Of a deeper user stack these are kept at both ends, and a mark between. */
#define ROOT_FRAMES 32
#define LEAF_FRAMES (MAX_FRAMES - 1 - ROOT_FRAMES)
#define CUT_MARK 1
#define MOST_FRAMES_WALKED 16384

/* How the walk of a user stack ended. */
enum walk_end {
	END_UNKNOWN = 0, /* a kernel stack, or a user stack by frame pointers alone */
	END_ROOT,
	END_NO_PROCESS,	      /* no mappings of the process are known yet */
	END_NO_MAPPING,	      /* an address outside all mappings */
	END_NO_TABLE,	      /* code without unwind information */
	END_TABLE_NOT_LOADED, /* its table was asked for */
	END_NO_ROW,	      /* the file's unwind information leaves the address out */
	END_UNSUPPORTED_RULE,
	END_UNREADABLE, /* stack memory */
	END_NOT_GROWING,
	END_TOO_DEEP,
};

struct stack {
	__u32 length;
	__u32 end;
	__u64 by_frame_pointer[2];   /* bit i: the caller of frame i was found by frame pointer */
	__u64 addresses[MAX_FRAMES]; /* to look up, leaf first; beyond length: leftovers */
};

struct sample_key {
	__u64 cgroup;
	__u64 kernel_stack; /* 0: none */
	__u64 user_stack;   /* 0: none */
	__u32 tgid;
	__u32 cpu_kind; /* as cpu_kinds says of the CPU it was taken on */
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
