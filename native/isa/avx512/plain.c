/* plain.inl for avx512. */
#define BSK_PLAIN_ISA avx512
#include "plain/plain.inl"
