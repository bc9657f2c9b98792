/* plain.inl for avx2. */
#define BSK_PLAIN_ISA avx2
#define BSK_PLAIN_TABLE bsk_table_avx2
#include "plain/plain.inl"
