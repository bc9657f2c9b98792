/* plain.inl for neon. */
#define BSK_PLAIN_ISA neon
#define BSK_PLAIN_LEVEL BSK_ISA_NEON
#define BSK_PLAIN_NEEDS BSK_CPU_NEON
#include "plain.inl"
