/* The words in which a kernels.inc says how its instruction set is found (BSK_FOUND). */
#ifndef BSK_PROCESSOR_H
#define BSK_PROCESSOR_H
#include "../kernels/kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { EAX, EBX, ECX, EDX };

/* A bit of a register that CPUID fills; 0 where it does not know the leaf. */
BSK_INLINE int cpuid(uint32_t leaf, uint32_t subleaf, int which, int bit) {
  uint32_t r[4];
  if (!__get_cpuid_count(leaf, 0, &r[EAX], &r[EBX], &r[ECX], &r[EDX]) || (subleaf && subleaf > r[EAX])) return 0;
  __cpuid_count(leaf, subleaf, r[EAX], r[EBX], r[ECX], r[EDX]);
  return (int)((r[which] >> bit) & 1);
}

/* Whether the system keeps these registers for a process (the bits of XCR0). */
BSK_INLINE int saved(uint32_t state) {
  uint32_t low, high;
  if (!cpuid(1, 0, ECX, 27)) return 0; /* OSXSAVE */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & state) == state;
}

/* Linux gives the 8 KiB of tile state only to processes that ask. */
BSK_INLINE int may_use_tiles(void) {
#if defined(__linux__)
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
#else
  return 0;
#endif
}

#elif defined(__aarch64__)
#if defined(__linux__)
#include <sys/auxv.h>

BSK_INLINE int hwcap(int bit) { return (int)((getauxval(AT_HWCAP) >> bit) & 1); }
BSK_INLINE int hwcap2(int bit) { return (int)((getauxval(AT_HWCAP2) >> bit) & 1); }
#else
BSK_INLINE int hwcap(int bit) { return (void)bit, 0; }
BSK_INLINE int hwcap2(int bit) { return (void)bit, 0; }
#endif

BSK_INLINE int on_apple(void) {
#if defined(__APPLE__)
  return 1;
#else
  return 0;
#endif
}
#endif
#endif
