/* What the processor and the operating system allow. Each feature is read on its own: there are machines with AVX-512
 * but no VNNI, with VNNI but no VPOPCNTDQ, and hypervisors that hide any of them. */
#include "bitskip.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>

static uint64_t enabled_state(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

uint32_t bsk_cpu_features(void) {
  uint32_t a, b, c, d, found = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const int osxsave = (c >> 27) & 1, fma = (c >> 12) & 1, avx = (c >> 28) & 1;
  if (!osxsave || !avx) return 0;
  const uint64_t state = enabled_state();
  if ((state & 0x6) != 0x6) return 0; /* XMM and YMM */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if (((b >> 5) & 1) && fma) found |= BSK_CPU_AVX2;
  if ((state & 0xe0) == 0xe0) { /* masks and ZMM */
    const uint32_t f = (b >> 16) & 1, dq = (b >> 17) & 1, bw = (b >> 30) & 1, vl = (b >> 31) & 1;
    if (f && dq && bw && vl && (found & BSK_CPU_AVX2)) {
      found |= BSK_CPU_AVX512;
      if ((c >> 14) & 1) found |= BSK_CPU_VPOPCNTDQ;
      if ((c >> 11) & 1) found |= BSK_CPU_VNNI;
    }
  }
  return found;
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

uint32_t bsk_cpu_features(void) {
  uint32_t found = BSK_CPU_NEON; /* part of the architecture */
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & (1UL << 20)) found |= BSK_CPU_DOTPROD; /* HWCAP_ASIMDDP */
#elif defined(__APPLE__)
  found |= BSK_CPU_DOTPROD; /* every 64-bit Apple processor since A11's successor; all of the M series */
#endif
  return found;
}

#else
uint32_t bsk_cpu_features(void) { return 0; }
#endif
