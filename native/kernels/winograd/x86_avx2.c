/* transforms.inl for avx2. */
#define BSK_WINOGRAD_ISA avx2
#include "transforms.inl"
