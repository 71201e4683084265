// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * On each tick of a CPU: count it; unless it is idle or filtered, take its kernel and user stack, keep each
 * stack once under a 64-bit id, and count the pair. All of it goes to the current one of two generations;
 * user space switches generations, waits until no program that saw the old one can still run, and drains the
 * old one undisturbed.
 */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "kernel.h"
#include "sampler.h"
#include "unwind_maps.bpf.h"

#define IDS_TRIED 2
#define ENOMEM 12
#define STEPS_IN_PROGRAM 8

const volatile __u32 filter_pids = 0;
const volatile __u32 filter_cgroups = 0;
const volatile __u32 filter_children = 0;
const volatile __u32 unwind_tables = 1;

struct stack_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct stack);
} stacks_0 SEC(".maps"), stacks_1 SEC(".maps");

struct count_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct sample_key);
	__type(value, __u64);
} counts_0 SEC(".maps"), counts_1 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} generation SEC(".maps");

/* A tick in hand: what the programs that see to it keep for each other. One map, as each one that a tick
 * reads is cold by then.
 */
struct tick {
	__u64 start;
	struct sample_key key;
	__u32 generation;
	__u32 padding;
	struct walk walk;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tick);
} ticks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__type(key, __u32);
	__type(value, __u8);
} pids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, __u8);
} cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} cpu_kinds SEC(".maps");

static __always_inline __u64 mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9E3779B97F4A7C15ull;
	return hash ^ (hash >> 32);
}

static __always_inline int same_stack(const struct stack *a, const struct stack *b)
{
	if (a->length != b->length || a->end != b->end || a->by_frame_pointer[0] != b->by_frame_pointer[0] ||
	    a->by_frame_pointer[1] != b->by_frame_pointer[1])
		return 0;
	for (__u32 i = 0; i < MAX_FRAMES; i++) {
		if (i >= a->length)
			break;
		if (a->addresses[i] != b->addresses[i])
			return 0;
	}
	return 1;
}

/* Keeps a stack under an id that no other stack has. 0 with the reason in *lost where that fails. */
static __always_inline __u64 keep_stack(void *stacks, const struct stack *stack, __u64 seed,
					enum lost_reason *lost)
{
	__u64 id = mix(mix(seed, stack->length | (__u64)stack->end << 32),
		       stack->by_frame_pointer[0] ^ stack->by_frame_pointer[1] * 31);

	for (__u32 i = 0; i < MAX_FRAMES; i++) {
		if (i >= stack->length)
			break;
		id = mix(id, stack->addresses[i]);
	}
	for (int tried = 0; tried < IDS_TRIED; tried++) {
		if (!id)
			id = 1;
		struct stack *known = bpf_map_lookup_elem(stacks, &id);

		if (!known) {
			long error = bpf_map_update_elem(stacks, &id, stack, BPF_NOEXIST);

			if (!error)
				return id;
			/* Another CPU may have been faster, perhaps with this very stack. */
			known = bpf_map_lookup_elem(stacks, &id);
			if (!known) {
				*lost = error == -ENOMEM ? LOST_NO_MEMORY : LOST_STACKS_FULL;
				return 0;
			}
		}
		if (same_stack(known, stack))
			return id;
		id = mix(id, tried);
	}
	*lost = LOST_STACK_ID_COLLISION;
	return 0;
}

/* Takes the kernel stack of the tick, or the user stack by frame pointers, into *stack. Sets *id, to 0 for an
 * empty stack; returns 0, or -1 with *lost.
 */
static __always_inline int take_stack(void *ctx, void *stacks, struct stack *stack, __u64 flags, __u64 seed,
				      __u64 *id, enum lost_reason *lost)
{
	long size = bpf_get_stack(ctx, stack->addresses, sizeof(stack->addresses), flags);

	*id = 0;
	*lost = LOST_STACK_UNREADABLE;
	if (size < 0)
		return -1;
	__u32 length = (__u64)size / sizeof(__u64);

	__u32 last = length - 1;

	/* A return address of 0 is no frame, it marks the root. */
	barrier_var(last); /* the verifier must see the bound on the very register that indexes */
	if (last < MAX_FRAMES && !stack->addresses[last])
		length--;
	stack->length = length;
	stack->end = END_UNKNOWN;
	stack->by_frame_pointer[0] = stack->by_frame_pointer[1] = 0;
	if (!length)
		return 0;
	*id = keep_stack(stacks, stack, seed, lost);
	return *id ? 0 : -1;
}

static __always_inline int filtered_out(__u32 tgid, __u64 cgroup)
{
	if (filter_pids && !bpf_map_lookup_elem(&pids, &tgid))
		return 1;
	return filter_cgroups && !bpf_map_lookup_elem(&cgroups, &cgroup);
}

static __always_inline int count_sample(void *counts, const struct sample_key *key, enum lost_reason *lost)
{
	__u64 one = 1;
	__u64 *count = bpf_map_lookup_elem(counts, key);

	if (!count) {
		long error = bpf_map_update_elem(counts, key, &one, BPF_NOEXIST);

		if (!error)
			return 0;
		count = bpf_map_lookup_elem(counts, key);
		if (!count) {
			*lost = error == -ENOMEM ? LOST_NO_MEMORY : LOST_COUNTS_FULL;
			return -1;
		}
	}
	__sync_fetch_and_add(count, 1);
	return 0;
}

/* Counts a tick and takes its kernel stack. Whether there is a user stack to be walked. */
static __always_inline int begin_tick(struct bpf_perf_event_data *ctx, struct tick *tick,
				      struct counters *counter)
{
	void *stacks = tick->generation ? (void *)&stacks_1 : (void *)&stacks_0;
	void *counts = tick->generation ? (void *)&counts_1 : (void *)&counts_0;
	__u64 pid_tgid = bpf_get_current_pid_tgid();
	struct sample_key *key = &tick->key;
	struct stack *stack = &tick->walk.stack;
	enum lost_reason lost;
	__u32 zero = 0;

	counter->ticks++;
	if (!(__u32)pid_tgid) {
		counter->idle++;
		return 0;
	}
	__builtin_memset(key, 0, sizeof(*key));
	key->tgid = pid_tgid >> 32;
	key->cgroup = bpf_get_current_cgroup_id();
	if (filtered_out(key->tgid, key->cgroup)) {
		counter->filtered++;
		return 0;
	}
	bpf_get_current_comm(key->comm, sizeof(key->comm));
	__u32 *kind = bpf_map_lookup_elem(&cpu_kinds, &zero);

	if (kind)
		key->cpu_kind = *kind;
	/* Kernel stacks are the same in every process, user addresses mean something in one only. */
	if (!in_user_code(ctx) && take_stack(ctx, stacks, stack, 0, 0, &key->kernel_stack, &lost))
		goto lost;
	enum user_code code = unwind_tables ? user_registers(ctx, &tick->walk) : USER_32;

	if (code == USER_64) {
		begin_walk(&tick->walk, key->tgid);
		return 1;
	}
	if (code == USER_32 &&
	    take_stack(ctx, stacks, stack, BPF_F_USER_STACK, key->tgid, &key->user_stack, &lost))
		goto lost;
	if (count_sample(counts, key, &lost))
		goto lost;
	counter->sampled++;
	return 0;
lost:
	if (lost < LOST_REASONS)
		counter->lost[lost]++;
	return 0;
}

/* Keeps the user stack that was walked, and the sample. */
static __always_inline void end_walked_tick(struct tick *tick, struct counters *counter)
{
	struct walk *walk = &tick->walk;
	void *stacks = tick->generation ? (void *)&stacks_1 : (void *)&stacks_0;
	void *counts = tick->generation ? (void *)&counts_1 : (void *)&counts_0;
	enum lost_reason lost;

	end_walk(walk, walk->stack.end ?: END_TOO_DEEP);
	tick->key.user_stack = keep_stack(stacks, &walk->stack, tick->key.tgid, &lost);
	if (tick->key.user_stack && !count_sample(counts, &tick->key, &lost))
		counter->sampled++;
	else if (lost < LOST_REASONS)
		counter->lost[lost]++;
}

static __always_inline struct tick *tick_of_this_cpu(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ticks, &zero);
}

/* Begins a tick: its time, and the generation that all it leaves behind must land in. */
static __always_inline struct counters *counters_of(struct tick *tick)
{
	__u64 start = bpf_ktime_get_ns();
	__u32 zero = 0;
	__u32 *now = bpf_map_lookup_elem(&generation, &zero);

	if (!now)
		return 0;
	tick->start = start;
	tick->generation = *(volatile __u32 *)now & 1;
	return bpf_map_lookup_elem(&counters, &tick->generation);
}

SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	struct tick *tick = tick_of_this_cpu();
	struct counters *counter = tick ? counters_of(tick) : 0;

	if (!counter)
		return 0;
	if (begin_tick(ctx, tick, counter)) {
		walk_in_a_loop(&tick->walk);
		end_walked_tick(tick, counter);
	}
	counter->run_ns += bpf_ktime_get_ns() - tick->start;
	return 0;
}

/* The same for kernels without bpf_loop(), which came with 5.17: walked by programs that call each other, a
 * few frames each, as far as the kernel lets them (33 calls).
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} next_program SEC(".maps");

SEC("perf_event")
int walk_on(struct bpf_perf_event_data *ctx)
{
	struct tick *tick = tick_of_this_cpu();

	if (!tick)
		return 0;
	__u32 current = tick->generation & 1;
	struct walk *walk = &tick->walk;
	struct counters *counter = bpf_map_lookup_elem(&counters, &current);

	if (!counter)
		return 0;
	walk->stack.end = 0;
	for (int i = 0; i < STEPS_IN_PROGRAM && !walk->stack.end; i++)
		walk->stack.end = step(walk);
	if (!walk->stack.end)
		bpf_tail_call(ctx, &next_program, 0);
	end_walked_tick(tick, counter);
	counter->run_ns += bpf_ktime_get_ns() - tick->start;
	return 0;
}

SEC("perf_event")
int on_tick_bounded(struct bpf_perf_event_data *ctx)
{
	struct tick *tick = tick_of_this_cpu();
	struct counters *counter = tick ? counters_of(tick) : 0;

	if (!counter)
		return 0;
	if (begin_tick(ctx, tick, counter)) {
		bpf_tail_call(ctx, &next_program, 0);
		counter->lost[LOST_STACK_UNREADABLE]++;
	}
	counter->run_ns += bpf_ktime_get_ns() - tick->start;
	return 0;
}

/* Counts the time of what is not a tick; atomically, as a tick may come in between. */
static __always_inline void charge(__u64 start)
{
	__u32 zero = 0;
	__u32 *now = bpf_map_lookup_elem(&generation, &zero);

	if (!now)
		return;
	__u32 current = *(volatile __u32 *)now & 1;
	struct counters *counter = bpf_map_lookup_elem(&counters, &current);

	if (counter)
		__sync_fetch_and_add(&counter->run_ns, bpf_ktime_get_ns() - start);
}

/* The children of filtered processes belong to the profile, where asked for; a child begins with its parent's
 * mappings.
 */
SEC("tp_btf/sched_process_fork")
int BPF_PROG(on_fork, struct task_struct *parent, struct task_struct *child)
{
	__u64 start = bpf_ktime_get_ns();
	__u32 from = parent->tgid, to = child->tgid;
	__u8 yes = 1;

	if (from == to)
		return 0;
	if (filter_children && bpf_map_lookup_elem(&pids, &from))
		bpf_map_update_elem(&pids, &to, &yes, BPF_ANY);
	copy_mappings(from, to);
	charge(start);
	return 0;
}

/* Told of a new name just before the record of it: of a program's too, when it has no more memory yet than
 * its first stack (begin_new_exec() in fs/exec.c).
 */
SEC("tp_btf/task_rename")
int BPF_PROG(on_rename, struct task_struct *task)
{
	__u64 start = bpf_ktime_get_ns();

	if (!task->mm || task->mm->map_count > 1)
		return 0;
	forget_mappings(task->tgid);
	charge(start);
	return 0;
}

/* A pid that is used again must not be taken for the process that had it. */
SEC("tp_btf/sched_process_exit")
int BPF_PROG(on_exit, struct task_struct *task)
{
	__u64 start = bpf_ktime_get_ns();
	__u32 tgid = task->tgid;

	if (task->signal->live.counter)
		return 0;
	bpf_map_delete_elem(&pids, &tgid);
	forget_mappings(tgid);
	charge(start);
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
