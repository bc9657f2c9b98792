/* Signs to +/-1.0: the bit moved to the sign of 1.0. */
#include "conv_f32_w1/conv_f32_w1.h"
#include <immintrin.h>

void bsk_unpack_f32_avx2(const void *masks, void *weights, size_t steps) {
  const __m256i one = _mm256_castps_si256(_mm256_set1_ps(1.0f)), sign = _mm256_set1_epi32((int)0x80000000u);
  const __m256i up = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24);
  const uint32_t *m = (const uint32_t *)masks;
  float *w = (float *)weights;
  for (size_t i = 0; i < steps; ++i)
    for (int part = 0; part < 4; ++part, w += 8) {
      const __m256i bits = _mm256_sllv_epi32(_mm256_set1_epi32((int)(m[i] >> (8 * part))), up);
      _mm256_storeu_ps(w, _mm256_castsi256_ps(_mm256_or_si256(one, _mm256_and_si256(bits, sign))));
    }
}
