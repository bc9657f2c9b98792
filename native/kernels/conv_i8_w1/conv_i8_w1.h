/* 1-bit weights x int8 activations: weights rest as bits and are expanded to +/-1 a group at a time (a few percent of
 * the time even on 8x8 pictures), then the tile of conv_i8_i8 runs; AVX2 has a tile of its own, because +/-1 lets
 * pmaddubsw sum 64 steps in int16.
 */
#ifndef BSK_CONV_I8_W1_H
#define BSK_CONV_I8_W1_H
#include "../variants.h"
#endif
