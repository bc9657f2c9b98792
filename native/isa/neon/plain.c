/* plain.inl for neon. */
#define BSK_PLAIN_ISA neon
#include "plain/plain.inl"
