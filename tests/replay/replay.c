// Walks stacks by profiler/bpf/unwind.bpf.h in user space: over memory, maps and registers that come on
// standard input, with every step told on standard output. The formats of both are mirrored in replayer.py.
//
// Built with the address and undefined behaviour sanitizers: each map is an allocation of its own, exactly as
// large as what came, so that a read beside it ends the program.
#include <linux/types.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define barrier_var(variable) __asm__ volatile("" : "+r"(variable))

#include "unwind.bpf.h"

#define USER_ADDRESSES (1ull << 47)
#define MOST_REGIONS 65536
#define MOST_CHUNKS 1024
#define MOST_BLOCK_SLOTS 4096
#define NO_RULE (~0u)

enum message { CLEAR, CLEAR_MEMORY, MEMORY, BLOCK, FILES, PAGES, CHUNK, RULES, WALK };

struct header {
	__u32 message;
	__u32 number; /* of the region, block, or chunk; of the process to walk in */
	__u64 at;     /* where the region begins; the block's process */
	__u64 size;   /* of the body that follows */
};

struct start {
	__u64 registers[REGISTERS];
	__u64 ip;
};

/* What a walk comes to; `steps` structs follow. */
struct result {
	__u64 wanted; /* 0: nothing */
	__u64 steps;
	struct stack stack;
};

struct step_taken {
	__u64 address;
	__u64 rsp, rbp; /* before */
	__u64 next_rsp; /* after: the CFA, where a rule led on */
	__u32 rule;	/* NO_RULE: none was looked up */
	__u32 end;	/* 0: it goes on */
	__u32 by_frame_pointer;
	__u32 padding;
};

struct region {
	__u64 start, size;
	__u8 *bytes;
};

struct slot {
	struct block_key key;
	struct mapping_block *block;
};

static struct region regions[MOST_REGIONS];
static struct slot blocks[MOST_BLOCK_SLOTS];
static __u32 region_count, block_count, file_count, page_count, rule_count;
static struct unwind_file *files;
static struct unwind_page *pages;
static struct unwind_rule *rules;
static struct unwind_chunk *chunks[MOST_CHUNKS];
static __u32 last_rule;
static __u64 wanted;

static const struct region *region_of(__u64 address)
{
	for (__u32 i = 0; i < region_count; i++)
		if (address - regions[i].start < regions[i].size)
			return &regions[i];
	return NULL;
}

/* As bpf_probe_read_user(): all or, with zeros in its place, nothing. */
static int read_user(void *to, __u32 size, __u64 from)
{
	__u32 done = 0;

	while (done < size) {
		__u64 at = from + done;
		const struct region *region = at < USER_ADDRESSES ? region_of(at) : NULL;

		if (!region) {
			memset(to, 0, size);
			return -1;
		}
		__u64 left = region->size - (at - region->start);
		__u32 part = left < size - done ? left : size - done;

		memcpy((__u8 *)to + done, region->bytes + (at - region->start), part);
		done += part;
	}
	return 0;
}

static const struct mapping_block *mapping_block(const struct block_key *key)
{
	for (__u32 i = 0; i < block_count; i++)
		if (blocks[i].key.tgid == key->tgid && blocks[i].key.block == key->block)
			return blocks[i].block;
	return NULL;
}

static const struct unwind_file *unwind_file(__u32 number)
{
	return number < file_count ? &files[number] : NULL;
}

static const struct unwind_page *unwind_page(__u32 number)
{
	return number < page_count ? &pages[number] : NULL;
}

static const struct unwind_chunk *unwind_chunk(__u32 number)
{
	return number < MOST_CHUNKS ? chunks[number] : NULL;
}

static const struct unwind_rule *unwind_rule(__u32 number)
{
	if (number >= rule_count)
		return NULL;
	last_rule = number;
	return &rules[number];
}

static void want(__u64 what)
{
	wanted = what;
}

static void fail(const char *what)
{
	fprintf(stderr, "replay: %s\n", what);
	exit(2);
}

/* The walk of unwind_maps.bpf.h, step by step. */
static void walk_and_tell(struct walk *walk, __u32 tgid, const struct start *start)
{
	static struct step_taken taken[MOST_FRAMES_WALKED];
	struct result result = {};
	enum walk_end end = 0;

	/* What an earlier walk left behind must not matter. */
	memset(walk, 0xa5, sizeof(*walk));
	memcpy(walk->registers, start->registers, sizeof(walk->registers));
	walk->ip = start->ip;
	wanted = 0;
	begin_walk(walk, tgid);
	while (!end && result.steps < MOST_FRAMES_WALKED) {
		struct step_taken *now = &taken[result.steps++];

		now->address = walk->ip - !walk->interrupted;
		now->rsp = walk->registers[RSP];
		now->rbp = walk->registers[RBP];
		last_rule = NO_RULE;
		end = step(walk);
		now->next_rsp = walk->registers[RSP];
		now->rule = last_rule;
		now->end = end;
		now->by_frame_pointer =
		    !end && !walk->interrupted && (last_rule == NO_RULE || rules[last_rule].cfa == CFA_NONE);
	}
	end_walk(walk, end ? end : END_TOO_DEEP);
	result.wanted = wanted;
	result.stack = walk->stack;
	fwrite(&result, sizeof(result), 1, stdout);
	fwrite(taken, sizeof(taken[0]), result.steps, stdout);
}

static void clear_memory(void)
{
	while (region_count) {
		free(regions[--region_count].bytes);
		regions[region_count].bytes = NULL;
	}
}

static void clear(void)
{
	clear_memory();
	while (block_count)
		free(blocks[--block_count].block);
	for (__u32 i = 0; i < MOST_CHUNKS; i++) {
		free(chunks[i]);
		chunks[i] = NULL;
	}
	free(files);
	free(pages);
	free(rules);
	files = NULL, pages = NULL, rules = NULL;
	file_count = page_count = rule_count = 0;
}

/* Takes over the body of a message; an allocation of its size, NULL for an empty one. */
static void take(const struct header *header, void *body)
{
	__u32 number = header->number;

	switch (header->message) {
	case MEMORY:
		if (number > region_count || number >= MOST_REGIONS)
			fail("a region out of order");
		if (number == region_count)
			region_count++;
		free(regions[number].bytes);
		regions[number] = (struct region){header->at, header->size, body};
		return;
	case BLOCK:
		if (block_count >= MOST_BLOCK_SLOTS || header->size != sizeof(struct mapping_block))
			fail("a block too many, or not of its size");
		blocks[block_count++] = (struct slot){{header->at, number}, body};
		return;
	case FILES:
		free(files);
		files = body;
		file_count = header->size / sizeof(*files);
		return;
	case PAGES:
		free(pages);
		pages = body;
		page_count = header->size / sizeof(*pages);
		return;
	case RULES:
		free(rules);
		rules = body;
		rule_count = header->size / sizeof(*rules);
		return;
	case CHUNK:
		if (number >= MOST_CHUNKS || header->size != sizeof(struct unwind_chunk))
			fail("a chunk too many, or not of its size");
		free(chunks[number]);
		chunks[number] = body;
		return;
	}
	fail("an unknown message");
}

static void answer(const struct header *header, const struct start *starts, struct walk *walk)
{
	for (__u64 i = 0; i < header->size / sizeof(*starts); i++)
		walk_and_tell(walk, header->number, &starts[i]);
	fflush(stdout);
}

int main(void)
{
	struct header header;
	struct walk *walk = malloc(sizeof(*walk));

	while (fread(&header, sizeof(header), 1, stdin) == 1) {
		void *body = header.size ? malloc(header.size) : NULL;

		if (header.size && (!body || fread(body, header.size, 1, stdin) != 1))
			fail("a message is cut short");
		switch (header.message) {
		case CLEAR:
			free(body);
			clear();
			break;
		case CLEAR_MEMORY:
			free(body);
			clear_memory();
			break;
		case WALK:
			answer(&header, body, walk);
			free(body);
			break;
		default:
			take(&header, body);
		}
	}
	clear();
	free(walk);
	return 0;
}
