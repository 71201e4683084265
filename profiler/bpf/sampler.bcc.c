// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * The sampler for kernels without BTF, compiled by bcc where it runs: see sampler.bpf.c for the way of it,
 * which this shares with its layouts. Stacks are walked by frame pointers only and kept in stack-trace maps,
 * whose ids are hashes cut to the map's size: a stack whose id is taken by another goes to a hash map of its
 * own.
 *
 * The headers it is compiled with may be another kernel's: it may read what UAPI and tracepoint formats
 * promise, and never a field of the kernel's own structs.
 *
 * Given with -D: STACK_ENTRIES, ASIDE_ENTRIES, COUNT_ENTRIES, and FILTER_PIDS, FILTER_CGROUPS,
 * FOLLOW_CHILDREN as 0 or 1.
 */
#include <uapi/linux/bpf_perf_event.h>
#include <uapi/linux/sched.h>
#include "sampler.h"

#define ASIDE (1ull << 63) /* marks the ids of stacks kept aside; the others are tgid << 32 | id + 1 */

/* Has the compiler leave a loop's bound in it, for the verifier to see. */
#define keep_bound(i) asm volatile("" : "+r"(i))

BPF_STACK_TRACE(stacks_0, STACK_ENTRIES);
BPF_STACK_TRACE(stacks_1, STACK_ENTRIES);
BPF_TABLE("hash", u64, struct stack, aside_0, ASIDE_ENTRIES);
BPF_TABLE("hash", u64, struct stack, aside_1, ASIDE_ENTRIES);
BPF_TABLE("hash", struct sample_key, u64, counts_0, COUNT_ENTRIES);
BPF_TABLE("hash", struct sample_key, u64, counts_1, COUNT_ENTRIES);
BPF_TABLE("percpu_array", u32, struct counters, counters, 2);
BPF_TABLE("array", u32, u32, generation, 1);
BPF_TABLE("percpu_array", u32, struct stack, scratch, 1);
BPF_TABLE("percpu_array", u32, u32, cpu_kinds, 1);
BPF_TABLE("hash", u32, u8, pids, 16384);
BPF_TABLE("hash", u64, u8, cgroups, 1024);

/* bcc turns map.method() into helper calls and knows no pointers to maps: these choose a generation's. */
static __always_inline int stack_id(struct bpf_perf_event_data *ctx, u32 current_generation, u64 flags)
{
	if (current_generation)
		return stacks_1.get_stackid(ctx, flags);
	return stacks_0.get_stackid(ctx, flags);
}

static __always_inline struct stack *find_aside(u32 current_generation, u64 *id)
{
	if (current_generation)
		return aside_1.lookup(id);
	return aside_0.lookup(id);
}

static __always_inline void insert_aside(u32 current_generation, u64 *id, struct stack *stack)
{
	if (current_generation)
		aside_1.insert(id, stack);
	else
		aside_0.insert(id, stack);
}

static __always_inline u64 *find_count(u32 current_generation, struct sample_key *key)
{
	if (current_generation)
		return counts_1.lookup(key);
	return counts_0.lookup(key);
}

static __always_inline int insert_count(u32 current_generation, struct sample_key *key, u64 *count)
{
	if (current_generation)
		return counts_1.insert(key, count);
	return counts_0.insert(key, count);
}

static __always_inline u64 mix(u64 hash, u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
	return hash ^ (hash >> 32);
}

static __always_inline int same_stack(struct stack *a, struct stack *b)
{
	if (a->length != b->length)
		return 0;
	for (u32 i = 0; i < MAX_FRAMES; i++) {
		if (i >= a->length)
			break;
		if (a->addresses[i] != b->addresses[i])
			return 0;
		keep_bound(i);
	}
	return 1;
}

/* Takes what the stack-trace map would not: a stack whose id another has, or none. As take_stack(). */
static __always_inline int keep_aside(struct bpf_perf_event_data *ctx, u32 current_generation, u64 flags,
				      u32 tgid, u64 *id, enum lost_reason *lost)
{
	u32 zero = 0;
	struct stack *stack = scratch.lookup(&zero);

	*lost = LOST_STACK_UNREADABLE;
	if (!stack)
		return -1;
	long size = bpf_get_stack(ctx, stack->addresses, sizeof(stack->addresses), flags);

	if (size < 0)
		return -1;
	if (!size)
		return 0;
	stack->length = (u64)size / sizeof(u64);
	u64 hash = mix(tgid, stack->length);

	for (u32 i = 0; i < MAX_FRAMES; i++) {
		if (i >= stack->length)
			break;
		hash = mix(hash, stack->addresses[i]);
		keep_bound(i);
	}
	hash |= ASIDE;
	struct stack *known = find_aside(current_generation, &hash);

	if (!known) {
		insert_aside(current_generation, &hash, stack);
		/* Another CPU may have been faster. */
		known = find_aside(current_generation, &hash);
	}
	*lost = LOST_STACK_ID_COLLISION;
	if (!known || !same_stack(known, stack))
		return -1;
	*id = hash;
	return 0;
}

/* Takes the user or kernel stack of the tick. Sets *id, to 0 where it is empty; 0, or -1 with *lost. */
static __always_inline int take_stack(struct bpf_perf_event_data *ctx, u32 current_generation, u64 flags,
				      u32 tgid, u64 *id, enum lost_reason *lost)
{
	int found = stack_id(ctx, current_generation, flags);

	*id = 0;
	if (found < 0) /* -EEXIST: the id is taken; -EFAULT: the stack is empty, or it cannot be read */
		return keep_aside(ctx, current_generation, flags, tgid, id, lost);
	*id = (u64)tgid << 32 | ((u64)found + 1);
	return 0;
}

static __always_inline int count_sample(u32 current_generation, struct sample_key *key)
{
	u64 one = 1;
	u64 *count = find_count(current_generation, key);

	if (!count) {
		if (!insert_count(current_generation, key, &one))
			return 0;
		count = find_count(current_generation, key);
		if (!count)
			return -1;
	}
	__sync_fetch_and_add(count, 1);
	return 0;
}

static __always_inline int filtered_out(u32 tgid, u64 cgroup)
{
	if (FILTER_PIDS && !pids.lookup(&tgid))
		return 1;
	return FILTER_CGROUPS && !cgroups.lookup(&cgroup);
}

static __always_inline void sample(struct bpf_perf_event_data *ctx, u32 current_generation,
				   struct counters *counter)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct sample_key key = {.cgroup = bpf_get_current_cgroup_id(), .tgid = pid_tgid >> 32};
	enum lost_reason lost = LOST_COUNTS_FULL;
	u32 zero = 0;

	if (!(u32)pid_tgid) {
		counter->idle++;
		return;
	}
	if (filtered_out(key.tgid, key.cgroup)) {
		counter->filtered++;
		return;
	}
	bpf_get_current_comm(key.comm, sizeof(key.comm));
	u32 *kind = cpu_kinds.lookup(&zero);

	if (kind)
		key.cpu_kind = *kind;
	/* Kernel stacks are the same in every process, user addresses mean something in one only. */
	if (take_stack(ctx, current_generation, 0, 0, &key.kernel_stack, &lost) ||
	    take_stack(ctx, current_generation, BPF_F_USER_STACK, key.tgid, &key.user_stack, &lost)) {
		if (lost < LOST_REASONS)
			counter->lost[lost]++;
		return;
	}
	if (count_sample(current_generation, &key)) {
		counter->lost[LOST_COUNTS_FULL]++;
		return;
	}
	counter->sampled++;
}

int on_tick(struct bpf_perf_event_data *ctx)
{
	u64 start = bpf_ktime_get_ns();
	u32 zero = 0;
	u32 *now = generation.lookup(&zero);

	if (!now)
		return 0;
	/* Read once: all that this tick leaves behind must land in one generation. */
	u32 current_generation = *(volatile u32 *)now & 1;
	struct counters *counter = counters.lookup(&current_generation);

	if (!counter)
		return 0;
	counter->ticks++;
	sample(ctx, current_generation, counter);
	counter->run_ns += bpf_ktime_get_ns() - start;
	return 0;
}

#if FOLLOW_CHILDREN
/* Runs in the parent before the child does. */
TRACEPOINT_PROBE(task, task_newtask)
{
	u32 parent = bpf_get_current_pid_tgid() >> 32, child = args->pid;
	u8 yes = 1;

	if (!(args->clone_flags & CLONE_THREAD) && pids.lookup(&parent))
		pids.update(&child, &yes);
	return 0;
}
#endif

#if FILTER_PIDS
/* A pid that is used again must not be taken for the process that was asked for. Of a process's threads, the
 * one that has its pid is freed last. */
TRACEPOINT_PROBE(sched, sched_process_free)
{
	u32 pid = args->pid;

	pids.delete(&pid);
	return 0;
}
#endif
