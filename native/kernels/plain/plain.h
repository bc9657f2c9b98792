/* Loops that compilers vectorise well: rows in the form a kernel wants, the input, pools. One source, compiled once
 * for each instruction set; `plain.inl` is that source.
 */
#ifndef BSK_PLAIN_H
#define BSK_PLAIN_H
#include "../variants.h"
void bsk_table_avx2(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *table); /* also for AVX-512 */
#endif
