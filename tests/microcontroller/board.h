/* What main.c asks of the machine that it runs on: arm.c, riscv.c or host.c. */
#include <stddef.h>
#include <stdint.h>

int open_file(const char *name, int for_writing); /* a handle, or a negative number */
int read_file(int handle, void *bytes, size_t n); /* whether all n bytes were there */
int write_file(int handle, const void *bytes, size_t n);
uint32_t ticks(void);      /* a clock that counts up, in the bits of CLOCK_MASK */
uint32_t *stack_end(void); /* the lowest word that the stack may grow to, or 0 */

static inline uint32_t *stack_pointer(void) {
    uint32_t *now = 0;
#if defined(__arm__)
    __asm__ volatile("mov %0, sp" : "=r"(now));
#elif defined(__riscv)
    __asm__ volatile("mv %0, sp" : "=r"(now));
#endif
    return now;
}

#define KNOWN 100000 /* instructions, which tell how many a tick is */

static inline void run_known_instructions(void) {
    uint32_t rounds = KNOWN / 2;
#if defined(__arm__)
    __asm__ volatile(".syntax unified\n 1: subs %0, #1\n bne 1b" : "+l"(rounds) : : "cc");
#elif defined(__riscv)
    __asm__ volatile("1: addi %0, %0, -1\n bnez %0, 1b" : "+r"(rounds));
#endif
    (void)rounds;
}
