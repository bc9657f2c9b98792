/* plain.inl for scalar. */
#define BSK_PLAIN_ISA scalar
#define BSK_PLAIN_LEVEL BSK_ISA_SCALAR
#define BSK_PLAIN_NEEDS 0
#include "plain.inl"
