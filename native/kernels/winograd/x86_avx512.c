/* transforms.inl for avx512. */
#define BSK_WINOGRAD_ISA avx512
#include "transforms.inl"
