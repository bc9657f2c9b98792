/* conv_bits_w1 with AVX2 by table look-up: 4 pixels x 64 channels, or 8 x 32 in a last odd group, 4 inputs a step.
 *
 * A byte shuffle takes popcount(a xor w) of 4 inputs, at most 4, for 32 channels at once: the activations' nibble a picks the table, the
 * weights' nibbles w index it. A byte has room for two such counts, so the nibbles of a pair of pixels together pick one of 256 tables.
 * 1. x = the bytes of three steps, low + 16 high: each count is at most 12.
 * 2. all += x; top += x >> 4 in words; bytes wrap. After at most 63 steps each pixel's count is at most 252.
 * 3. In a word's upper byte top is the sum of the second pixel's counts, high1; the first one's is low1 = all1 - 16 high1 modulo 256.
 *    In the lower byte low1's own low bits came down: high0 = top0 - 16 low1 and low0 = all0 - 16 high0, modulo 256. No step is masked.
 * 4. These are widened to 16 bits, and those to 32 at the end (or after 259 times).
 * Three steps of a pair and 32 channels take 3 shuffles, 4 adds and a shift for 768 bit-MACs: 96 an operation, where a count a byte has 64.
 * A step of a pair costs two loads more (which table, the table) whatever the channels, so two groups share them.
 * Leans on vpshufb (2 a cycle since Zen 2 and Ice Lake) and on broadcasts of 16 bytes, which cost a load only.
 */
#include "conv_bits_w1/conv_bits_w1.h"
#include <immintrin.h>

#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define UNROLL _Pragma("GCC unroll 8")
#define KEEP(x) __asm__("" : "+x"(x)); /* sums stay in their registers */
#define PIECE 63                       /* steps until byte sums are full, a multiple of 3 */
#define MAX_WIDENED 259                /* 260 * 252 fits 16 bits */
#define MAX_TILE 16                    /* pixels */

#define BITS4(n) (((n) & 1) + ((n) >> 1 & 1) + ((n) >> 2 & 1) + ((n) >> 3 & 1))
#define BOTH(a, b, w) (uint8_t)(BITS4((a) ^ (w)) + 16 * BITS4((b) ^ (w)))
#define TABLE(a, b)                                                                                                                                     \
  BOTH(a, b, 0), BOTH(a, b, 1), BOTH(a, b, 2), BOTH(a, b, 3), BOTH(a, b, 4), BOTH(a, b, 5), BOTH(a, b, 6), BOTH(a, b, 7), BOTH(a, b, 8), BOTH(a, b, 9), \
      BOTH(a, b, 10), BOTH(a, b, 11), BOTH(a, b, 12), BOTH(a, b, 13), BOTH(a, b, 14), BOTH(a, b, 15)
#define TABLES(b)                                                                                                                                 \
  TABLE(0, b), TABLE(1, b), TABLE(2, b), TABLE(3, b), TABLE(4, b), TABLE(5, b), TABLE(6, b), TABLE(7, b), TABLE(8, b), TABLE(9, b), TABLE(10, b), \
      TABLE(11, b), TABLE(12, b), TABLE(13, b), TABLE(14, b), TABLE(15, b)
static const _Alignas(64) uint8_t differing[16 * 256] = {TABLES(0), TABLES(1), TABLES(2),  TABLES(3),  TABLES(4),  TABLES(5),  TABLES(6),  TABLES(7),
                                                         TABLES(8), TABLES(9), TABLES(10), TABLES(11), TABLES(12), TABLES(13), TABLES(14), TABLES(15)};

/* Where the tables of `n` steps of a pair of pixels lie; rows hold 16 * nibble. */
BSK_INLINE void places(uint16_t *to, const uint8_t *first, const uint8_t *second, size_t n) {
  if (n < 16) {
    for (size_t k = 0; k < n; ++k) to[k] = (uint16_t)(first[k] + 16 * second[k]);
    return;
  }
  for (size_t k = 0; k < n; k = k + 16 < n && k + 32 > n ? n - 16 : k + 16) { /* the last sixteen may overlap those before */
    const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)(first + k)), b = _mm_loadu_si128((const __m128i *)(const void *)(second + k));
    const __m256i both = _mm256_cvtepu8_epi16(_mm_or_si128(_mm_srli_epi16(a, 4), b));
    _mm256_storeu_si256((__m256i *)(void *)(to + k), _mm256_slli_epi16(both, 4));
  }
}

/* Byte sums to 16-bit ones, as unpack orders them: channels 0..7 and 16..23, then 8..15 and 24..31. */
BSK_INLINE void widen(uint16_t *sums, __m256i bytes, int fresh) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i low = _mm256_unpacklo_epi8(bytes, zero), high = _mm256_unpackhi_epi8(bytes, zero);
  __m256i *at = (__m256i *)(void *)sums;
  if (!fresh) low = _mm256_add_epi16(low, _mm256_load_si256(at)), high = _mm256_add_epi16(high, _mm256_load_si256(at + 1));
  _mm256_store_si256(at, low);
  _mm256_store_si256(at + 1, high);
}

/* `n` steps, at most 3, from step k on. */
BSK_INLINE void add_steps(__m256i (*all)[2], __m256i (*top)[2], const uint16_t (*place)[PIECE + 1], const uint8_t *w, size_t group_bytes, size_t k,
                          const int pairs, const int groups, const int n) {
  UNROLL for (int p = 0; p < pairs; ++p) {
    __m256i x[2];
    UNROLL for (int i = 0; i < n; ++i) {
      const __m256i t = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)(differing + place[p][k + (size_t)i])));
      UNROLL for (int g = 0; g < groups; ++g) {
        const __m256i found = _mm256_shuffle_epi8(t, LOAD(w + BSK_GROUP * i + (size_t)g * group_bytes));
        x[g] = i == 0 ? found : _mm256_add_epi8(x[g], found);
      }
    }
    UNROLL for (int g = 0; g < groups; ++g) {
      all[p][g] = _mm256_add_epi8(all[p][g], x[g]);
      KEEP(all[p][g])
      top[p][g] = _mm256_add_epi8(top[p][g], _mm256_srli_epi16(x[g], 4));
      KEEP(top[p][g])
    }
  }
}

/* `steps` steps, at most PIECE, of pairs of pixels and groups of 32 channels into 16-bit sums [pixel][group][32]. */
BSK_INLINE void piece(uint16_t *sums, const uint16_t (*place)[PIECE + 1], const uint8_t *w, size_t group_bytes, size_t steps, const int pairs, const int groups,
                      int fresh) {
  __m256i all[4][2], top[4][2];
  UNROLL for (int p = 0; p < pairs; ++p) UNROLL for (int g = 0; g < groups; ++g) all[p][g] = top[p][g] = _mm256_setzero_si256();
  size_t k = 0;
  for (; k + 3 <= steps; k += 3, w += 3 * BSK_GROUP) add_steps(all, top, place, w, group_bytes, k, pairs, groups, 3);
  if (k + 2 == steps) add_steps(all, top, place, w, group_bytes, k, pairs, groups, 2);
  if (k + 1 == steps) add_steps(all, top, place, w, group_bytes, k, pairs, groups, 1);
  const __m256i upper = _mm256_set1_epi16((short)0xff00), low_nibble = _mm256_set1_epi16(0x00f0), nibbles = _mm256_set1_epi8((char)0xf0);
  UNROLL for (int p = 0; p < pairs; ++p) UNROLL for (int g = 0; g < groups; ++g) {
    const __m256i high1 = _mm256_and_si256(top[p][g], upper), low1 = _mm256_sub_epi8(all[p][g], _mm256_slli_epi16(high1, 4));
    const __m256i high = _mm256_sub_epi8(top[p][g], _mm256_and_si256(_mm256_srli_epi16(low1, 4), low_nibble));
    const __m256i low = _mm256_sub_epi8(all[p][g], _mm256_and_si256(_mm256_slli_epi16(high, 4), nibbles));
    widen(sums + (2 * p * groups + g) * BSK_GROUP, low, fresh);
    widen(sums + ((2 * p + 1) * groups + g) * BSK_GROUP, high, fresh);
  }
}

/* out = from - 2 * sums for 32 channels. */
BSK_INLINE void subtract(int32_t *out, const int32_t *from, const uint16_t *sums) {
  for (int h = 0; h < 2; ++h) {
    const __m256i x = _mm256_load_si256((const __m256i *)(const void *)(sums + 16 * h));
    const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1));
    _mm256_storeu_si256((__m256i *)(void *)(out + 8 * h), _mm256_sub_epi32(LOAD(from + 8 * h), _mm256_slli_epi32(low, 1)));
    _mm256_storeu_si256((__m256i *)(void *)(out + 8 * h + 16), _mm256_sub_epi32(LOAD(from + 8 * h + 16), _mm256_slli_epi32(high, 1)));
  }
}

const bsk_special bsk_two_groups = {.step_align = 1, .line = 1, .groups = 2};

BSK_INLINE void collect(const bsk_tile *tile, int32_t *out, const uint16_t *sums, const int groups, int started) {
  for (int p = 0; p < tile->n; ++p)
    for (int g = 0; g < groups; ++g) {
      const int at = (p * groups + g) * BSK_GROUP;
      subtract(out + at, started ? out + at : tile->base[p] + g * BSK_GROUP, sums + at);
    }
}

/* The weights of a piece stay in the first-level cache while all pixels of the tile go through them. */
BSK_INLINE void tile_of(const bsk_tile *tile, int32_t *out, const int pairs, const int groups) {
  _Alignas(32) uint16_t sums[MAX_TILE * 2 * BSK_GROUP];
  _Alignas(32) uint16_t place[4][PIECE + 1];
  const uint8_t *w = (const uint8_t *)tile->weights;
  const size_t run = (size_t)tile->run, pieces = (run + PIECE - 1) / PIECE, even = ((run + pieces - 1) / pieces + 2) / 3 * 3;
  int widened = 0, started = 0; /* whether `out` holds a part of the sum already */
  for (int r = 0; r < tile->kh; ++r)
    for (size_t i = 0; i < run; i += even) {
      const size_t steps = run - i < even ? run - i : even, from = (size_t)r * tile->row_bytes + i;
      for (int p = 0; p < tile->n; p += 2 * pairs) {
        for (int j = 0; j < pairs; ++j) places(place[j], (const uint8_t *)tile->px[p + 2 * j] + from, (const uint8_t *)tile->px[p + 2 * j + 1] + from, steps);
        piece(sums + p * groups * BSK_GROUP, (const uint16_t (*)[PIECE + 1]) place, w, tile->group_bytes, steps, pairs, groups, widened == 0);
      }
      w += BSK_GROUP * steps;
      if (++widened == MAX_WIDENED) {
        collect(tile, out, sums, groups, started);
        widened = 0, started = 1;
      }
    }
  if (widened) collect(tile, out, sums, groups, started);
}

void bsk_conv_bits_w1_avx2(const bsk_tile *tile, void *acc) {
  if (tile->groups == 2)
    tile_of(tile, (int32_t *)acc, 2, 2);
  else
    tile_of(tile, (int32_t *)acc, 4, 1);
}
