/* transforms.inl for avx512. */
#define BSK_WINOGRAD_ISA avx512
#define BSK_WINOGRAD_BYTES 64
#include "winograd/transforms.inl"
