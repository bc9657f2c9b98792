/* conv_i8_i8 with AVX2 on bytes: 5 pixels x 32 channels in two passes, 8 inputs at a time; 2 pixels or fewer in one pass.
 *
 * vpmaddubsw multiplies u = q + 128 with int8 weights and sums pairs in int16, vpaddw sums two of those (`fours`), vpmaddwd by ones sums pairs in
 * int32: 5 operations for 64 MACs, or 6 without vpaddw (`pairs`), where int16 take 8. An int16 holds s = u0 w0 + u1 w1 + u4 w4 + u5 w5, or its
 * first half (and likewise 2, 3, 6, 7):
 * 1. |s| <= (u0 + u1 + u4 + u5) * W, where W is the layer's largest |w| (found when constants are packed).
 * 2. So it is exact where these inputs sum to 32767 / W at most: 258 for W = 127.
 * 3. Eights of which four, or two, sum to more are marked when rows are copied. Behind a relu they are few: what the tile computed of one is
 *    taken away, and its exact sum is added.
 *    u = (u & 127) + (u & 128): pairs of both fit int16 for any u and w, for 127 * 2 * 128 < 2^15 and 128 * 2 * 127 < 2^15.
 * 4. A tile takes fours where that mends at most one eight in 64, else pairs, and where half are marked for pairs too, everything is summed so.
 * At most 10 accumulators, 2 inputs, 2 sums and the ones; weights stay in memory.
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

/* Fours of `n` pixels x 8 * `vectors` channels from `first` on; both are constants where this is inlined. */
BSK_INLINE void block_of_fours(const bsk_tile *tile, int32_t *acc, int first, const int n, const int vectors) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i sum[5][4];
  const char *x[5];
  UNROLL for (int p = 0; p < n; ++p) {
    x[p] = (const char *)tile->px[p];
    UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = LOAD(tile->base[p] + first + 8 * v);
  }
  const char *w = (const char *)tile->weights + 4 * first;
  for (int r = tile->kh; r > 0; --r) {
    for (size_t i = 0; i < run; i += 2, w += 2 * STEP_BYTES) UNROLL for (int p = 0; p < n; ++p) {
        const __m256i u = quad(x[p] + 4 * i), next = quad(x[p] + 4 * i + 4);
        __m256i fours[4];
        UNROLL for (int v = 0; v < vectors; ++v) fours[v] = pairs_of(u, w + 32 * v);
        UNROLL for (int v = 0; v < vectors; ++v) fours[v] = _mm256_add_epi16(fours[v], pairs_of(next, w + STEP_BYTES + 32 * v));
        UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(fours[v], ones));
      }
    UNROLL for (int p = 0; p < n; ++p) x[p] += row_bytes;
  }
  UNROLL for (int p = 0; p < n; ++p) UNROLL for (int v = 0; v < vectors; ++v)
      _mm256_storeu_si256((__m256i *)(void *)(acc + p * BSK_GROUP + first + 8 * v), sum[p][v]);
}

static void five_pixels(const bsk_tile *tile, int32_t *acc) {
  switch (tile->n) {
    case 1:
      block_of_fours(tile, acc, 0, 1, 4);
      break;
    case 2:
      block_of_fours(tile, acc, 0, 2, 4);
      break;
    case 3:
      block_of_fours(tile, acc, 0, 3, 2), block_of_fours(tile, acc, 16, 3, 2);
      break;
    case 4:
      block_of_fours(tile, acc, 0, 4, 2), block_of_fours(tile, acc, 16, 4, 2);
      break;
    default:
      block_of_fours(tile, acc, 0, 5, 2), block_of_fours(tile, acc, 16, 5, 2);
  }
}

/* Any four u: their lower 7 bits, then their highest ones. */
BSK_INLINE __m256i exact(__m256i u, const char *w) {
  const __m256i ones = _mm256_set1_epi16(1), low = pairs_of(_mm256_and_si256(u, _mm256_set1_epi8(127)), w);
  return _mm256_add_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(pairs_of(_mm256_and_si256(u, _mm256_set1_epi8(-128)), w), ones));
}

/* Any values: a pixel x 32 channels. */
static void block_exact(const bsk_tile *tile, int32_t *acc, int p) {
  const char *x = (const char *)tile->px[p], *w = (const char *)tile->weights;
  __m256i sum[4];
  UNROLL for (int v = 0; v < 4; ++v) sum[v] = LOAD(tile->base[p] + 8 * v);
  for (int r = tile->kh; r > 0; --r, x += tile->row_bytes)
    for (size_t i = 0; i < (size_t)tile->run; ++i, w += STEP_BYTES) {
      const __m256i u = quad(x + 4 * i);
      UNROLL for (int v = 0; v < 4; ++v) sum[v] = _mm256_add_epi32(sum[v], exact(u, w + 32 * v));
    }
  UNROLL for (int v = 0; v < 4; ++v) _mm256_storeu_si256((__m256i *)(void *)(acc + p * BSK_GROUP + 8 * v), sum[v]);
}

/* Eight inputs of a pixel anew. */
static void mend(int32_t *acc, const char *x, const char *w, int fours) {
  const __m256i u = quad(x), next = quad(x + 4), ones = _mm256_set1_epi16(1);
  for (int v = 0; v < 4; ++v, acc += 8, w += 32) {
    const __m256i p = pairs_of(u, w), q = pairs_of(next, w + STEP_BYTES);
    const __m256i wrong = fours ? _mm256_madd_epi16(_mm256_add_epi16(p, q), ones) : _mm256_add_epi32(_mm256_madd_epi16(p, ones), _mm256_madd_epi16(q, ones));
    const __m256i right = _mm256_add_epi32(exact(u, w), exact(next, w + STEP_BYTES));
    _mm256_storeu_si256((__m256i *)(void *)acc, _mm256_add_epi32(LOAD(acc), _mm256_sub_epi32(right, wrong)));
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

#define FOURS UINT64_C(0x0f0f0f0f0f0f0f0f) /* the marks of sums of four; those of pairs are above them */

static void mend_marked(const bsk_tile *tile, int32_t *acc, int fours) {
  const size_t bytes = (size_t)tile->run / 8;
  for (int p = 0; p < tile->n; ++p)
    for (int r = 0; r < tile->kh; ++r)
      for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t found = marks(marks_of(tile, p, r) + i, bytes - i);
        for (uint64_t left = (fours ? found : found >> 4) & FOURS; left; left &= left - 1) {
          const size_t bit = (size_t)__builtin_ctzll(left), step = 8 * (i + bit / 8) + 2 * (bit % 8);
          mend(acc + p * BSK_GROUP, (const char *)tile->px[p] + (size_t)r * tile->row_bytes + 4 * step,
               (const char *)tile->weights + ((size_t)r * (size_t)tile->run + step) * STEP_BYTES, fours);
        }
      }
}

void bsk_conv_i8_i8_avx2_bytes(const bsk_tile *tile, void *acc) {
  int32_t *out = (int32_t *)acc;
  const size_t bytes = (size_t)tile->run / 8;
  int64_t fours = 0, pairs = 0;
  for (int p = 0; p < tile->n && tile->marks; ++p)
    for (int r = 0; r < tile->kh; ++r)
      for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t found = marks(marks_of(tile, p, r) + i, bytes - i);
        if (found) fours += _mm_popcnt_u64(found & FOURS), pairs += _mm_popcnt_u64(found & ~FOURS);
      }
  const int64_t eights = (int64_t)tile->n * tile->kh * tile->run / 2;
  if (2 * pairs > eights) {
    for (int p = 0; p < tile->n; ++p) block_exact(tile, out, p);
  } else if (64 * fours > eights) {
    six_pixels(tile, out);
    if (pairs) mend_marked(tile, out, 0);
  } else {
    five_pixels(tile, out);
    if (fours) mend_marked(tile, out, 1);
  }
}

/* 32 channels: q + 128, and their marks. */
BSK_INLINE uint8_t copy_marked(uint8_t *dst, __m256i q, __m256i most) {
  const __m256i u = _mm256_xor_si256(q, _mm256_set1_epi8(-128)), two = _mm256_maddubs_epi16(u, _mm256_set1_epi8(1));
  const __m256i four = _mm256_add_epi16(two, _mm256_slli_epi64(two, 32)), above = _mm256_cmpgt_epi16(four, most); /* in the upper halves */
  _mm256_storeu_si256((__m256i *)(void *)dst, u);
  const int fours = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_or_si256(above, _mm256_slli_epi64(above, 16))));
  if (!fours) return 0; /* so no pair is either */
  const __m256i each = _mm256_cmpgt_epi16(two, most), any = _mm256_or_si256(each, _mm256_slli_epi64(each, 32));
  return (uint8_t)(fours | _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_or_si256(any, _mm256_slli_epi64(any, 16)))) << 4);
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
