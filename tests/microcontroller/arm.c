/* Start-up of a Cortex-M, its semihosting and its clock: SysTick, which qemu counts by instructions. */
#include "board.h"

static uintptr_t semihost(uintptr_t call, void *arguments) {
    register uintptr_t r0 __asm__("r0") = call;
    register void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

#include "semihosting.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010)
#define SYSTICK_RELOAD REGISTER(0xE000E014)
#define SYSTICK_VALUE REGISTER(0xE000E018)
#define COPROCESSORS REGISTER(0xE000ED88)

extern uint32_t stack_start[];
int main(void);

__attribute__((used)) static void reset(void) {
#if __ARM_FP
    COPROCESSORS |= 0xFu << 20;
    __asm__ volatile("dsb\n isb");
#endif
    prepare_memory();
    SYSTICK_RELOAD = 0xFFFFFF;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5; /* on, by the processor's clock */
    leave(main());
}

static void fault(void) { leave(99); }

uint32_t ticks(void) { return 0xFFFFFF - SYSTICK_VALUE; } /* it counts down, 24 bits */

__attribute__((section(".start"), used)) static const void *const vectors[16] = {
    stack_start, reset, fault, fault, fault, fault, fault, fault,
    fault,       fault, fault, fault, fault, fault, fault, fault,
};
