/* transforms.inl for neon. */
#define BSK_WINOGRAD_ISA neon
#include "transforms.inl"
