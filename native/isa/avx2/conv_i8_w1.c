/* 1-bit weights x int8 with AVX2: 6 pixels x 32 channels in two passes, 4 inputs a step.
 *
 * 1. pmaddubsw of u8 activations and +/-1 sums pairs: at most 2 * 255 in absolute value.
 * 2. 64 of them stay within int16 (64 * 510 = 32640), so int16 sums are widened after at most 64 steps.
 */
#include "conv_i8_w1/conv_i8_w1.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3) X(4) X(5)
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define MAX_STEPS 64

void bsk_unpack_i8_avx2(const void *masks, void *weights, size_t steps) {
  const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull), one = _mm256_set1_epi8(1);
  const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
  const char *m = (const char *)masks;
  char *w = (char *)weights;
  for (size_t i = 0; i < 4 * steps; ++i) {
    int32_t word;
    memcpy(&word, m + 4 * i, 4);
    const __m256i set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(word), spread), bit);
    const __m256i minus = _mm256_cmpeq_epi8(set, bit); /* -1 where the bit is 1 */
    _mm256_storeu_si256((__m256i *)(void *)(w + 32 * i), _mm256_or_si256(minus, one));
  }
}

BSK_INLINE void widen(int32_t *sum, __m256i pairs) {
  const __m256i words = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  _mm256_storeu_si256((__m256i *)(void *)sum, _mm256_add_epi32(LOAD(sum), words));
}

void bsk_conv_i8_w1_avx2(const bsk_tile *tile, void *acc) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  const __m256i zero = _mm256_setzero_si256();
  for (int half = 0; half < 2; ++half) {
    const int first = 16 * half;
    int32_t *out = (int32_t *)acc + first;
#define DECLARE(p)                              \
  __m256i a##p = zero, b##p = zero;             \
  const char *x##p = (const char *)tile->px[p]; \
  memcpy(out + p * BSK_GROUP, tile->base[p] + first, 16 * sizeof *out);
    PIXELS(DECLARE)
    const char *w = (const char *)tile->weights + 4 * first;
    size_t room = MAX_STEPS;
    for (int r = tile->kh; r > 0; --r) {
      for (size_t i = 0; i < run;) {
        const size_t stop = run - i < room ? run : i + room;
        room -= stop - i;
        for (; i < stop; ++i, w += 4 * BSK_GROUP) {
          const __m256i w0 = LOAD(w), w1 = LOAD(w + 32);
#define STEP(p)                                                 \
  {                                                             \
    int32_t quad;                                               \
    memcpy(&quad, x##p + 4 * i, 4);                             \
    const __m256i v = _mm256_set1_epi32(quad);                  \
    a##p = _mm256_add_epi16(a##p, _mm256_maddubs_epi16(v, w0)); \
    b##p = _mm256_add_epi16(b##p, _mm256_maddubs_epi16(v, w1)); \
  }
          PIXELS(STEP)
        }
        if (room == 0) {
#define WIDEN(p)                                                          \
  widen(out + p * BSK_GROUP, a##p), widen(out + p * BSK_GROUP + 8, b##p); \
  a##p = b##p = zero;
          PIXELS(WIDEN)
          room = MAX_STEPS;
        }
      }
#define NEXT_ROW(p) x##p += row_bytes;
      PIXELS(NEXT_ROW)
    }
    PIXELS(WIDEN)
  }
}
