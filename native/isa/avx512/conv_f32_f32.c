/* conv_f32_f32 with AVX-512: 8 pixels x 32 channels, 16 accumulators (8 would hide the 4-cycle latency of 2 FMAs). */
#include "conv_f32_f32/conv_f32_f32.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

void bsk_conv_f32_f32_avx512(const bsk_tile *tile, void *acc) {
#define DECLARE(p)                                \
  __m512 a##p = _mm512_setzero_ps(), b##p = a##p; \
  const char *x##p = (const char *)tile->px[p];
  PIXELS(DECLARE)
  const float *w = (const float *)tile->weights;
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int r = tile->kh; r > 0; --r) {
    for (size_t i = 0; i < run; ++i) {
      const __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps(w + 16);
      w += BSK_GROUP;
#define STEP(p)                             \
  {                                         \
    float value;                            \
    memcpy(&value, x##p + 4 * i, 4);        \
    const __m512 v = _mm512_set1_ps(value); \
    a##p = _mm512_fmadd_ps(v, w0, a##p);    \
    b##p = _mm512_fmadd_ps(v, w1, b##p);    \
  }
      PIXELS(STEP)
    }
#define NEXT_ROW(p) x##p += row_bytes;
    PIXELS(NEXT_ROW)
  }
  float *out = (float *)acc;
#define STORE(p)                               \
  _mm512_storeu_ps(out + p * BSK_GROUP, a##p); \
  _mm512_storeu_ps(out + p * BSK_GROUP + 16, b##p);
  PIXELS(STORE)
}
