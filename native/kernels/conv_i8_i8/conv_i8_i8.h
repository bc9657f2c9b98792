/* acc = base + sum of activation * weight, int8 x int8, exact in int32.
 *
 * With rows as u8 = q + 128: sum (q - z) w = sum u w - (128 + z) sum w; the last term is base, the same for every
 * pixel because padding reads as z. With rows as int16 = q - z, base is 0.
 */
#ifndef BSK_CONV_I8_I8_H
#define BSK_CONV_I8_I8_H
#include "../kernel.h"
void bsk_conv_i8_i8_scalar(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_avx2(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_avxvnni(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_avx512(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_amx(const bsk_tile *tile, void *acc);
/* Their tiles multiply transformed inputs, which are int16. */
#define bsk_conv_i8_i8_avx2_winograd2 bsk_conv_i8_i8_avx2
#define bsk_conv_i8_i8_avx2_winograd22 bsk_conv_i8_i8_avx2 /* of stride 2 */
#define bsk_conv_i8_i8_avx2_winograd4 bsk_conv_i8_i8_avx2
void bsk_conv_i16_neon(const bsk_tile *tile, void *acc);
#define bsk_conv_i8_i8_neon_winograd2 bsk_conv_i16_neon
#define bsk_conv_i8_i8_neon_winograd22 bsk_conv_i16_neon
#define bsk_conv_i8_i8_neon_winograd4 bsk_conv_i16_neon
extern const bsk_special bsk_winograd22_i8_neon, bsk_winograd22_i8_avx2;
extern const bsk_special bsk_winograd2_i8_neon, bsk_winograd4_i8_neon;
void bsk_conv_i16_avx512(const bsk_tile *tile, void *acc);
#define bsk_conv_i8_i8_avx512_winograd2 bsk_conv_i16_avx512
#define bsk_conv_i8_i8_avx512_winograd4 bsk_conv_i16_avx512
extern const bsk_special bsk_winograd2_i8_avx2, bsk_winograd4_i8_avx2, bsk_winograd2_i8_avx512, bsk_winograd4_i8_avx512;
extern const bsk_special bsk_amx, bsk_amx_signs;
void bsk_conv_i8_i8_neon(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_neondot(const bsk_tile *tile, void *acc);
void bsk_conv_i8_i8_neoni8mm(const bsk_tile *tile, void *acc);
extern const bsk_special bsk_i8mm;
#endif
