/* plain.inl for avx2. */
#define BSK_PLAIN_ISA avx2
#include "plain/plain.inl"
