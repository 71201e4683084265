/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/* The few fields of the kernel's own types that are read, found at load time by BTF. */
#ifndef PILOTLIGHT_KERNEL_H
#define PILOTLIGHT_KERNEL_H

struct atomic_only {
	int counter;
};
struct signal_struct {
	struct atomic_only live;
} __attribute__((preserve_access_index));
struct mm_struct {
	int map_count;
} __attribute__((preserve_access_index));
struct task_struct {
	int tgid;
	unsigned int flags;
	struct mm_struct *mm;
	struct signal_struct *signal;
} __attribute__((preserve_access_index));

#define PF_KTHREAD 0x00200000

#endif
