// Hopper's own instructions: mbarrier, bulk tensor copies, wgmma, dependent launches. common/ptx_sm90.cuh and common/ptx.cuh call
// these by PTX's names.
//
// What the hardware does by itself happens here as late as it can: a bulk copy when no thread can go on without it (with
// a seed: at some time before), a product when it is waited for. Until then its target is poison, so that a missing wait
// is seen in the results; and operands that change between a product's start and its wait are reported. Reported too:
// an mbarrier used before it is initialised, fenced and known to the block, an arrival too many, a wait that never ends
// (how many arrivals and bytes it lacks), a wgmma without fence, work under way when its block ends.
//
// The sums of wgmma are those of mma.sync, a step of 16 along k after the other, each a tensor core's: see tensor.h.
#pragma once

namespace emu {

// Where shared memory begins in the addresses of descriptors and copies. No multiple of 1024: a kernel must align.
constexpr uint32_t SHARED_WINDOW = 1024 + 3 * 128;

// The address of shared memory as instructions take it.
uint32_t shared_address(const void* s);

void mbarrier_init(uint64_t* bar, uint32_t count);
void fence_mbarrier_init();
void mbarrier_arrive(uint64_t* bar);
// At the one that stands there in block `rank` of the cluster.
void mbarrier_arrive_cluster(uint64_t* bar, uint32_t rank);
void mbarrier_arrive_expect_tx(uint64_t* bar, uint32_t bytes);
bool mbarrier_try_wait_parity(uint64_t* bar, uint32_t parity);

// A box of the tensor, from coordinates `at`, innermost first, to shared memory; what lies outside the tensor is 0. With a mask
// that is not 0, to that place of every block of the cluster that it names, by one read.
void bulk_copy(uint32_t rank, void* s_to, const TensorMap* map, uint64_t* bar, const int32_t (&at)[3], uint32_t mask = 0);

// See dependent.h.
inline void griddepcontrol_launch_dependents() {}
void griddepcontrol_wait();

void fence_proxy_async();
void wgmma_fence();
void wgmma_commit_group();
void wgmma_wait_group(uint32_t groups_left);

// d [64, columns] = a [64, 16] b [16, columns], += when `add`; a from registers when `a_fragments` is not null.
// `a_turned`, `b_turned`: the matrix is stored K by K ("MN-major").
void wgmma(uint32_t columns, float* d, const uint32_t* a_fragments, uint64_t a, uint64_t b, bool a_turned, bool b_turned,
           bool add);

}  // namespace emu
