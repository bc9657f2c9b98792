/* plain.inl for avx512. */
#define BSK_PLAIN_ISA avx512
#define BSK_PLAIN_LEVEL BSK_ISA_AVX512
#define BSK_PLAIN_NEEDS BSK_CPU_AVX512
#include "plain.inl"
