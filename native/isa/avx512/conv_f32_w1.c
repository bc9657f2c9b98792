/* Signs to +/-1.0 by mask blends. */
#include "conv_f32_w1/conv_f32_w1.h"
#include <immintrin.h>

void bsk_unpack_f32_avx512(const void *masks, void *weights, size_t steps) {
  const __m512 plus = _mm512_set1_ps(1.0f), minus = _mm512_set1_ps(-1.0f);
  const uint32_t *m = (const uint32_t *)masks;
  float *w = (float *)weights;
  for (size_t i = 0; i < steps; ++i, w += BSK_GROUP) {
    _mm512_storeu_ps(w, _mm512_mask_blend_ps((__mmask16)(m[i] & 0xffffu), plus, minus));
    _mm512_storeu_ps(w + 16, _mm512_mask_blend_ps((__mmask16)(m[i] >> 16), plus, minus));
  }
}
