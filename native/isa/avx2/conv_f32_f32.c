/* conv_f32_f32 with AVX2 and FMA: 6 pixels x 32 channels in two passes of 16; 12 accumulators hide the latency. */
#include "conv_f32_f32/conv_f32_f32.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)

void bsk_conv_f32_f32_avx2(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
#define DECLARE(p)                                \
  __m256 a##p = _mm256_setzero_ps(), b##p = a##p; \
  const char *x##p = (const char *)tile->px[p];
    PIXELS(DECLARE)
    const float *w = (const float *)tile->weights + first;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run; ++i, w += BSK_GROUP) {
        const __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8);
#define STEP(p)                                                                        \
  {                                                                                    \
    const __m256 v = _mm256_broadcast_ss((const float *)(const void *)(x##p + 4 * i)); \
    a##p = _mm256_fmadd_ps(v, w0, a##p);                                               \
    b##p = _mm256_fmadd_ps(v, w1, b##p);                                               \
  }
        PIXELS(STEP)
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    float *out = (float *)acc + first;
#define STORE(p)                               \
  _mm256_storeu_ps(out + p * BSK_GROUP, a##p); \
  _mm256_storeu_ps(out + p * BSK_GROUP + 8, b##p);
    PIXELS(STORE)
  }
}
