/* conv_i8_i8 with AVX2: 6 pixels x 32 channels in two passes, 2 inputs a step as int16; 3 pixels or fewer in one pass.
 *
 * pmaddubsw would saturate for full-range int8 (2 * 255 * 127 > 32767), so activations and weights are int16 and
 * pmaddwd sums pairs exactly: 16 MACs an operation, 2 a cycle. At most 12 accumulators, 2 or 4 weights and an input.
 */
#include "conv_i8_i8/conv_i8_i8.h"
#include <immintrin.h>

#define LOAD(at) _mm256_loadu_si256((const __m256i *)(const void *)(at))
#define UNROLL _Pragma("GCC unroll 8")

/* `n` pixels x 8 * `vectors` channels from `first` on; both are constants where this is inlined. */
BSK_INLINE void block(const bsk_tile *tile, int32_t *acc, int first, const int n, const int vectors) {
  const size_t run = (size_t)tile->run, row_bytes = tile->row_bytes;
  __m256i sum[6][4];
  const char *x[6];
  UNROLL for (int p = 0; p < n; ++p) {
    x[p] = (const char *)tile->px[p];
    UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = LOAD(tile->base[p] + first + 8 * v);
  }
  const char *w = (const char *)tile->weights + 4 * first;
  for (int r = tile->kh; r > 0; --r) {
    for (size_t i = 0; i < run; ++i, w += 4 * BSK_GROUP) {
      __m256i weights[4];
      UNROLL for (int v = 0; v < vectors; ++v) weights[v] = LOAD(w + 32 * v);
      UNROLL for (int p = 0; p < n; ++p) {
        int32_t pair;
        memcpy(&pair, x[p] + 4 * i, 4);
        const __m256i both = _mm256_set1_epi32(pair);
        UNROLL for (int v = 0; v < vectors; ++v) sum[p][v] = _mm256_add_epi32(sum[p][v], _mm256_madd_epi16(both, weights[v]));
      }
    }
    UNROLL for (int p = 0; p < n; ++p) x[p] += row_bytes;
  }
  UNROLL for (int p = 0; p < n; ++p) UNROLL for (int v = 0; v < vectors; ++v)
      _mm256_storeu_si256((__m256i *)(void *)(acc + p * BSK_GROUP + first + 8 * v), sum[p][v]);
}

void bsk_conv_i8_i8_avx2(const bsk_tile *tile, void *acc) {
  int32_t *out = (int32_t *)acc;
  switch (tile->n) {
    case 1:
      block(tile, out, 0, 1, 4);
      break;
    case 2:
      block(tile, out, 0, 2, 4);
      break;
    case 3:
      block(tile, out, 0, 3, 4);
      break;
    case 4:
      block(tile, out, 0, 4, 2), block(tile, out, 16, 4, 2);
      break;
    case 5:
      block(tile, out, 0, 5, 2), block(tile, out, 16, 5, 2);
      break;
    default:
      block(tile, out, 0, 6, 2), block(tile, out, 16, 6, 2);
  }
}
