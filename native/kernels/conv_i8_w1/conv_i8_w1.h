/* 1-bit weights x int8 activations: weights rest as bits and are expanded to +/-1 a group at a time (a few percent of
 * the time even on 8x8 pictures), then the tile of conv_i8_i8 runs; AVX2 has a tile of its own, because +/-1 lets
 * pmaddubsw sum 64 steps in int16.
 */
#ifndef BSK_CONV_I8_W1_H
#define BSK_CONV_I8_W1_H
#include "../conv_i8_i8/conv_i8_i8.h"
void bsk_unpack_i8_scalar(const void *masks, void *weights, size_t steps);
void bsk_unpack_i8_avx2(const void *masks, void *weights, size_t steps);
void bsk_unpack_i8_avx512(const void *masks, void *weights, size_t steps);
void bsk_unpack_i8_neon(const void *masks, void *weights, size_t steps);
void bsk_unpack_i8_wide_neon(const void *masks, void *weights, size_t steps);
void bsk_conv_i8_w1_avx2(const bsk_tile *tile, void *acc);
void bsk_unpack_subsets_avx2(const void *packed, void *weights, size_t steps);
void bsk_conv_i8_w1_avx2_lookup(const bsk_tile *tile, void *acc);
void bsk_unpack_subsets_neon(const void *packed, void *weights, size_t steps);
void bsk_conv_i8_w1_neon_lookup(const bsk_tile *tile, void *acc);
extern const bsk_special bsk_lookup_avx2, bsk_lookup_neon;
#define bsk_conv_i8_w1_scalar bsk_conv_i8_i8_scalar
#define bsk_conv_i8_w1_avxvnni bsk_conv_i8_i8_avxvnni
#define bsk_conv_i8_w1_avx512 bsk_conv_i8_i8_avx512
#define bsk_conv_i8_w1_avx512_winograd4 bsk_conv_i16_avx512
#define bsk_conv_i8_w1_amx bsk_conv_i8_i8_amx
#define bsk_conv_bits_w1_amx bsk_conv_i8_i8_amx
#define bsk_conv_i8_w1_neon bsk_conv_i8_i8_neon
#define bsk_conv_i8_w1_neondot bsk_conv_i8_i8_neondot
#define bsk_conv_i8_w1_neoni8mm bsk_conv_i8_i8_neoni8mm
#endif
