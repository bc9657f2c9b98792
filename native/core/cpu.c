/* What the processor and the operating system allow. Each feature is read on its own: there are machines with AVX-512
 * but no VNNI, with VNNI but no VPOPCNTDQ, and hypervisors that hide any of them. What finds an instruction set stands in
 * its kernels.inc, in the words of processor.h; sets that the build leaves out are not found. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "processor.h"

static uint32_t detect(void) {
  uint32_t found = 0;
#define BIT ((uint32_t)BSK_OF(bsk_bit_, BSK_SET))
#define NEEDS ((uint32_t)BSK_OF(bsk_needs_, BSK_SET))
#define BSK_FOUND(expression) \
  if ((NEEDS & ~(found | BIT)) == 0 && (expression)) found |= BIT;
#include "../kernels/variants.inc"
  return found;
}

static _Atomic uint32_t limit = ~(uint32_t)0;

void bsk_cpu_limit(uint32_t allowed) { limit = allowed; }

uint32_t bsk_cpu_features(void) {
  static _Atomic uint32_t known; /* bit 31: asked before */
  if (!known) known = detect() | BSK_CPU_LOOKUP | BSK_CPU_WINOGRAD | 0x80000000u;
  return known & limit & 0x7fffffffu;
}
