/* acc = sum of activation * weight in float32; the order of the sum is free. */
#ifndef BSK_CONV_F32_F32_H
#define BSK_CONV_F32_F32_H
#include "../kernel.h"
void bsk_conv_f32_f32_scalar(const bsk_tile *tile, void *acc);
void bsk_conv_f32_f32_avx2(const bsk_tile *tile, void *acc);
void bsk_conv_f32_f32_avx512(const bsk_tile *tile, void *acc);
void bsk_conv_f32_f32_neon(const bsk_tile *tile, void *acc);
#define bsk_conv_f32_f32_neon_winograd2 bsk_conv_f32_f32_neon
#define bsk_conv_f32_f32_neon_winograd4 bsk_conv_f32_f32_neon
extern const bsk_special bsk_winograd2_f32_neon, bsk_winograd4_f32_neon;
#define bsk_conv_f32_f32_avx2_winograd2 bsk_conv_f32_f32_avx2
#define bsk_conv_f32_f32_avx2_winograd4 bsk_conv_f32_f32_avx2
#define bsk_conv_f32_f32_avx512_winograd2 bsk_conv_f32_f32_avx512
#define bsk_conv_f32_f32_avx512_winograd4 bsk_conv_f32_f32_avx512
extern const bsk_special bsk_winograd2_f32_avx2, bsk_winograd4_f32_avx2, bsk_winograd2_f32_avx512, bsk_winograd4_f32_avx512;
#endif
