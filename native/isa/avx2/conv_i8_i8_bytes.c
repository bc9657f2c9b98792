/* conv_i8_i8 with AVX2 on bytes: 6 pixels x 32 channels in two passes, 4 inputs a step; 3 pixels or fewer in one pass.
 *
 * vpmaddubsw multiplies u = q + 128 with int8 weights and sums pairs in int16, vpmaddwd by ones sums those in int32: 3 operations for 32 MACs,
 * where int16 take 4. A pair is exact where |u0 w0 + u1 w1| <= 32767:
 * 1. |u0 w0 + u1 w1| <= (u0 + u1) * W, where W is the layer's largest |w| (found when constants are packed).
 * 2. So it is exact where u0 + u1 <= 32767 / W: 258 for W = 127, 511 (always) for 7-bit weights.
 * 3. Steps with a larger pair are marked when rows are copied. Behind a relu they are few: what the tile computed of such a step is taken
 *    away, and its exact products, as int16 by vpmaddwd, are added.
 * 4. Where more than one step in 8 of a tile is marked, all its products are int16.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define STEP_BYTES ((size_t)4 * BSK_GROUP)

/* Pairs of u * w, of weights in memory: held in registers they would push accumulators out. */
BSK_INLINE __m256i pairs_of(__m256i u, const char *w) {
  __m256i pairs;
  __asm__("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(u), "m"(*(const __m256i_u *)(const void *)w));
  return pairs;
}

#define PRODUCTS(four, w) _mm256_madd_epi16(pairs_of(four, w), _mm256_set1_epi16(1))
#include "six_pixels.inl"

/* u and w of even places, then of odd ones, as int16 */
BSK_INLINE __m256i exact(__m256i u, __m256i w) {
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(u, _mm256_set1_epi16(255)), _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8));
  return _mm256_add_epi32(even, _mm256_madd_epi16(_mm256_srli_epi16(u, 8), _mm256_srai_epi16(w, 8)));
}

/* Any values: a pixel x 32 channels. */
static void block_exact(const bsk_tile *tile, int32_t *acc, int p) {
  const char *x = (const char *)tile->px[p], *w = (const char *)tile->weights;
  __m256i sum[4];
  UNROLL for (int v = 0; v < 4; ++v) sum[v] = LOAD(tile->base[p] + 8 * v);
  for (int r = tile->kh; r > 0; --r, x += tile->row_bytes)
    for (size_t i = 0; i < (size_t)tile->run; ++i, w += STEP_BYTES) {
      const __m256i u = quad(x + 4 * i);
      UNROLL for (int v = 0; v < 4; ++v) sum[v] = _mm256_add_epi32(sum[v], exact(u, LOAD(w + 32 * v)));
    }
  UNROLL for (int v = 0; v < 4; ++v) _mm256_storeu_si256((__m256i *)(void *)(acc + p * BSK_GROUP + 8 * v), sum[v]);
}

/* Step `i` of a pixel anew. */
static void mend(int32_t *acc, const char *x, const char *w) {
  const __m256i u = quad(x), ones = _mm256_set1_epi16(1);
  for (int v = 0; v < 4; ++v, acc += 8, w += 32) {
    const __m256i weights = LOAD(w), wrong = _mm256_madd_epi16(_mm256_maddubs_epi16(u, weights), ones);
    _mm256_storeu_si256((__m256i *)(void *)acc, _mm256_add_epi32(LOAD(acc), _mm256_sub_epi32(exact(u, weights), wrong)));
  }
}

/* The marks of 64 steps, or of those that are left, from a multiple of 8 on; 8 bytes can be read anywhere. */
BSK_INLINE uint64_t marks(const uint8_t *from, size_t bytes) {
  uint64_t found;
  memcpy(&found, from, 8);
  return bytes >= 8 ? found : found & ((UINT64_C(1) << (8 * bytes)) - 1);
}

BSK_INLINE const uint8_t *marks_of(const bsk_tile *tile, int p, int r) {
  return tile->marks + ((size_t)((const char *)tile->px[p] - (const char *)tile->rows) + (size_t)r * tile->row_bytes) / BSK_MARKED;
}

static int mended(const bsk_tile *tile, int32_t *acc) {
  if (!tile->marks) return 1;
  const size_t bytes = (size_t)tile->run / 8;
  int64_t count = 0;
  for (int p = 0; p < tile->n; ++p)
    for (int r = 0; r < tile->kh; ++r)
      for (size_t i = 0; i < bytes; i += 8) count += _mm_popcnt_u64(marks(marks_of(tile, p, r) + i, bytes - i));
  if (!count) return 1;
  if (8 * count > (int64_t)tile->n * tile->kh * tile->run) return 0;
  for (int p = 0; p < tile->n; ++p)
    for (int r = 0; r < tile->kh; ++r)
      for (size_t i = 0; i < bytes; i += 8)
        for (uint64_t left = marks(marks_of(tile, p, r) + i, bytes - i); left; left &= left - 1) {
          const size_t step = 8 * i + (size_t)__builtin_ctzll(left);
          mend(acc + p * BSK_GROUP, (const char *)tile->px[p] + (size_t)r * tile->row_bytes + 4 * step,
               (const char *)tile->weights + ((size_t)r * (size_t)tile->run + step) * STEP_BYTES);
        }
  return 1;
}

void bsk_conv_i8_i8_avx2_bytes(const bsk_tile *tile, void *acc) {
  int32_t *out = (int32_t *)acc;
  six_pixels(tile, out);
  if (!mended(tile, out))
    for (int p = 0; p < tile->n; ++p) block_exact(tile, out, p);
}

/* 32 channels: q + 128, and a mark for every 4 of which 2 neighbours sum to more than `most`. */
BSK_INLINE uint8_t copy_marked(uint8_t *dst, __m256i q, __m256i most) {
  const __m256i u = _mm256_xor_si256(q, _mm256_set1_epi8(-128)), pairs = _mm256_maddubs_epi16(u, _mm256_set1_epi8(1));
  const __m256i above = _mm256_cmpgt_epi16(pairs, most);
  _mm256_storeu_si256((__m256i *)(void *)dst, u);
  return (uint8_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_or_si256(above, _mm256_slli_epi32(above, 16))));
}

static void rows_marked(uint8_t *dst, uint8_t *to, const int8_t *src, size_t n, int c, int cp, int largest) {
  const __m256i most = _mm256_set1_epi16((int16_t)largest);
  const size_t whole = (size_t)c / 32 * 32, rest = (size_t)c - whole;
  for (size_t p = 0; p < n; ++p, src += c, dst += cp, to += cp / BSK_MARKED) {
    for (size_t i = 0; i < whole; i += 32) to[i / 32] = copy_marked(dst + i, LOAD(src + i), most);
    if (rest) {
      int8_t last[32];
      memset(last, -128, sizeof last);
      memcpy(last, src + whole, rest);
      to[whole / 32] = copy_marked(dst + whole, LOAD(last), most);
    }
  }
}

const bsk_special bsk_bytes_avx2 = {.step_align = BSK_MARKED / 4, .line = 1, .rows_marked = rows_marked};
