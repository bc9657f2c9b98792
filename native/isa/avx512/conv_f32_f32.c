/* conv_f32_f32 with AVX-512: 8 pixels x 32 channels, 16 accumulators (8 would hide the 4-cycle latency of 2 FMAs). */
#include "conv_f32_f32/conv_f32_f32.h"
#include <immintrin.h>

#define TILE bsk_conv_f32_f32_avx512
#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define VECTORS(X, p) X(p, a, 0) X(p, b, 1)
#define VECTOR __m512
#define ELEMENT float
#define LANES 16
#define PASS 32
#define START(p, lane) _mm512_setzero_ps()
#define STORE(at, sum) _mm512_storeu_ps(at, sum)
#define WEIGHTS(w) const __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps((w) + 64);
#define STEP(p)                             \
  {                                         \
    float value;                            \
    memcpy(&value, x##p + 4 * i, 4);        \
    const __m512 v = _mm512_set1_ps(value); \
    a##p = _mm512_fmadd_ps(v, w0, a##p);    \
    b##p = _mm512_fmadd_ps(v, w1, b##p);    \
  }
#include "tile.inl"
