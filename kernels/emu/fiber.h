// Switching stacks. Assembly on x86-64 and aarch64, ucontext elsewhere.
#pragma once

#include <stddef.h>

// Saves the caller's registers, its stack pointer into `*save`, and goes on where `to` was saved.
extern "C" void haggle_emu_switch(void** save, void* to) asm("haggle_emu_switch");

namespace emu {
// A stack pointer that, switched to, calls `entry`, which must never return.
void* fiber_prepare(char* stack, size_t bytes, void (*entry)());
}  // namespace emu
