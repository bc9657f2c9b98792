/* Loops that compilers vectorise well: rows in the form a kernel wants, the input, pools. One source, compiled once
 * for each instruction set; `plain.inl` is that source.
 */
#ifndef BSK_PLAIN_H
#define BSK_PLAIN_H
#include "../kernel.h"
extern const bsk_plain_kernels bsk_plain_scalar, bsk_plain_avx2, bsk_plain_avx512, bsk_plain_neon;
#endif
