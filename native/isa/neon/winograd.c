/* transforms.inl for neon. */
#define BSK_WINOGRAD_ISA neon
#define BSK_WINOGRAD_BYTES 32
#include "winograd/transforms.inl"
