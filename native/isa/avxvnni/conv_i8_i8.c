/* conv_i8_i8 with AVX-VNNI, the 256-bit dot product of client processors: 6 pixels x 32 channels in two passes, 4 inputs
 * a step. As the AVX-512 kernel: the u8 operand is the activation.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define TILE bsk_conv_i8_i8_avxvnni
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1)
#define VECTOR __m256i
#define ELEMENT int32_t
#define LANES 8
#define PASS 16
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define START(p, lane) LOAD(tile->base[p] + (lane))
#define STORE(at, sum) _mm256_storeu_si256((__m256i *)(void *)(at), sum)
#define WEIGHTS(w) const __m256i w0 = LOAD(w), w1 = LOAD((w) + 32);
#define STEP(p)                                  \
  {                                              \
    int32_t quad;                                \
    memcpy(&quad, x##p + 4 * i, 4);              \
    const __m256i v = _mm256_set1_epi32(quad);   \
    a##p = _mm256_dpbusd_avx_epi32(a##p, v, w0); \
    b##p = _mm256_dpbusd_avx_epi32(b##p, v, w1); \
  }
#include "tile.inl"
