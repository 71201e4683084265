// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* The peer of lost_samples.py: stacks by bpf_get_stackid into a map of 16,384, as bcc's profile keeps them by
 * default. */
#include <linux/bpf.h>
#include <linux/bpf_perf_event.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_STACK_TRACE);
	__uint(max_entries, 16384);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 127 * sizeof(__u64));
} stacks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} taken_and_lost SEC(".maps");

SEC("perf_event")
int on_tick(struct bpf_perf_event_data *ctx)
{
	if (!(__u32)bpf_get_current_pid_tgid())
		return 0;
	__u32 lost =
	    bpf_get_stackid(ctx, &stacks, BPF_F_USER_STACK) == -17; /* -EEXIST: another stack sits there */
	__u64 *count = bpf_map_lookup_elem(&taken_and_lost, &lost);

	if (count)
		(*count)++;
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
