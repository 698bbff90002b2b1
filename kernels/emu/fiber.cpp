// The context switch: callee-saved registers on the old stack, stack pointers exchanged. A few nanoseconds.
//
// The jump at the end is indirect instead of a `ret`, which the processor would predict wrongly every time.

#include "emu/fiber.h"

#if defined(__x86_64__)

asm(R"(
    .text
    .globl haggle_emu_switch
haggle_emu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
)");

void* emu::fiber_prepare(char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes);
  top[-1] = nullptr;  // the return address of `entry`, which never returns
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  return top - 8;
}

#elif defined(__aarch64__)

asm(R"(
    .text
    .globl haggle_emu_switch
haggle_emu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    br x30
)");

void* emu::fiber_prepare(char* stack, size_t bytes, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + bytes - 160);
  for (int i = 0; i < 20; ++i) top[i] = nullptr;
  top[11] = reinterpret_cast<void*>(entry);  // x30
  return top;
}

#else

#include <stdlib.h>
#include <ucontext.h>

// `sp` is a ucontext here; slow, but it runs everywhere.
void haggle_emu_switch(void** save, void* to) {
  ucontext_t* from = static_cast<ucontext_t*>(malloc(sizeof(ucontext_t)));
  *save = from;
  swapcontext(from, static_cast<ucontext_t*>(to));
  free(from);
}

void* emu::fiber_prepare(char* stack, size_t bytes, void (*entry)()) {
  ucontext_t* context = static_cast<ucontext_t*>(malloc(sizeof(ucontext_t)));
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}

#endif
