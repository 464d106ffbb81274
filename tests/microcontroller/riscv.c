/* Start-up of a 32-bit RISC-V, its semihosting and its clock: the count of instructions itself. */
#include "board.h"

/* The three instructions lie in one page, uncompressed; "memory" keeps the arguments in place. */
__attribute__((noinline, aligned(16))) static uintptr_t semihost(uintptr_t call, void *arguments) {
    register uintptr_t a0 __asm__("a0") = call;
    register void *a1 __asm__("a1") = arguments;
    __asm__ volatile(
        ".option push\n .option norvc\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, 7\n .option pop"
        : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}

#include "semihosting.h"

int main(void);

__attribute__((used)) static void reset(void) {
    prepare_memory();
    leave(main());
}

__attribute__((section(".start"), naked, used)) void start(void) {
    __asm__ volatile("la sp, stack_start\n j reset");
}

uint32_t ticks(void) {
    uint32_t count;
    __asm__ volatile("csrr %0, minstret" : "=r"(count));
    return count;
}
