/* conv_i8_w1 with AVX2 by table lookup (lookup.h): 2 pixels x 64 channels, or 4 x 32 in a last odd group.
 *
 * Leans on vpshufb (2 a cycle since Zen 2 and Ice Lake) and broadcasts of 16 bytes, which cost a load only. 4 inputs x 32
 * channels x 1 pixel take 2 shuffles, 2 adds and 6/16 of an operation to widen (6/8, 6/4 where inputs are large): 128 MACs for 4.375
 * operations. Of a shuffle and an add in turns Zen 3 starts 3.1 to 3.4 a cycle, not 4.
 */
#include "conv_i8_w1/conv_i8_w1.h"
#include "conv_i8_w1/lookup.h"
#include <immintrin.h>

#define WIDENED 32 /* steps until 16-bit sums are full: 32 * 2 * 1020 = 65280 */

#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define TABLE(at) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(at)))

/* The empty instruction keeps compilers from summing in trees, which takes more registers than there are. */
#define KEEP(x) __asm__("" : "+x"(x));

/* ---- Tables ------------------------------------------------------------------------------------------------------- */

/* 16 channels of a pixel: 4 tables. `x` holds them in both halves. */
BSK_INLINE void tables(uint8_t *dst, __m256i x) {
  const __m256i low4 = _mm256_set1_epi8(15);
  __m256i twice = _mm256_set1_epi16(257);
  KEEP(twice) /* or compilers shift and add, which takes two of the operations that are short */
  /* Which of a0, a1, a0 + a1 (bytes 0, 1, 3 of a group's 8) an entry adds, then which of a2, a3, a2 + a3 (4, 5, 7). */
  const __m256i first = _mm256_setr_epi8(-1, 0, 1, 3, -1, 0, 1, 3, -1, 0, 1, 3, -1, 0, 1, 3, -1, 8, 9, 11, -1, 8, 9, 11, -1, 8, 9, 11, -1, 8, 9, 11);
  const __m256i second = _mm256_setr_epi8(-1, -1, -1, -1, 4, 4, 4, 4, 5, 5, 5, 5, 7, 7, 7, 7, -1, -1, -1, -1, 12, 12, 12, 12, 13, 13, 13, 13, 15, 15, 15, 15);
  const __m256i lo = _mm256_and_si256(x, low4), hi = _mm256_and_si256(_mm256_srli_epi16(x, 4), low4); /* u = lo + 16 hi */
  const __m256i lo2 = _mm256_mullo_epi16(lo, twice), hi2 = _mm256_mullo_epi16(hi, twice);             /* a0 and a0 + a1 */
  for (int pair = 0; pair < 2; ++pair) {
    const __m256i l = pair ? _mm256_unpackhi_epi16(lo, lo2) : _mm256_unpacklo_epi16(lo, lo2);
    const __m256i h = pair ? _mm256_unpackhi_epi16(hi, hi2) : _mm256_unpacklo_epi16(hi, hi2);
    const __m256i s = _mm256_add_epi8(_mm256_shuffle_epi8(l, first), _mm256_shuffle_epi8(l, second)); /* at most 4 * 15 */
    const __m256i t = _mm256_add_epi8(_mm256_shuffle_epi8(h, first), _mm256_shuffle_epi8(h, second)); /* at most 4 * 15 */
    _mm256_storeu_si256((__m256i *)(void *)(dst + 64 * pair), _mm256_and_si256(s, low4));
    _mm256_storeu_si256((__m256i *)(void *)(dst + 64 * pair + 32), _mm256_add_epi8(t, _mm256_and_si256(_mm256_srli_epi16(s, 4), low4)));
  }
}

BSK_INLINE __m256i shifted(const int8_t *src) { return _mm256_xor_si256(TABLE(src), _mm256_set1_epi8((char)0x80)); }

/* The sum of 16 channels, in two parts. */
BSK_INLINE __m128i parts_of(__m256i x) { return _mm_sad_epu8(_mm256_castsi256_si128(x), _mm_setzero_si128()); }

static int32_t rows_tables(uint8_t *dst, int32_t *sums, const int8_t *src, size_t n, int c, int cp) {
  __m128i peak = _mm_setzero_si128();
  for (size_t p = 0; p < n; ++p, src += c) {
    __m128i sum = _mm_setzero_si128();
    int i = 0;
    for (; i + 32 <= c; i += 32, dst += 256) {
      const __m256i x = shifted(src + i), y = shifted(src + i + 16);
      const __m128i parts = _mm_add_epi32(parts_of(x), parts_of(y)), piece = _mm_add_epi32(parts, _mm_shuffle_epi32(parts, 0x4e));
      tables(dst, x);
      tables(dst + 128, y);
      sum = _mm_add_epi32(sum, piece);
      peak = _mm_max_epi32(peak, piece);
    }
    if (i < cp) { /* fewer than 32 channels left, or none but a step of padding */
      _Alignas(64) uint8_t whole[256];
      int8_t rest[32];
      memset(rest, -128, sizeof rest);
      if (i < c) memcpy(rest, src + i, (size_t)(c - i));
      const __m256i x = shifted(rest), y = shifted(rest + 16);
      const __m128i parts = _mm_add_epi32(parts_of(x), parts_of(y)), piece = _mm_add_epi32(parts, _mm_shuffle_epi32(parts, 0x4e));
      tables(whole, x);
      if (cp - i > 16) tables(whole + 128, y);
      memcpy(dst, whole, 8 * (size_t)(cp - i));
      dst += 8 * (size_t)(cp - i);
      sum = _mm_add_epi32(sum, piece);
      peak = _mm_max_epi32(peak, piece);
    }
    sums[p] = _mm_cvtsi128_si32(sum);
  }
  return _mm_cvtsi128_si32(peak);
}

const bsk_special bsk_lookup_avx2 = {.step_align = 1, .line = 1, .groups = 2, .rows_tables = rows_tables, .low_bits = 4};

/* A byte of two subsets to two bytes: 32 lanes of the first, then of the second. */
void bsk_unpack_subsets_avx2(const void *packed, void *weights, size_t steps) {
  const __m256i low4 = _mm256_set1_epi8(15);
  const char *from = (const char *)packed;
  char *to = (char *)weights;
  for (size_t i = 0; i < steps; ++i, from += BSK_GROUP, to += 2 * BSK_GROUP) {
    const __m256i both = LOAD(from);
    _mm256_storeu_si256((__m256i *)(void *)to, _mm256_and_si256(both, low4));
    _mm256_storeu_si256((__m256i *)(void *)(to + BSK_GROUP), _mm256_and_si256(_mm256_srli_epi16(both, 4), low4));
  }
}

/* ---- Tiles -------------------------------------------------------------------------------------------------------- */

/* Byte sums to 16 bits, added to sums[0..1]: channels 0..7 and 16..23, then 8..15 and 24..31. */
BSK_INLINE void widen(__m256i *sums, __m256i low, __m256i high) {
  const __m256i by = _mm256_set1_epi16(1 | 16 << 8);
  sums[0] = _mm256_add_epi16(sums[0], _mm256_maddubs_epi16(_mm256_unpacklo_epi8(low, high), by));
  sums[1] = _mm256_add_epi16(sums[1], _mm256_maddubs_epi16(_mm256_unpackhi_epi8(low, high), by));
}

/* out = from + 2 * sums for 32 channels; the sums are taken. */
BSK_INLINE void collect(int32_t *out, const int32_t *from, int32_t less, __m256i *sums) {
  const __m256i minus = _mm256_set1_epi32(less);
  for (int h = 0; h < 2; ++h) {
    const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(sums[h])), high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(sums[h], 1));
    sums[h] = _mm256_setzero_si256();
    const __m256i a = _mm256_sub_epi32(LOAD(from + 8 * h), minus), b = _mm256_sub_epi32(LOAD(from + 8 * h + 16), minus);
    _mm256_storeu_si256((__m256i *)(void *)(out + 8 * h), _mm256_add_epi32(a, _mm256_slli_epi32(low, 1)));
    _mm256_storeu_si256((__m256i *)(void *)(out + 8 * h + 16), _mm256_add_epi32(b, _mm256_slli_epi32(high, 1)));
  }
}

/* PIXELS x GROUPS; every name below ends in the pixel and the group. */
#define LOOK(p, g, at, index)                                                       \
  {                                                                                 \
    const __m256i low = TABLE(x##p + 64 * k + at);                                  \
    LOOK_##g(l, p, low, index) const __m256i high = TABLE(x##p + 64 * k + at + 32); \
    LOOK_##g(h, p, high, index)                                                     \
  }
#define LOOK_1(s, p, table, index)                                          \
  s##p##0 = _mm256_add_epi8(s##p##0, _mm256_shuffle_epi8(table, index##0)); \
  KEEP(s##p##0)
#define LOOK_2(s, p, table, index)                                          \
  s##p##0 = _mm256_add_epi8(s##p##0, _mm256_shuffle_epi8(table, index##0)); \
  KEEP(s##p##0)                                                             \
  s##p##1 = _mm256_add_epi8(s##p##1, _mm256_shuffle_epi8(table, index##1)); \
  KEEP(s##p##1)

#define PIXELS2(X) X(0) X(1)
#define PIXELS4(X) X(0) X(1) X(2) X(3)

#define DECLARE2(p)                                                 \
  const uint8_t *x##p = (const uint8_t *)tile->px[first + p] + row; \
  __m256i l##p##0, l##p##1, h##p##0, h##p##1;
#define CLEAR2(p) l##p##0 = l##p##1 = h##p##0 = h##p##1 = _mm256_setzero_si256();
#define FIRST2(p) LOOK(p, 2, 0, a)
#define SECOND2(p) LOOK(p, 2, 16, b)
#define WIDEN2(p) widen(sums[2 * p], l##p##0, h##p##0), widen(sums[2 * p + 1], l##p##1, h##p##1);
#define DECLARE1(p)                                                 \
  const uint8_t *x##p = (const uint8_t *)tile->px[first + p] + row; \
  __m256i l##p##0, h##p##0;
#define CLEAR1(p) l##p##0 = h##p##0 = _mm256_setzero_si256();
#define FIRST1(p) LOOK(p, 1, 0, a)
#define SECOND1(p) LOOK(p, 1, 16, b)
#define WIDEN1(p) widen(sums[p], l##p##0, h##p##0);
#define INDEX2 const __m256i a0 = LOAD(w + 64 * k), a1 = LOAD(v + 64 * k);
#define INDEX2B const __m256i b0 = LOAD(w + 64 * k + 32), b1 = LOAD(v + 64 * k + 32);
#define INDEX1 const __m256i a0 = LOAD(w + 64 * k);
#define INDEX1B const __m256i b0 = LOAD(w + 64 * k + 32);

#define STEP(at, P, G)                 \
  {                                    \
    const size_t k = at;               \
    {                                  \
      INDEX##G PIXELS##P(FIRST##G)     \
    }                                  \
    {                                  \
      INDEX##G##B PIXELS##P(SECOND##G) \
    }                                  \
  }

#define BLOCK(name, P, G)                                                                                                                                     \
  static void name(const bsk_tile *tile, int first, int32_t *out, const size_t interval) {                                                                    \
    const size_t run = (size_t)tile->run;                                                                                                                     \
    const char *w = (const char *)tile->weights, *v = w + tile->group_bytes;                                                                                  \
    __m256i sums[P * G][2];                                                                                                                                   \
    const int32_t *from[P];                                                                                                                                   \
    int32_t less[P], most = 0;                                                                                                                                \
    for (int p = 0; p < P; ++p) {                                                                                                                             \
      from[p] = tile->base[first + p], less[p] = tile->total[first + p];                                                                                      \
      if (less[p] > most) most = less[p];                                                                                                                     \
      for (int g = 0; g < G; ++g) sums[p * G + g][0] = sums[p * G + g][1] = _mm256_setzero_si256();                                                           \
    }                                                                                                                                                         \
    size_t widened = 0;                                                                                                                                       \
    for (int r = 0; r < tile->kh; ++r) {                                                                                                                      \
      const size_t row = (size_t)r * tile->row_bytes;                                                                                                         \
      PIXELS##P(DECLARE##G) for (size_t i = 0; i < run; i += interval) {                                                                                      \
        if (most > 65535 && widened == WIDENED / interval) {                                                                                                  \
          for (int p = 0; p < P; ++p) {                                                                                                                       \
            for (int g = 0; g < G; ++g) collect(out + (p * G + g) * BSK_GROUP, from[p] + g * BSK_GROUP, less[p], sums[p * G + g]);                            \
            from[p] = out + p * G * BSK_GROUP, less[p] = 0;                                                                                                   \
          }                                                                                                                                                   \
          widened = 0;                                                                                                                                        \
        }                                                                                                                                                     \
        ++widened;                                                                                                                                            \
        PIXELS##P(CLEAR##G) const size_t steps = run - i < interval ? run - i : interval;                                                                     \
        size_t left = steps;                                                                                                                                  \
        if (interval == 8 && left == 8) {                                                                                                                     \
          STEP(0, P, G) STEP(1, P, G) STEP(2, P, G) STEP(3, P, G) STEP(4, P, G) STEP(5, P, G) STEP(6, P, G) STEP(7, P, G) w += 64 * 8, v += 64 * 8, left = 0; \
          PIXELS##P(EIGHT)                                                                                                                                    \
        }                                                                                                                                                     \
        for (; interval >= 4 && left >= 4; left -= 4) {                                                                                                       \
          STEP(0, P, G) STEP(1, P, G) STEP(2, P, G) STEP(3, P, G) w += 64 * 4, v += 64 * 4;                                                                   \
          PIXELS##P(FOUR)                                                                                                                                     \
        }                                                                                                                                                     \
        for (; interval < 4 && left >= 2; left -= 2) {                                                                                                        \
          STEP(0, P, G) STEP(1, P, G) w += 64 * 2, v += 64 * 2;                                                                                               \
          PIXELS##P(TWO)                                                                                                                                      \
        }                                                                                                                                                     \
        _Pragma("GCC unroll 1") for (; left > 0; --left) {                                                                                                    \
          STEP(0, P, G) w += 64, v += 64;                                                                                                                     \
          PIXELS##P(ONE)                                                                                                                                      \
        }                                                                                                                                                     \
        PIXELS##P(WIDEN##G)                                                                                                                                   \
      }                                                                                                                                                       \
    }                                                                                                                                                         \
    (void)v;                                                                                                                                                  \
    for (int p = 0; p < P; ++p)                                                                                                                               \
      for (int g = 0; g < G; ++g) collect(out + (p * G + g) * BSK_GROUP, from[p] + g * BSK_GROUP, less[p], sums[p * G + g]);                                  \
  }
#define EIGHT(p) x##p += 64 * 8;
#define FOUR(p) x##p += 64 * 4;
#define TWO(p) x##p += 64 * 2;
#define ONE(p) x##p += 64;

BLOCK(two_by_64, 2, 2)
BLOCK(four_by_32, 4, 1)

/* `interval`: steps until byte sums are full (lookup.h, 5). */
#define ALL(interval)                                                                           \
  if (tile->groups == 2)                                                                        \
    for (int p = 0; p < tile->n; p += 2) two_by_64(tile, p, out + p * 2 * BSK_GROUP, interval); \
  else                                                                                          \
    for (int p = 0; p < tile->n; p += 4) four_by_32(tile, p, out + p * BSK_GROUP, interval);
static void often(const bsk_tile *tile, int32_t *out) { ALL(2) }
static void seldom(const bsk_tile *tile, int32_t *out) { ALL(4) }
static void rarely(const bsk_tile *tile, int32_t *out) { ALL(8) }

void bsk_conv_i8_w1_avx2_lookup(const bsk_tile *tile, void *acc) {
  if (2 * tile->peak < 4096)
    rarely(tile, (int32_t *)acc);
  else if (tile->peak < 4096)
    seldom(tile, (int32_t *)acc);
  else
    often(tile, (int32_t *)acc);
}
