/* conv_i8_i8 with AVX-512 VNNI: 8 pixels x 32 channels, 4 inputs a step.
 *
 * Leans on vpdpbusd (2 a cycle: 128 MACs) and broadcasts that cost a load only. Its u8 operand is the activation, so
 * weights keep their sign and no sum over activations is needed.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define TILE bsk_conv_i8_i8_avx512
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define MULTIPLY _mm512_dpbusd_epi32
#include "dot_product.inl"
