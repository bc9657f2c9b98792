/* plain.inl for scalar. */
#define BSK_PLAIN_ISA scalar
#include "plain.inl"
