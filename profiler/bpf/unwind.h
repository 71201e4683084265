/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The layouts of unwind tables in BPF maps, shared with profiler/unwind/; its numpy dtypes mirror them.
 *
 * process → its mappings → file → pages of 64 KB of its text → rows → rule. Files are numbered by the agent,
 * so that a table is shared by all processes that map the file, and comes and goes with one write.
 */
#ifndef PILOTLIGHT_UNWIND_H
#define PILOTLIGHT_UNWIND_H

#define MAPPINGS_IN_BLOCK 32
#define MAX_BLOCKS 32
#define ROWS_IN_CHUNK 16384

/* The mappings of a process stand in blocks of ascending addresses; block 0 says where the others begin. */
struct block_key {
	__u32 tgid;
	__u32 block;
};

struct mapping {
	__u64 start;
	__u64 bias;  /* address + bias = virtual address in the file */
	__u32 pages; /* of 4 KB */
	__u32 file;
};

struct mapping_block {
	__u32 mappings; /* in this block */
	__u32 blocks;	/* in all; block 0 only, as are starts */
	__u64 starts[MAX_BLOCKS];
	struct mapping at[MAPPINGS_IN_BLOCK];
};

enum file_state {
	FILE_WITHOUT_TABLE, /* file 0, code made at run time; files that have no table and will have none */
	FILE_NOT_LOADED,    /* a sample that comes by asks for its table */
	FILE_LOADED,
	FILE_REFUSED, /* its table finds no room, or could not be made, for now */
};

struct unwind_file {
	__u32 state;
	__u32 first_page; /* position in the array of pages */
	__u32 base;	  /* virtual address >> 16 of that page */
	__u32 pages;
};

struct unwind_page {
	__u32 chunk;
	__u16 first;
	__u16 rows; /* at least one; the first is at 0 */
};

/* A row: address & 0xffff | rule << 16. */
struct unwind_chunk {
	__u32 rows[ROWS_IN_CHUNK];
};

enum cfa_kind {
	CFA_NONE,
	CFA_REGISTER, /* register + offset */
	CFA_DEREF,    /* *(register + offset) + add */
	CFA_PLT,      /* rsp + 8, and 8 more from the `offset`th byte of a 16-byte stub on */
	CFA_SIGNAL,   /* the interrupted registers are in the ucontext at rsp */
	CFA_ROOT,     /* no caller */
	CFA_UNSUPPORTED,
};

enum register_kind {
	REGISTER_SAME,
	REGISTER_AT_CFA, /* *(CFA + offset) */
	REGISTER_AT_RBP, /* *(rbp + offset) */
	REGISTER_AT_RSP,
	REGISTER_UNDEFINED,
};

struct unwind_rule {
	__u8 cfa;
	__u8 cfa_register; /* DWARF's number */
	__u8 rbp;
	__u8 rbx;
	__s32 cfa_offset;
	__s16 rbp_offset;
	__s16 rbx_offset;
	__s32 add;
};

#define WANTED_PROCESS (1ull << 32) /* | tgid; else the number of a file */

#endif
