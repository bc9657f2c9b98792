/* conv_i8_i8 with AVX2: 6 pixels x 32 channels in two passes, 2 inputs a step as int16; 3 pixels or fewer in one pass.
 *
 * pmaddubsw would saturate for full-range int8 (2 * 255 * 127 > 32767), so activations and weights are int16 and
 * pmaddwd sums pairs exactly: 16 MACs an operation, 2 a cycle.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define PRODUCTS(four, w) _mm256_madd_epi16(four, LOAD(w))
#include "six_pixels.inl"

void bsk_conv_i8_i8_avx2(const bsk_tile *tile, void *acc) { six_pixels(tile, (int32_t *)acc); }
