/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Walks a user stack of x86-64 by unwind tables, by frame pointers where a table says nothing.
 *
 * One step at a time, free of BPF: whoever includes this gives the functions declared below. Sources: the
 * System V ABI for x86-64 (DWARF numbers of registers, frame pointers, rbp = 0 in the outermost frame), and
 * Linux's arch/x86/include/asm/sigframe.h and uapi/asm/sigcontext.h for signal frames.
 */
#ifndef PILOTLIGHT_UNWIND_BPF_H
#define PILOTLIGHT_UNWIND_BPF_H

#include "sampler.h"
#include "unwind.h"

static int read_user(void *to, __u32 size, __u64 from);
static const struct mapping_block *mapping_block(const struct block_key *key);
static const struct unwind_file *unwind_file(__u32 number);
static const struct unwind_page *unwind_page(__u32 number);
static const struct unwind_chunk *unwind_chunk(__u32 number);
static const struct unwind_rule *unwind_rule(__u32 number);
static void want(__u64 what);

enum { RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R8, R15 = 15, REGISTERS };

/* Where a ucontext has its general registers, and in what order: r8…r15, then these, then rip. */
#define UCONTEXT_REGISTERS 40
enum { UC_RDI = 8, UC_RSI, UC_RBP, UC_RBX, UC_RDX, UC_RAX, UC_RCX, UC_RSP, UC_RIP, UC_REGISTERS };

#define SIGRETURN_LENGTH 9
#define SYSCALL_LENGTH 2
#define LARGEST_FRAME (64ull << 20)
#define SMALLEST_ADDRESS 4096
#define UNKNOWN_RBP 1 /* can be no frame pointer */

struct walk {
	__u64 registers[REGISTERS];
	__u64 ip;
	__u64 rbx_at; /* where this frame's rbx was saved; 0: in registers */
	__u32 tgid;
	__u32 frames;
	__u32 interrupted; /* this frame was: ip is no return address, and all registers are known */
	__u32 root_by_frame_pointer;
	struct mapping mapping; /* of the address looked up last */
	struct unwind_file file;
	__u64 context[UC_REGISTERS];
	__u64 root_addresses[ROOT_FRAMES];
	struct stack stack;
};

/* The last i of n with starts(i) <= address, which starts(0) is; without a branch, which verifies faster. */
#define SEARCH(position, n, most, start, address)                                                            \
	for (__u32 step_ = 0, left_ = (n); step_ < (most) && left_ > 1; step_++) {                           \
		__u32 half_ = left_ >> 1, middle_ = (position) + half_;                                      \
		(position) += half_ & ~(__u32)((__s64)((__u64)(address) - (__u64)(start)) >> 63);            \
		left_ -= half_;                                                                              \
	}

/* Makes the mapping of an address the walk's. 0, or why not. */
static __always_inline enum walk_end find_mapping(struct walk *walk, __u64 address)
{
	if (address - walk->mapping.start < (__u64)walk->mapping.pages << 12)
		return 0;
	struct block_key key = {.tgid = walk->tgid};
	const struct mapping_block *block = mapping_block(&key);

	if (!block)
		return END_NO_PROCESS;
	if (block->blocks > 1) {
		__u32 last = 0;

		SEARCH(last, block->blocks, 5, block->starts[middle_ & (MAX_BLOCKS - 1)], address);
		if (last) {
			key.block = last;
			block = mapping_block(&key);
			if (!block)
				return END_NO_MAPPING;
		}
	}
	__u32 at = 0;

	SEARCH(at, block->mappings, 5, block->at[middle_ & (MAPPINGS_IN_BLOCK - 1)].start, address);
	const struct mapping *mapping = &block->at[at & (MAPPINGS_IN_BLOCK - 1)];

	if (address - mapping->start >= (__u64)mapping->pages << 12)
		return END_NO_MAPPING;
	const struct unwind_file *file = unwind_file(mapping->file);

	if (!file)
		return END_NO_MAPPING;
	walk->mapping = *mapping;
	walk->file = *file;
	return 0;
}

/* The rule for an address, or NULL with the reason in *why. */
static __always_inline const struct unwind_rule *find_rule(struct walk *walk, __u64 address,
							   enum walk_end *why)
{
	*why = find_mapping(walk, address);
	if (*why) {
		/* No mapping of code that runs is known where records of it are still on their way, or were
		 * lost. */
		if (*why == END_NO_PROCESS || (walk->interrupted && *why == END_NO_MAPPING))
			want(WANTED_PROCESS | walk->tgid);
		return 0;
	}
	if (walk->file.state != FILE_LOADED) {
		*why = walk->file.state == FILE_WITHOUT_TABLE ? END_NO_TABLE : END_TABLE_NOT_LOADED;
		if (walk->file.state == FILE_NOT_LOADED)
			want(walk->mapping.file);
		return 0;
	}
	*why = END_NO_ROW;
	__u64 virtual = address + walk->mapping.bias;
	__u64 number = (virtual >> 16) - walk->file.base;

	if (number >= walk->file.pages)
		return 0;
	const struct unwind_page *page = unwind_page(walk->file.first_page + number);

	if (!page)
		return 0;
	const struct unwind_chunk *chunk = unwind_chunk(page->chunk);

	if (!chunk)
		return 0;
	__u32 row = page->first;

	SEARCH(row, page->rows, 14, chunk->rows[middle_ & (ROWS_IN_CHUNK - 1)] & 0xffff, virtual & 0xffff);
	const struct unwind_rule *rule = unwind_rule(chunk->rows[row & (ROWS_IN_CHUNK - 1)] >> 16);

	return rule && rule->cfa != CFA_NONE ? rule : 0;
}

static __always_inline void keep_frame(struct walk *walk, __u64 address)
{
	__u32 frame = walk->frames;

	if (frame < MAX_FRAMES)
		walk->stack.addresses[frame] = address;
	if (frame >= LEAF_FRAMES)
		walk->root_addresses[frame & (ROOT_FRAMES - 1)] = address;
	walk->root_by_frame_pointer &= ~(1u << (frame & (ROOT_FRAMES - 1)));
	walk->frames = frame + 1;
}

/* Notes that the caller of the frame kept last was found by frame pointer. */
static __always_inline void mark_by_frame_pointer(struct walk *walk)
{
	__u32 frame = walk->frames - 1, word = frame >> 6;

	barrier_var(word); /* the verifier must see the bound on the very register that indexes */
	if (frame < MAX_FRAMES)
		walk->stack.by_frame_pointer[word & 1] |= 1ull << (frame & 63);
	walk->root_by_frame_pointer |= 1u << (frame & (ROOT_FRAMES - 1));
}

/* Goes on at the instruction that a signal interrupted. `context`: where the ucontext is. */
static __always_inline enum walk_end step_over_signal(struct walk *walk, __u64 context)
{
	if (read_user(walk->context, sizeof(walk->context), context + UCONTEXT_REGISTERS))
		return END_UNREADABLE;
	for (__u32 i = 0; i < 8; i++)
		walk->registers[R8 + i] = walk->context[i];
	walk->registers[RDI] = walk->context[UC_RDI];
	walk->registers[RSI] = walk->context[UC_RSI];
	walk->registers[RBP] = walk->context[UC_RBP];
	walk->registers[RBX] = walk->context[UC_RBX];
	walk->registers[RDX] = walk->context[UC_RDX];
	walk->registers[RAX] = walk->context[UC_RAX];
	walk->registers[RCX] = walk->context[UC_RCX];
	walk->registers[RSP] = walk->context[UC_RSP];
	walk->ip = walk->context[UC_RIP];
	walk->rbx_at = 0;
	walk->interrupted = 1;
	return 0;
}

/* Whether the instructions at an address return from a signal handler: mov $15, %rax (or %eax); syscall. */
static __always_inline int returns_from_signal(__u64 address)
{
	__u8 code[SIGRETURN_LENGTH + 3] = {};

	if (read_user(code, SIGRETURN_LENGTH, address))
		return 0;
	__u64 first = *(__u64 *)code;

	return (first == 0x0f0000000fc0c748ull && code[8] == 0x05) || (first << 8) == 0x050f0000000fb800ull;
}

/* Whether the interrupted code is inside a system call that it made itself. */
static __always_inline int called_kernel(const struct walk *walk)
{
	__u8 code[SYSCALL_LENGTH];

	return !read_user(code, sizeof(code), walk->ip - sizeof(code)) && code[0] == 0x0f && code[1] == 0x05;
}

/* Where no rule says how to go on, for the reason `why`. */
static __always_inline enum walk_end step_by_frame_pointer(struct walk *walk, enum walk_end why)
{
	__u64 rbp = walk->registers[RBP], rsp = walk->registers[RSP], pair[2];
	/* Only code that is known to have no rule may be taken for the outermost frame, and of that no leaf,
	 * whose rbp may be anything.
	 */
	int known = !walk->interrupted && (why == END_NO_TABLE || why == END_NO_ROW);
	enum walk_end root = known ? END_ROOT : why;

	if (!walk->interrupted && returns_from_signal(walk->ip))
		return step_over_signal(walk, rsp);
	if (!rbp && !walk->interrupted)
		return root;
	/* glibc's clone3 describes itself up to its syscall only, where it has nothing on the stack. */
	if (walk->interrupted && called_kernel(walk) && !read_user(pair, sizeof(pair[0]), rsp) &&
	    pair[0] >= SMALLEST_ADDRESS && !find_mapping(walk, pair[0] - 1)) {
		walk->ip = pair[0];
		walk->registers[RSP] = rsp + 8;
		walk->interrupted = 0;
		return 0;
	}
	if ((rbp & 7) || rbp < rsp || rbp - rsp > LARGEST_FRAME || read_user(pair, sizeof(pair), rbp))
		return why;
	if (!pair[1])
		return root;
	/* What is on the stack is taken for a return address only if it leads into code. */
	if (pair[1] < SMALLEST_ADDRESS || find_mapping(walk, pair[1] - 1) == END_NO_MAPPING)
		return why;
	mark_by_frame_pointer(walk);
	walk->ip = pair[1];
	walk->registers[RSP] = rbp + 16;
	walk->registers[RBP] = pair[0];
	walk->rbx_at = 0;
	walk->interrupted = 0;
	return 0;
}

/* The value of the register a rule goes out from. 0, or why it is not known. */
static __always_inline enum walk_end base_of(struct walk *walk, const struct unwind_rule *rule, __u64 *base)
{
	__u32 number = rule->cfa_register & (REGISTERS - 1);

	if (number == RBX && walk->rbx_at)
		return read_user(base, sizeof(*base), walk->rbx_at) ? END_UNREADABLE : 0;
	/* Of a caller only these are followed. */
	if (number != RSP && number != RBP && number != RBX && !walk->interrupted)
		return END_UNSUPPORTED_RULE;
	*base = walk->registers[number];
	return 0;
}

/* Finds a frame's caller by its rule. 0, or why the walk ends here. */
static __always_inline enum walk_end step_by_rule(struct walk *walk, const struct unwind_rule *rule)
{
	__u64 rsp = walk->registers[RSP], rbp = walk->registers[RBP], cfa, pair[2];
	enum walk_end end;

	switch (rule->cfa) {
	case CFA_ROOT:
		return END_ROOT;
	case CFA_SIGNAL:
		return step_over_signal(walk, rsp);
	case CFA_PLT:
		cfa = rsp + 8 + ((walk->ip & 15) >= (__u32)rule->cfa_offset ? 8 : 0);
		break;
	case CFA_REGISTER:
	case CFA_DEREF:
		end = base_of(walk, rule, &cfa);
		if (end)
			return end;
		cfa += (__s64)rule->cfa_offset;
		if (rule->cfa == CFA_DEREF) {
			if (read_user(&cfa, sizeof(cfa), cfa))
				return END_UNREADABLE;
			cfa += (__s64)rule->add;
		}
		break;
	default:
		return END_UNSUPPORTED_RULE;
	}
	if (cfa <= rsp)
		return END_NOT_GROWING;
	if (read_user(pair, sizeof(pair), cfa - sizeof(pair)))
		return END_UNREADABLE;
	if (!pair[1])
		return END_ROOT;
	/* GCC's rules by rbp stay in force when the end of a realigned function has popped the caller's. */
	int restored = rbp - rsp >= cfa - rsp;

	if (rule->rbp == REGISTER_AT_CFA && rule->rbp_offset == -16) {
		walk->registers[RBP] = pair[0];
	} else if (rule->rbp == REGISTER_UNDEFINED) {
		walk->registers[RBP] = UNKNOWN_RBP;
	} else if (rule->rbp != REGISTER_SAME && !(rule->rbp == REGISTER_AT_RBP && restored)) {
		__u64 at = rule->rbp == REGISTER_AT_CFA ? cfa : rule->rbp == REGISTER_AT_RBP ? rbp : rsp;

		if (read_user(&walk->registers[RBP], sizeof(__u64), at + (__s64)rule->rbp_offset))
			return END_UNREADABLE;
	}
	/* rbx is read only should a caller need it. */
	if (rule->rbx == REGISTER_AT_CFA)
		walk->rbx_at = cfa + (__s64)rule->rbx_offset;
	else if (rule->rbx == REGISTER_AT_RBP && !restored)
		walk->rbx_at = rbp + (__s64)rule->rbx_offset;
	else if (rule->rbx == REGISTER_AT_RSP)
		walk->rbx_at = rsp + (__s64)rule->rbx_offset;
	walk->ip = pair[1];
	walk->registers[RSP] = cfa;
	walk->interrupted = 0;
	return 0;
}

/* Keeps the frame in hand and goes to its caller. 0, or why the walk ends here. */
static __always_inline enum walk_end step(struct walk *walk)
{
	__u64 address = walk->ip - !walk->interrupted;
	enum walk_end why;

	keep_frame(walk, address);
	const struct unwind_rule *rule = find_rule(walk, address, &why);

	return rule ? step_by_rule(walk, rule) : step_by_frame_pointer(walk, why);
}

static __always_inline void begin_walk(struct walk *walk, __u32 tgid)
{
	walk->tgid = tgid;
	walk->frames = 0;
	walk->interrupted = 1;
	walk->rbx_at = 0;
	walk->root_by_frame_pointer = 0;
	walk->mapping.pages = 0;
	walk->stack.by_frame_pointer[0] = walk->stack.by_frame_pointer[1] = 0;
}

/* Makes the frames a stack: all of them, or those at the leaf and at the root with the cut marked between. */
static __always_inline void end_walk(struct walk *walk, enum walk_end end)
{
	struct stack *stack = &walk->stack;
	__u32 frames = walk->frames, turn = frames & (ROOT_FRAMES - 1);

	stack->end = end;
	stack->length = frames;
	if (frames <= MAX_FRAMES)
		return;
	stack->length = MAX_FRAMES;
	stack->addresses[LEAF_FRAMES] = CUT_MARK;
	for (__u32 i = 0; i < ROOT_FRAMES; i++)
		stack->addresses[LEAF_FRAMES + 1 + i] = walk->root_addresses[(turn + i) & (ROOT_FRAMES - 1)];
	__u32 marks = walk->root_by_frame_pointer;

	marks = turn ? marks >> turn | marks << (ROOT_FRAMES - turn) : marks;
	stack->by_frame_pointer[1] &= (1ull << (LEAF_FRAMES - 64)) - 1;
	stack->by_frame_pointer[1] |= (__u64)marks << (LEAF_FRAMES + 1 - 64);
}

#endif
