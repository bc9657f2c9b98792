/* conv_bits_w1 with VPOPCNTDQ: output channels in lanes, activation words broadcast, 8 pixels x 32 channels.
 *
 * Leans on vpopcntd (1 a cycle on Intel, port 5; 2 on Zen), vpxord and vpaddd (2 a cycle on Intel, 4 on Zen): three
 * operations for 512 bit-MACs, so at most 341 bit-MACs a cycle on Intel and 683 on Zen 5. There is no horizontal sum.
 * Accumulators are named, not an array: GCC 12 spills arrays.
 */
#include "conv_bits_w1/conv_bits_w1.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)

void bsk_conv_bits_w1_avx512(const bsk_tile *tile, void *acc) {
#define DECLARE(p)                                    \
  __m512i a##p = _mm512_setzero_si512(), b##p = a##p; \
  const char *x##p = (const char *)tile->px[p];
  PIXELS(DECLARE)
  const uint32_t *w = (const uint32_t *)tile->weights;
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  for (int r = tile->kh; r > 0; --r) {
    for (size_t i = 0; i < run; ++i) {
      const __m512i w0 = _mm512_loadu_si512(w), w1 = _mm512_loadu_si512(w + 16);
      w += BSK_GROUP;
#define STEP(p)                                                                  \
  {                                                                              \
    int32_t word;                                                                \
    memcpy(&word, x##p + 4 * i, 4);                                              \
    const __m512i v = _mm512_set1_epi32(word);                                   \
    a##p = _mm512_add_epi32(a##p, _mm512_popcnt_epi32(_mm512_xor_si512(v, w0))); \
    b##p = _mm512_add_epi32(b##p, _mm512_popcnt_epi32(_mm512_xor_si512(v, w1))); \
  }
      PIXELS(STEP)
    }
#define NEXT_ROW(p) x##p += row_bytes;
    PIXELS(NEXT_ROW)
  }
  int32_t *out = (int32_t *)acc;
#define STORE(p)                                                                                                             \
  _mm512_storeu_si512(out + p * BSK_GROUP, _mm512_sub_epi32(_mm512_loadu_si512(tile->base[p]), _mm512_slli_epi32(a##p, 1))); \
  _mm512_storeu_si512(out + p * BSK_GROUP + 16, _mm512_sub_epi32(_mm512_loadu_si512(tile->base[p] + 16), _mm512_slli_epi32(b##p, 1)));
  PIXELS(STORE)
}
