/* What the processor and the operating system allow. Each feature is read on its own: there are machines with AVX-512
 * but no VNNI, with VNNI but no VPOPCNTDQ, and hypervisors that hide any of them. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "bitskip.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

static uint64_t enabled_state(void) {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

/* Linux gives the 8 KiB of tile state only to processes that ask. */
static int may_use_tiles(void) {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
#else
  return 0;
#endif
}

static uint32_t detect(void) {
  uint32_t a, b, c, d, found = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  const int osxsave = (c >> 27) & 1, fma = (c >> 12) & 1, avx = (c >> 28) & 1;
  if (!osxsave || !avx) return 0;
  const uint64_t state = enabled_state();
  if ((state & 0x6) != 0x6) return 0; /* XMM and YMM */
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if (((b >> 5) & 1) && fma) found |= BSK_CPU_AVX2;
  uint32_t a1, b1, c1, d1;
  if ((found & BSK_CPU_AVX2) && a >= 1 && __get_cpuid_count(7, 1, &a1, &b1, &c1, &d1) && ((a1 >> 4) & 1)) found |= BSK_CPU_AVXVNNI;
  if ((state & 0xe0) == 0xe0) { /* masks and ZMM */
    const uint32_t f = (b >> 16) & 1, dq = (b >> 17) & 1, bw = (b >> 30) & 1, vl = (b >> 31) & 1;
    if (f && dq && bw && vl && (found & BSK_CPU_AVX2)) {
      found |= BSK_CPU_AVX512;
      if ((c >> 14) & 1) found |= BSK_CPU_VPOPCNTDQ;
      if ((c >> 11) & 1) found |= BSK_CPU_VNNI;
      if (((d >> 24) & 1) && ((d >> 25) & 1) && (state & 0x60000) == 0x60000 && may_use_tiles()) found |= BSK_CPU_AMX;
    }
  }
  return found;
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>
#endif

static uint32_t detect(void) {
  uint32_t found = BSK_CPU_NEON; /* part of the architecture */
#if defined(__linux__)
  if (getauxval(AT_HWCAP) & (1UL << 20)) found |= BSK_CPU_DOTPROD; /* HWCAP_ASIMDDP */
  if (getauxval(AT_HWCAP2) & (1UL << 13)) found |= BSK_CPU_I8MM;   /* HWCAP2_I8MM */
#elif defined(__APPLE__)
  found |= BSK_CPU_DOTPROD; /* every 64-bit Apple processor since A11's successor; all of the M series */
#endif
  return found;
}

#else
static uint32_t detect(void) { return 0; }
#endif

static _Atomic uint32_t limit = ~(uint32_t)0;

void bsk_cpu_limit(uint32_t allowed) { limit = allowed; }

uint32_t bsk_cpu_features(void) {
  static _Atomic uint32_t known; /* bit 31: asked before */
  if (!known) known = detect() | BSK_CPU_LOOKUP | BSK_CPU_WINOGRAD | 0x80000000u;
  return known & limit & 0x7fffffffu;
}
