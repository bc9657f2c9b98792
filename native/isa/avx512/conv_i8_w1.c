/* Signs to +/-1 by a mask blend (one operation for 64 weights). */
#include "conv_i8_w1/conv_i8_w1.h"
#include <immintrin.h>

void bsk_unpack_i8_avx512(const void *masks, void *weights, size_t steps) {
  const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
  const char *m = (const char *)masks;
  char *w = (char *)weights;
  for (size_t i = 0; i < 2 * steps; ++i) {
    uint64_t bits;
    memcpy(&bits, m + 8 * i, 8);
    _mm512_storeu_si512(w + 64 * i, _mm512_mask_blend_epi8((__mmask64)bits, plus, minus));
  }
}
