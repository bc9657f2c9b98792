/* conv_bits_w1 with AVX2 by table look-up: 4 pixels x 64 channels (32 in a last odd group), 4 inputs a step.
 *
 * The activation's nibble a picks a table of popcount(a xor w) for the 16 nibbles w; pshufb looks up the nibbles of 32
 * channels (bytes) at once: two pshufb and two adds for 256 bit-MACs, about twice xor + popcount by pshufb. A step of a
 * pixel costs two loads (nibble, table) whatever the channels, so two groups share them: 6 operations for 256 bit-MACs,
 * and pshufb, 2 a cycle since Zen 2 and Ice Lake, bounds it at 256 bit-MACs a cycle (128 on older Intel, 1 a cycle).
 * Byte sums grow by at most 4 a step, so they are widened to 16 bits after at most 63 steps (60 here), and those to 32 at the end (or
 * after 259 times). Rows hold nibble * 16, the table's offset.
 */
#include "conv_bits_w1.h"
#include <immintrin.h>

#define PIXELS(X) X(0) X(1) X(2) X(3)
#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define MAX_WIDENED 259 /* 260 * 252 fits 16 bits, with the last bytes */

#define BITS4(n) (uint8_t)(((n) & 1) + ((n) >> 1 & 1) + ((n) >> 2 & 1) + ((n) >> 3 & 1))
#define TABLE(a)                                                                                                                                             \
  BITS4(a ^ 0), BITS4(a ^ 1), BITS4(a ^ 2), BITS4(a ^ 3), BITS4(a ^ 4), BITS4(a ^ 5), BITS4(a ^ 6), BITS4(a ^ 7), BITS4(a ^ 8), BITS4(a ^ 9), BITS4(a ^ 10), \
      BITS4(a ^ 11), BITS4(a ^ 12), BITS4(a ^ 13), BITS4(a ^ 14), BITS4(a ^ 15)
static const _Alignas(64) uint8_t differing[256] = {TABLE(0), TABLE(1), TABLE(2),  TABLE(3),  TABLE(4),  TABLE(5),  TABLE(6),  TABLE(7),
                                                    TABLE(8), TABLE(9), TABLE(10), TABLE(11), TABLE(12), TABLE(13), TABLE(14), TABLE(15)};

/* Byte sums to int16 ones, as unpack orders them: channels 0..7 and 16..23, then 8..15 and 24..31. */
BSK_INLINE void widen(uint16_t *sums, __m256i bytes) {
  const __m256i zero = _mm256_setzero_si256();
  __m256i *at = (__m256i *)(void *)sums;
  _mm256_store_si256(at, _mm256_add_epi16(_mm256_load_si256(at), _mm256_unpacklo_epi8(bytes, zero)));
  _mm256_store_si256(at + 1, _mm256_add_epi16(_mm256_load_si256(at + 1), _mm256_unpackhi_epi8(bytes, zero)));
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

BSK_INLINE void collect(const bsk_tile *tile, int first, int32_t *out, const uint16_t *sums, int groups, int started) {
  const size_t stride = (size_t)groups * BSK_GROUP;
  for (size_t p = 0; p < 4; ++p)
    for (size_t c = 0; c < stride; c += BSK_GROUP)
      subtract(out + p * stride + c, started ? out + p * stride + c : tile->base[(size_t)first + p] + c, sums + p * stride + c);
}

#define KEEP(x) __asm__("" : "+x"(x)); /* no sums in trees, which take more registers than there are */

/* 4 pixels from `first` on. */
BSK_INLINE void tile_of(const bsk_tile *tile, int first, int32_t *out, int groups) {
  const size_t stride = (size_t)groups * BSK_GROUP;
  _Alignas(32) uint16_t sums[4 * 2 * BSK_GROUP] = {0};
  const uint8_t *w = (const uint8_t *)tile->weights, *v = w + tile->group_bytes;
  const size_t run = (size_t)tile->run;
  /* Even pieces of a row, of whole fours where that is possible: loops of one length are predicted. */
  const size_t pieces = (run + 59) / 60, piece = ((run + pieces - 1) / pieces + 3) / 4 * 4;
  size_t widened = 0;
  int started = 0; /* whether `out` holds a part of the sum already */
#define STEP(p)                                                                                                          \
  {                                                                                                                      \
    const __m256i t = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(const void *)(differing + x##p[k]))); \
    a##p = _mm256_add_epi8(a##p, _mm256_shuffle_epi8(t, one));                                                           \
    KEEP(a##p)                                                                                                           \
    if (groups == 2) {                                                                                                   \
      b##p = _mm256_add_epi8(b##p, _mm256_shuffle_epi8(t, two));                                                         \
      KEEP(b##p)                                                                                                         \
    }                                                                                                                    \
  }
#define STEPS(at)                                                                                   \
  {                                                                                                 \
    const size_t k = at;                                                                            \
    const __m256i one = LOAD(w + BSK_GROUP * k), two = groups == 2 ? LOAD(v + BSK_GROUP * k) : one; \
    PIXELS(STEP)                                                                                    \
  }
#define WIDEN(p)                  \
  widen(sums + p * stride, a##p); \
  if (groups == 2) widen(sums + p * stride + BSK_GROUP, b##p);
  for (int r = 0; r < tile->kh; ++r) {
#define ROW(p) const uint8_t *x##p = (const uint8_t *)tile->px[first + p] + (size_t)r * tile->row_bytes;
    PIXELS(ROW)
    for (size_t i = 0; i < run; i += piece) {
      const size_t steps = run - i < piece ? run - i : piece;
#define DECLARE(p) __m256i a##p = _mm256_setzero_si256(), b##p = a##p;
      PIXELS(DECLARE)
      size_t left = steps;
      for (; left >= 4; left -= 4) {
        STEPS(0) STEPS(1) STEPS(2) STEPS(3) w += 4 * BSK_GROUP, v += 4 * BSK_GROUP;
#define FOUR(p) x##p += 4;
        PIXELS(FOUR)
      }
      for (; left > 0; --left) {
        STEPS(0)
        w += BSK_GROUP, v += BSK_GROUP;
#define ONE(p) x##p += 1;
        PIXELS(ONE)
      }
      PIXELS(WIDEN)
      if (++widened == MAX_WIDENED) {
        collect(tile, first, out, sums, groups, started);
        memset(sums, 0, sizeof sums);
        widened = 0, started = 1;
      }
    }
  }
  collect(tile, first, out, sums, groups, started);
}

void bsk_conv_bits_w1_avx2(const bsk_tile *tile, void *acc) {
  for (int p = 0; p < tile->n; p += 4) {
    if (tile->groups == 2)
      tile_of(tile, p, (int32_t *)acc + p * 2 * BSK_GROUP, 2);
    else
      tile_of(tile, p, (int32_t *)acc + p * BSK_GROUP, 1);
  }
}
