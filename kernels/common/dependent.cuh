// Programmatic dependent launches (sm_90 and newer): a launch that may begin while those before it end, so that its first
// instructions, and the first of its weight, cost no time of their own. What a kernel keeps to that is launched so:
//
// Some thread of it waits, so that the launch behind it waits for all before it too. Before its wait a thread stores nothing to
// global memory and reads nothing there that a launch since the last which waited for all may write; weights, tables and what
// the host has sent it may read. Behind the wait it reads what those wrote by pointers that are not __restrict__: the compiler
// takes the others for constant from the kernel's first instruction on, and reads them through a cache that is not coherent.
//
// The emulator holds launches to it (kernels/emu/dependent.h). A launch that began behind the others waits for nothing here.
#pragma once

#include "common/ptx.cuh"

// Lets the launch behind this one begin, and waits until what those before it wrote is there.
__device__ __forceinline__ void await_predecessors() {
    griddepcontrol_launch_dependents();
    griddepcontrol_wait();
}
