/* int16 x int16 with AVX-512 VNNI, for transformed inputs (winograd.h): 12 pixels x 32 channels, 2 inputs a step.
 *
 * Leans on vpdpwssd (2 a cycle: 64 MACs). 24 accumulators and 2 weights of the 32 registers.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define TILE bsk_conv_i16_avx512
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define MULTIPLY _mm512_dpwssd_epi32
#include "dot_product.inl"
