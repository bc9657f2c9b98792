/* 1-bit weights x float activations: signs expanded to +/-1.0 a group at a time, then the tile of conv_f32_f32. */
#ifndef BSK_CONV_F32_W1_H
#define BSK_CONV_F32_W1_H
#include "../conv_f32_f32/conv_f32_f32.h"
void bsk_unpack_f32_scalar(const void *masks, void *weights, size_t steps);
void bsk_unpack_f32_avx2(const void *masks, void *weights, size_t steps);
void bsk_unpack_f32_avx512(const void *masks, void *weights, size_t steps);
void bsk_unpack_f32_neon(const void *masks, void *weights, size_t steps);
#define bsk_conv_f32_w1_scalar bsk_conv_f32_f32_scalar
#define bsk_conv_f32_w1_avx2 bsk_conv_f32_f32_avx2
#define bsk_conv_f32_w1_avx512 bsk_conv_f32_f32_avx512
#define bsk_conv_f32_w1_neon bsk_conv_f32_f32_neon
#endif
