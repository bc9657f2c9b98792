/* plain.inl for avx2. */
#define BSK_PLAIN_ISA avx2
#define BSK_PLAIN_LEVEL BSK_ISA_AVX2
#define BSK_PLAIN_NEEDS BSK_CPU_AVX2
#include "plain.inl"
