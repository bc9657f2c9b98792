/* conv_f32_f32 with AVX2 and FMA: 6 pixels x 32 channels in two passes of 16; 12 accumulators hide the latency. */
#include "conv_f32_f32/conv_f32_f32.h"
#include <immintrin.h>

#define TILE bsk_conv_f32_f32_avx2
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1)
#define VECTOR __m256
#define ELEMENT float
#define LANES 8
#define PASS 16
#define START(p, lane) _mm256_setzero_ps()
#define STORE(at, sum) _mm256_storeu_ps(at, sum)
#define FLOATS(at) ((const float *)(const void *)(at))
#define WEIGHTS(w) const __m256 w0 = _mm256_loadu_ps(FLOATS(w)), w1 = _mm256_loadu_ps(FLOATS(w) + 8);
#define STEP(p)                                                 \
  {                                                             \
    const __m256 v = _mm256_broadcast_ss(FLOATS(x##p + 4 * i)); \
    a##p = _mm256_fmadd_ps(v, w0, a##p);                        \
    b##p = _mm256_fmadd_ps(v, w1, b##p);                        \
  }
#include "tile.inl"
