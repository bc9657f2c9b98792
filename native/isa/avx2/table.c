/* A table of 256 bytes with AVX2: vpshufb looks up 16 entries of it, and gives 0 where an index is negative.
 *
 * Index x (0..127) goes down by 16 from one 16 entries to the next; T_i xor T_(i - 1) add up (xor) to T_h for h = x / 16, as everything from h + 1
 * on sees a negative index. Saturation keeps it negative. The other 128 entries likewise, by x - 128.
 */
#include "plain/plain.h"
#include <immintrin.h>

#define UNROLL _Pragma("GCC unroll 8")

typedef struct {
  __m256i entries[16];
} differences;

/* 32 * `vectors` bytes, a constant where this is inlined. */
BSK_INLINE void look_up(uint8_t *dst, const uint8_t *src, const differences *t, const int vectors) {
  const __m256i down = _mm256_set1_epi8(16), half = _mm256_set1_epi8(-128);
  __m256i found[4], index[4];
  UNROLL for (int v = 0; v < vectors; ++v) {
    found[v] = _mm256_setzero_si256();
    index[v] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(const void *)(src + 32 * v)), half);
  }
  for (int i = 0; i < 16; ++i) {
    if (i == 8) UNROLL for (int v = 0; v < vectors; ++v) index[v] = _mm256_loadu_si256((const __m256i *)(const void *)(src + 32 * v));
    const __m256i entries = t->entries[i];
    UNROLL for (int v = 0; v < vectors; ++v) {
      found[v] = _mm256_xor_si256(found[v], _mm256_shuffle_epi8(entries, index[v]));
      index[v] = _mm256_subs_epi8(index[v], down);
    }
  }
  UNROLL for (int v = 0; v < vectors; ++v) _mm256_storeu_si256((__m256i *)(void *)(dst + 32 * v), found[v]);
}

void bsk_table_avx2(uint8_t *dst, const uint8_t *src, size_t n, const uint8_t *table) {
  differences t;
  for (int i = 0; i < 16; ++i) {
    const __m128i here = _mm_loadu_si128((const __m128i *)(const void *)(table + 16 * i));
    const __m128i before = i % 8 ? _mm_loadu_si128((const __m128i *)(const void *)(table + 16 * i - 16)) : _mm_setzero_si128();
    t.entries[i] = _mm256_broadcastsi128_si256(_mm_xor_si128(here, before));
  }
  size_t i = 0;
  for (; i + 128 <= n; i += 128) look_up(dst + i, src + i, &t, 4);
  for (; i + 32 <= n; i += 32) look_up(dst + i, src + i, &t, 1);
  for (; i < n; ++i) dst[i] = table[src[i] ^ 0x80u];
}
