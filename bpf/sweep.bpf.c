/* SPDX-License-Identifier: GPL-2.0 */
/* What no packet and no close will bring up any more: user space has this run every few seconds (BPF_PROG_RUN). It tells
 * what the last flows of a storm carried, ends datagram flows that fell silent, and counts what the tables let go. */
#include "flow.bpf.h"

#define IDLE_NS 3000000000ULL /* a process that began no flow to an end for so long begins anew */

struct pass {
	struct sweep how;
	__u64 boottime;
	__u64 monotonic;
	__u64 taken;
};

/* A close may add to the sum at the same time: flows are taken first, so that none is counted without its bytes twice. */
static long tell_settled(void *map, struct repeat_key *key, struct settled *settled, struct pass *pass)
{
	struct flow flow = {.start = key->start, .cgroup_id = key->cgroup_id, .tgid = key->tgid, .uid = settled->uid};
	__u64 age = pass->boottime - settled->reported;
	struct totals sum = {};

	if ((__s64)age < (__s64)COLLAPSE_NS && !pass->how.all)
		return 0;
	if (!settled->totals.flows) {
		if ((__s64)age > (__s64)IDLE_NS && !bpf_map_delete_elem(map, key))
			pass->taken++;
		return 0;
	}
	settled->reported = pass->boottime;
	sum.flows = __sync_lock_test_and_set(&settled->totals.flows, 0);
	move_totals(&settled->totals, &sum);
	flow.ends = settled->ends;
	send_totals(&flow, &sum, key->more & 3);
	return 0;
}

static long end_silent(void *map, struct datagram_key *key, struct flow *flow, struct pass *pass)
{
	__u64 silence = pass->how.silence;

	if (flow->records[OUTBOUND] > 1 && flow->records[INBOUND] > 1)
		silence *= 4;
	if ((__s64)(pass->monotonic - flow->said) < (__s64)silence)
		return 0;
	settle(flow, CLOSED);
	if (!bpf_map_delete_elem(map, key))
		pass->taken++;
	return 0;
}

/* What was added before the walk, and neither taken out nor met on it, is gone. What is added meanwhile may be met, so
 * this is rather too little; but a walk may also lose its way where entries change, so that it takes two to be sure. */
static __always_inline void balance(struct ledger *ledger, __u64 added, __u64 met, __u64 taken)
{
	__s64 missing = added - ledger->removed - met, sure = ledger->missing;

	__sync_fetch_and_add(&ledger->removed, taken);
	ledger->missing = missing > 0 ? missing : 0;
	if (sure > missing)
		sure = missing;
	if (sure <= (__s64)ledger->evicted)
		return;
	count_many(EVENT_FLOW, COUNT_EVICTED, sure - ledger->evicted);
	ledger->evicted = sure;
}

SEC("syscall")
int on_sweep(struct sweep *how)
{
	struct ledger *sums = ledger_of(TABLE_SETTLEMENTS), *flows = ledger_of(TABLE_DATAGRAMS);
	struct pass pass = {.how = *how, .boottime = bpf_ktime_get_boot_ns(), .monotonic = bpf_ktime_get_ns()};
	__u64 added;
	long met;

	if (!sums || !flows)
		return 0;
	added = flows->added;
	met = bpf_for_each_map_elem(&datagrams, end_silent, &pass, 0);
	balance(flows, added, met, pass.taken);
	pass.taken = 0;
	added = sums->added;
	met = bpf_for_each_map_elem(&settlements, tell_settled, &pass, 0);
	balance(sums, added, met, pass.taken);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
