/* plain.inl for avx512. */
#define BSK_PLAIN_ISA avx512
#define BSK_PLAIN_TABLE bsk_table_avx2
#include "plain/plain.inl"
