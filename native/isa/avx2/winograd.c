/* transforms.inl for avx2. */
#define BSK_WINOGRAD_ISA avx2
#define BSK_WINOGRAD_BYTES 32
#include "winograd/transforms.inl"
