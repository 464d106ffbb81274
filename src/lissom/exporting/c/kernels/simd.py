"""What makes loops fast: two products at once (Cortex-M4, M7, M33), and inlining."""

from lissom.exporting.c.kernels.running import Function

SIMD = Function(
    "SIMD",
    """\
/* Two products at once where the processor has them; elsewhere plain C computes the same. */
#if defined(__ARM_FEATURE_SIMD32) && defined(__GNUC__)
#define SIMD
#include <arm_acle.h>
typedef struct { uint32_t bytes; } __attribute__((packed, may_alias)) unaligned;
#define FOUR(p) (((const unaligned *)(p))->bytes)
/* sum + w0 x0 + w1 x1 + w2 x2 + w3 x3, of bytes with and without signs. */
static inline int32_t four_products(uint32_t w, uint32_t x, int32_t sum)
{
    int32_t odd_w, odd_x;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(odd_w) : "r"(w));
    __asm__("uxtb16 %0, %1, ror #8" : "=r"(odd_x) : "r"(x));
    return __smlad(odd_w, odd_x, __smlad(__sxtb16((int32_t)w), __uxtb16((int32_t)x), sum));
}
#endif
""",
    bytes=0,
)

INLINED = Function(
    "INLINED",
    """\
/* Small loops, faster where sizes are known when they are compiled, or registers are free. */
#if defined(__GNUC__)
#define INLINED static inline __attribute__((always_inline))
#else
#define INLINED static inline
#endif
#if defined(__GNUC__) && defined(__arm__)
#define OUTLINED static __attribute__((noinline))
#else
#define OUTLINED static
#endif
""",
    bytes=0,
)
