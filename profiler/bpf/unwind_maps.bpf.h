/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The unwind tables in BPF maps, which the agent fills, and the walk of a tick's user stack by them. */
#ifndef PILOTLIGHT_UNWIND_MAPS_BPF_H
#define PILOTLIGHT_UNWIND_MAPS_BPF_H

#include "unwind.bpf.h"

#define USER_CS_32 0x23

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16384);
	__type(key, struct block_key);
	__type(value, struct mapping_block);
} mapping_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, struct unwind_file);
} unwind_files SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct unwind_page);
} unwind_pages SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 32768);
	__type(key, __u32);
	__type(value, struct unwind_rule);
} unwind_rules SEC(".maps");

/* Chunks come as they are needed. */
struct chunk_map {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct unwind_chunk));
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__array(values, struct chunk_map);
} unwind_chunks SEC(".maps");

/* What samples asked for since the agent looked last. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, __u64);
	__type(value, __u8);
} wanted SEC(".maps");

static __always_inline int read_user(void *to, __u32 size, __u64 from)
{
	return bpf_probe_read_user(to, size, (const void *)from);
}

static __always_inline const struct mapping_block *mapping_block(const struct block_key *key)
{
	return bpf_map_lookup_elem(&mapping_blocks, key);
}

static __always_inline const struct unwind_file *unwind_file(__u32 number)
{
	return bpf_map_lookup_elem(&unwind_files, &number);
}

static __always_inline const struct unwind_page *unwind_page(__u32 number)
{
	return bpf_map_lookup_elem(&unwind_pages, &number);
}

static __always_inline const struct unwind_rule *unwind_rule(__u32 number)
{
	return bpf_map_lookup_elem(&unwind_rules, &number);
}

static __always_inline const struct unwind_chunk *unwind_chunk(__u32 number)
{
	__u32 zero = 0;
	void *chunk = bpf_map_lookup_elem(&unwind_chunks, &number);

	return chunk ? bpf_map_lookup_elem(chunk, &zero) : 0;
}

static __always_inline void want(__u64 what)
{
	__u8 yes = 1;

	bpf_map_update_elem(&wanted, &what, &yes, BPF_NOEXIST);
}

enum user_code { USER_NONE, USER_64, USER_32 };

#ifdef __TARGET_ARCH_x86
/* Whether the tick came while user code ran, by its privilege level; then there is no kernel stack. */
static __always_inline int in_user_code(struct bpf_perf_event_data *ctx)
{
	return *(volatile __u64 *)&ctx->regs.cs & 3;
}

static __always_inline void use_registers(struct walk *walk, const struct pt_regs *from)
{
	__u64 *to = walk->registers;

	to[RAX] = from->rax, to[RDX] = from->rdx, to[RCX] = from->rcx, to[RBX] = from->rbx;
	to[RSI] = from->rsi, to[RDI] = from->rdi, to[RBP] = from->rbp, to[RSP] = from->rsp;
	to[R8] = from->r8, to[R8 + 1] = from->r9, to[R8 + 2] = from->r10, to[R8 + 3] = from->r11;
	to[R8 + 4] = from->r12, to[R8 + 5] = from->r13, to[R8 + 6] = from->r14, to[R8 + 7] = from->r15;
	walk->ip = from->rip;
}

/* Gets the registers that user code had when it was interrupted, be it by this tick or when it entered the
 * kernel. USER_NONE where there is no such code: in kernel threads, and once a process has given up its
 * memory.
 */
static __always_inline enum user_code user_registers(struct bpf_perf_event_data *ctx, struct walk *walk)
{
	struct pt_regs registers;

	if (in_user_code(ctx)) {
		const volatile struct pt_regs *now = &ctx->regs;

		registers.r15 = now->r15, registers.r14 = now->r14, registers.r13 = now->r13;
		registers.r12 = now->r12, registers.rbp = now->rbp, registers.rbx = now->rbx;
		registers.r11 = now->r11, registers.r10 = now->r10, registers.r9 = now->r9;
		registers.r8 = now->r8, registers.rax = now->rax, registers.rcx = now->rcx;
		registers.rdx = now->rdx, registers.rsi = now->rsi, registers.rdi = now->rdi;
		registers.rip = now->rip, registers.cs = now->cs, registers.rsp = now->rsp;
	} else {
		struct task_struct *task = bpf_get_current_task_btf();

		if (task->flags & PF_KTHREAD || !task->mm)
			return USER_NONE;
		if (bpf_probe_read_kernel(&registers, sizeof(registers), (void *)bpf_task_pt_regs(task)))
			return USER_NONE;
		if (!registers.rip)
			return USER_NONE;
	}
	use_registers(walk, &registers);
	return registers.cs == USER_CS_32 ? USER_32 : USER_64;
}

#else
/* Elsewhere the kernel walks user stacks, by frame pointers, as it does 32-bit ones. */
static __always_inline int in_user_code(struct bpf_perf_event_data *ctx)
{
	return 0;
}

static __always_inline enum user_code user_registers(struct bpf_perf_event_data *ctx, struct walk *walk)
{
	return USER_32;
}
#endif

static __always_inline void copy_mappings(__u32 from, __u32 to)
{
	for (__u32 number = 0; number < MAX_BLOCKS; number++) {
		struct block_key source = {from, number}, target = {to, number};
		const struct mapping_block *block = bpf_map_lookup_elem(&mapping_blocks, &source);

		if (!block)
			return;
		bpf_map_update_elem(&mapping_blocks, &target, block, BPF_ANY);
	}
}

/* Without its first block nothing is known of a process. */
static __always_inline void forget_mappings(__u32 tgid)
{
	for (__u32 number = 0; number < MAX_BLOCKS; number++) {
		struct block_key key = {tgid, number};

		if (bpf_map_delete_elem(&mapping_blocks, &key))
			return;
	}
}

struct walk_context {
	struct walk *walk;
};

static long on_step(__u32 number, struct walk_context *context)
{
	enum walk_end end = step(context->walk);

	context->walk->stack.end = end;
	return !!end;
}

static __always_inline void walk_in_a_loop(struct walk *walk)
{
	struct walk_context context = {walk};

	bpf_loop(MOST_FRAMES_WALKED, on_step, &context, 0);
}

#endif
