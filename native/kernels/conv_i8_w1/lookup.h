/* 1-bit weights x int8 by table lookup, exact (the idea of T-MAC: Wei et al., 2024, arXiv 2407.00088).
 *
 * 1. With u = q + 128 in 0..255 and w = +1 or -1: sum(w u) = 2 * sum(u where w = +1) - sum(u). The last sum is one number a
 *    pixel, which the driver gives (bsk_tile.total); sum(w (q - z)) = sum(w u) - (128 + z) sum(w), the last term in base.
 * 2. For 4 input channels of a pixel the subset sum has 16 values, at most 4 * 255 = 1020: a table, indexed by 4 weights.
 * 3. A byte shuffle looks up as many output channels as a vector has bytes, so a table has two planes: the low 5 bits of an
 *    entry (at most 31) and the rest (at most 1020 >> 5 = 31). Byte sums hold 8 lookups of each: 8 * 31 = 248.
 * 4. Then they are widened to low + 32 * high in 16 bits: at most 8 * 1020 = 8160, so 16 bits hold 8 of these (65,280);
 *    or any number of them where the pixel's own sum(u), which no subset exceeds, is below 65,536.
 * 5. With 4 low bits (at most 15) a byte holds 17 lookups of the first plane, and of the second as many as sum(u) >> 4 over their inputs
 *    is below 256, for no subset exceeds that: 16 lookups (64 inputs) where these sum to less than 4096, as they do behind a relu
 *    (an average of 64), 8 (32 inputs) where those do (128), and 4 anywhere (4 * 63). The driver gives the sums (bsk_tile.peak).
 * A step is 8 input channels: 64 bytes of tables, and 8 bits of weights an output channel.
 */
#ifndef BSK_LOOKUP_H
#define BSK_LOOKUP_H
#include "../kernel.h"
#define BSK_LOOKUP_STEPS 4   /* of 2 lookups, until byte sums of 5 bits are full */
#define BSK_LOOKUP_WIDENED 8 /* until 16-bit sums are full */
#endif
